# The kernels for avx2: setup.py gives the flags.
include "kernels.pxi"
