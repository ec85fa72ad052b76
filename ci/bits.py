"""Prints the bits of every loss's results on inputs in a file, which it makes if there is none.

Run on two machines, by the same module, it must print the same: `ci/machines` compares them.
"""

import hashlib
import pickle
import sys
from pathlib import Path

import numpy as np

import fastloss as fl
from samples import LOSSES, inputs, results

path = Path(sys.argv[1])
if not path.exists():  # by NumPy, whose functions have other bits on other processors
    path.write_bytes(
        pickle.dumps(
            [
                (loss.name, dtype, [inputs(loss, *shape) for shape in shapes])
                for loss in LOSSES
                for dtype in ("float16", "float32", "float64")
                for shapes in [[((1500,), dtype, 7), ((40,), dtype, 150), ((2,), dtype, 9000)]]
            ]
        )
    )
for name, dtype, calls in pickle.loads(path.read_bytes()):
    digest = hashlib.sha256()
    for pred, target in calls:
        got = results(fl.losses()[name], "value_grad_hess", pred, target, reduction="none")
        for value in got.values():
            digest.update(np.ascontiguousarray(value).tobytes())
    print(name, dtype, digest.hexdigest())
print("by", fl.kernels.isa)
