"""Score a padded batch of sequences: logits (B, T, V), and labels (B, T) with -100 to skip."""

import numpy as np

import fastloss as fl

rng = np.random.default_rng(0)
B, T, V = 8, 128, 5000
logits = rng.normal(scale=3, size=(B, T, V)).astype(np.float32)
labels = logits.argmax(axis=-1)
labels[:, ::4] = rng.integers(V, size=(B, T // 4))  # a quarter of the tokens is surprising
lengths = rng.integers(T // 4, T + 1, size=B)
labels[np.arange(T) >= lengths[:, None]] = -100  # padding

# (B, T), and exactly 0 where the label is skipped
losses = fl.cross_entropy(logits, labels, ignore_index=-100, reduction="none")
perplexity = np.exp(losses.sum(axis=1) / lengths)
for length, score in zip(lengths, perplexity, strict=True):
    print(f"{length:3} tokens, perplexity {score:.1f}")
