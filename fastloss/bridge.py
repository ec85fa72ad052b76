"""The way in for tensors of other libraries that NumPy does not take as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastloss._gate import readable
from fastloss._general import FLOATS

if TYPE_CHECKING:
    import torch


def from_torch(tensor: torch.Tensor) -> NDArray[Any]:
    """Return a PyTorch tensor's memory as an array, without a copy; bfloat16 too.

    Parameters
    ----------
    tensor : torch.Tensor
        On the CPU, of any strides; of float16, bfloat16, float32, float64, integers or bool. One
        that requires a gradient is detached: nothing that is done to the array is recorded.

    Returns
    -------
    ndarray
        Of the tensor's shape and strides; it keeps the memory alive. What is written to either, is
        in both: as `out` it has a loss write a tensor's gradient.

    Raises
    ------
    TypeError
        For what is not a tensor, and for other dtypes.
    ValueError
        For a tensor that is not on the CPU, or not dense.
    ImportError
        For bfloat16 without the package ml_dtypes, which has NumPy's dtype of that name.

    Notes
    -----
    ``tensor.numpy()``, ``np.asarray`` and ``np.from_dlpack`` refuse bfloat16, which is no dtype of
    NumPy's own. ``pip install fastloss[torch]`` installs what is needed. Back again goes
    ``torch.from_numpy``, for bfloat16 ``torch.from_numpy(a.view(np.int16)).view(torch.bfloat16)``.

    Examples
    --------
    A linear layer's gradient, written where PyTorch looks for it::

        logits = hidden @ weight  # bfloat16
        logits.grad = torch.empty_like(logits)
        loss = fl.cross_entropy.value_and_grad(
            fl.from_torch(logits), fl.from_torch(labels), out=fl.from_torch(logits.grad)
        )[0]
    """
    import torch

    if not isinstance(tensor, torch.Tensor):
        raise TypeError(f"from_torch: tensor: expected a torch.Tensor, got {type(tensor)}")
    if tensor.device.type != "cpu":
        raise ValueError(
            f"from_torch: tensor: expected one on the CPU, got one on {tensor.device}; copy it "
            "with tensor.cpu()"
        )
    if tensor.layout != torch.strided:
        raise ValueError(
            f"from_torch: tensor: expected a dense one, got {tensor.layout}; copy it with "
            "tensor.to_dense()"
        )
    detached = tensor.detach()
    if tensor.dtype == torch.bfloat16:
        try:
            import ml_dtypes
        except ImportError as error:
            raise ImportError(
                "from_torch: tensor: bfloat16 needs the package ml_dtypes: "
                "pip install fastloss[torch]"
            ) from error
        return np.asarray(detached.view(torch.int16).numpy()).view(ml_dtypes.bfloat16)
    try:
        array = np.asarray(detached.numpy())
    except (TypeError, RuntimeError):  # quantised, of 8-bit floats, or a negation not yet done
        array = None
    if array is None or not readable(array.dtype):
        raise TypeError(
            f"from_torch: tensor: expected {FLOATS}, integers or bool in memory as they are, got "
            f"{tensor.dtype}"
        )
    return array
