"""A NumPy training loop whose gradient overwrites its logits: they are allocated once."""

import numpy as np

import fastloss as fl

rng = np.random.default_rng(0)
images = rng.normal(size=(4096, 32)).astype(np.float32)
labels = (images @ rng.normal(size=(32, 10))).argmax(axis=1)

weights = np.zeros((32, 10), np.float32)
logits = np.empty((4096, 10), np.float32)
for step in range(201):
    np.matmul(images, weights, out=logits)
    loss, grad = fl.cross_entropy.value_and_grad(logits, labels, out=logits)  # grad is logits
    weights -= images.T @ grad
    if step % 50 == 0:
        print(f"step {step:3}: loss {loss:.4f}")

accuracy = np.mean((images @ weights).argmax(axis=1) == labels)
print(f"training accuracy {accuracy:.1%}")
