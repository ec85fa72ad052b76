# The kernels for baseline: setup.py gives the flags.
include "kernels.pxi"
