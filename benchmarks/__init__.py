"""Speed beside NumPy, PyTorch, scikit-learn and the machine's own limit: `python -m benchmarks`.

A new loss appears by itself, beside those that its declaration says PyTorch and scikit-learn have;
an entry in `rivals.NUMPY` adds NumPy.
"""
