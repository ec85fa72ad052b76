"""The compiled kernels, one module per instruction set, and the choice between them.

The first of ISAS that is built and that this processor and operating system can run is used;
`FASTLOSS_ISA` forces one, and importing fails where it can't be had. A loss's block function is
`kernels.NAME`, as an address.
"""

import os
from importlib import import_module
from importlib.util import find_spec

from fastloss.kernels import _cpu

ISAS = ("avx512", "avx2", "baseline")


def _refusal(isa: str) -> str | None:
    """Why this instruction set can't be used here, or None."""
    if find_spec(f"{__name__}.{isa}") is None:
        return "was not built (the compiler lacks it, or this is another architecture)"
    if not _cpu.supports(isa):
        return "is not supported by this processor and operating system"
    return None


available: tuple[str, ...] = tuple(name for name in ISAS if _refusal(name) is None)
isa: str = os.environ.get("FASTLOSS_ISA") or (available or ("baseline",))[0]
if isa not in ISAS:
    raise ImportError(f"FASTLOSS_ISA={isa!r}: expected one of {', '.join(reversed(ISAS))}")
if (_why := _refusal(isa)) is not None:
    _others = ", ".join(available) or "none"
    raise ImportError(f"FASTLOSS_ISA={isa!r}: it {_why}; available: {_others}")

_module = import_module(f"{__name__}.{isa}")
DRIVERS: int = _module.DRIVERS
BUILD: dict[str, str] = _cpu.build()


def __getattr__(name: str) -> int:
    try:
        return int(_module.BLOCKS[name])
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
