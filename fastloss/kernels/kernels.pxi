# One instruction set's module: the losses' mathematics, the drivers that call them, and what the
# module exports: BLOCKS, {name: address of the loss's block function}, and DRIVERS, the address of
# its table of drivers.
from libc.math cimport INFINITY, NAN, fabs, fabsf, floor, sqrt, sqrtf
from libc.stdint cimport int64_t
from libc.string cimport memset

from fastloss.kernels.call cimport *

BLOCKS: dict[str, int] = {}

include "vecmath.pxi"
include "elementwise.pxi"
include "regression.pxi"
include "counts.pxi"
include "binary.pxi"
include "multiclass.pxi"
include "distributions.pxi"
include "drivers.pxi"
