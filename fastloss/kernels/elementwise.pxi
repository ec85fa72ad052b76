# How a loss is written, at one point: from the prediction z, the target y, a per-class parameter
# a and the knobs k (in the order of the declaration), the loss, its derivative and its second
# derivative in z. Constants are of type T (Cython's literals are double, which makes a float loop
# half as fast). No branches, so that the loop over a block (MAP, src/call.h) is vectorised; that
# loop drops what is not asked for and applies the scale. MAP_LOG is for losses of log, which their
# derivatives do without: it drops the loss too. So does MAP_FLUSHED, for losses of exp, where
# results that are no normal numbers become 0, and MAP_MODERATE, for those that take a shorter way
# to the same bits, given first, where z and y are neither large nor small (fl_moderate,
# src/vecmath.h) and the knobs allow it. MAP_LABELS is MAP_FLUSHED of the losses of rows and labels,
# in double alone.
# BLOCKS makes the block function known to the declarations. The losses are in the file of their
# family, of the same name as the module of their declarations.

ctypedef void (*at_f32)(
    float, float, float, const double*, float*, float*, float*) noexcept nogil
ctypedef void (*at_f64)(
    double, double, double, const double*, double*, double*, double*) noexcept nogil

cdef extern from "call.h" nogil:
    void MAP "FL_MAP"(fl_elements*, at_f32, at_f64)
    void MAP_LOG "FL_MAP_LOG"(fl_elements*, at_f32, at_f64)
    void MAP_FLUSHED "FL_MAP_FLUSHED"(fl_elements*, at_f32, at_f64)
    void MAP_LABELS "FL_MAP_LABELS"(fl_elements*, at_f64)
    void MAP_MODERATE "FL_MAP_MODERATE"(fl_elements*, bint, at_f32, at_f64, at_f32, at_f64)
