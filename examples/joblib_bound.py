"""A bound loss sent to joblib's processes: it is checked once, here, and pickles."""

import numpy as np
from joblib import Parallel, delayed

import fastloss as fl

rng = np.random.default_rng(0)
logits = rng.normal(size=(20_000, 100)).astype(np.float32)
labels = rng.integers(100, size=20_000)

# The processes are the parallelism, so each call takes one thread.
loss = fl.cross_entropy.bind(label_smoothing=0.1, reduction="none", num_threads=1)
chunks = zip(np.array_split(logits, 4), np.array_split(labels, 4), strict=True)
losses = np.concatenate(Parallel(n_jobs=2)(delayed(loss)(z, y) for z, y in chunks))

here = loss(logits, labels)
print(f"mean {losses.mean():.4f}, the same bits as in this process: {np.array_equal(losses, here)}")
