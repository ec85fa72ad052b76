"""Speed beside NumPy, PyTorch, scikit-learn and the machine's own limit: `python -m benchmarks`.

A new loss appears by itself, beside PyTorch's of the same name; one entry in `rivals.RIVALS` gives
it the other opponents.
"""
