"""Speed beside rivals and the machine's own limit: `python -m benchmarks`, `compare`, `plot`.

A new loss appears by itself, beside those that its declaration says PyTorch and scikit-learn have;
entries in `rivals.NUMPY`, `rivals.TORCH`, `compiled.EXPRESSIONS` and `compiled.OPTAX` add others.
"""
