"""What runs here: `show_config`."""

import fastloss
from fastloss import kernels
from fastloss._threads import get_num_threads


def show_config() -> None:
    """Print the instruction set that runs and those available, the threads, the compiler, flags.

    Examples
    --------
    >>> import fastloss as fl
    >>> fl.show_config()  # doctest: +ELLIPSIS
    fastloss        ...
    instruction set ...
    """
    rows = {
        "fastloss": fastloss.__version__,
        "instruction set": f"{kernels.isa} (available: {', '.join(kernels.available)})",
        "threads": str(get_num_threads()),
        "compiler": kernels.BUILD["compiler"],
        "flags": kernels.BUILD["flags"],
    }
    for name, text in rows.items():
        print(f"{name:15} {text}")
