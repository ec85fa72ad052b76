# One instruction set's module (setup.py makes one of each): the losses' mathematics, the drivers
# that call them, and what the module exports: BLOCKS, {name: address of the loss's block function},
# and DRIVERS, the address of its table of drivers.
from libc.math cimport (
    INFINITY, NAN, copysign, copysignf, fabs, fabsf, floor, sqrt, sqrtf)
from libc.stdint cimport int32_t, int64_t
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
include "rows.pxi"
include "terms.pxi"
include "scores.pxi"


cdef void elementwise_f32(fl_call* c, Py_ssize_t r, fl_workspace* ws) noexcept nogil:
    elementwise(c, r, ws, <float>0)


cdef void elementwise_f64(fl_call* c, Py_ssize_t r, fl_workspace* ws) noexcept nogil:
    elementwise(c, r, ws, <double>0)


cdef void rows_f32(fl_call* c, Py_ssize_t r, fl_workspace* ws) noexcept nogil:
    rows(c, r, ws, <float>0)


cdef void rows_f64(fl_call* c, Py_ssize_t r, fl_workspace* ws) noexcept nogil:
    rows(c, r, ws, <double>0)


cdef void terms_f32(fl_call* c, Py_ssize_t r, fl_workspace* ws) noexcept nogil:
    terms(c, r, ws, <float>0)


cdef void terms_f64(fl_call* c, Py_ssize_t r, fl_workspace* ws) noexcept nogil:
    terms(c, r, ws, <double>0)


cdef void weigh_f32(fl_call* c, Py_ssize_t r, fl_workspace* ws) noexcept nogil:
    weigh(c, r, ws, <float>0)


cdef void weigh_f64(fl_call* c, Py_ssize_t r, fl_workspace* ws) noexcept nogil:
    weigh(c, r, ws, <double>0)


cdef void tile_sums_f32(fl_call* c, Py_ssize_t r, fl_workspace* ws) noexcept nogil:
    tile_sums(c, r, ws, <float>0)


cdef void tile_sums_f64(fl_call* c, Py_ssize_t r, fl_workspace* ws) noexcept nogil:
    tile_sums(c, r, ws, <double>0)


cdef void tiles_f32(fl_call* c, Py_ssize_t r, fl_workspace* ws) noexcept nogil:
    tiles(c, r, ws, <float>0)


cdef void tiles_f64(fl_call* c, Py_ssize_t r, fl_workspace* ws) noexcept nogil:
    tiles(c, r, ws, <double>0)


cdef void scores_f32(fl_call* c, Py_ssize_t r, fl_workspace* ws) noexcept nogil:
    scores(c, r, ws, <float>0)


cdef void scores_f64(fl_call* c, Py_ssize_t r, fl_workspace* ws) noexcept nogil:
    scores(c, r, ws, <double>0)


cdef fl_drivers table
table.elementwise[0] = elementwise_f32
table.elementwise[1] = elementwise_f64
table.rows[0] = rows_f32
table.rows[1] = rows_f64
table.terms[0] = terms_f32
table.terms[1] = terms_f64
table.weigh[0] = weigh_f32
table.weigh[1] = weigh_f64
table.tile_sums[0] = tile_sums_f32
table.tile_sums[1] = tile_sums_f64
table.tiles[0] = tiles_f32
table.tiles[1] = tiles_f64
table.scores[0] = scores_f32
table.scores[1] = scores_f64
DRIVERS = <size_t>&table
