"""A loss's textbook formula beside the kernel: where the formula runs out of digits, and why."""

import numpy as np

import fastloss as fl

loss = fl.binary_cross_entropy_with_logits
print(loss.name, "=", loss.formula)

pred = np.array([-0.5, -5.0, -20.0, -37.0, -80.0, -300.0])
target = np.zeros_like(pred)
kernel = loss(pred, target, reduction="none")
# log(1 - sigmoid(z)): below z = -37 the difference rounds to 1, and with it goes the loss.
naive = loss.naive(np, pred, target, pos_weight=None, label_smoothing=0.0)

print(f"{'z':>6}{'kernel':>12}{'formula':>12}{'relative error':>16}")
for z, right, plain in zip(pred, kernel, naive, strict=True):
    print(f"{z:6}{right:12.3e}{plain:12.3e}{abs(plain - right) / right:16.1e}")
