# One instruction set's module: the losses' mathematics, the drivers that call them, and what the
# module exports: BLOCKS, {name: address of the loss's block function}, and DRIVERS, the address of
# its table of drivers.
from libc.math cimport (
    INFINITY, NAN, copysign, copysignf, fabs, fabsf, floor, nextafter, nextafterf, sqrt, sqrtf)
from libc.stdint cimport int64_t
from libc.string cimport memcpy, memset

from fastloss.kernels.call cimport *

BLOCKS: dict[str, int] = {}

include "vecmath.pxi"
include "elementwise.pxi"
include "regression.pxi"
include "counts.pxi"
include "binary.pxi"
include "multiclass.pxi"
include "likelihoods.pxi"
include "embedding.pxi"
include "distributions.pxi"
include "drivers.pxi"
