# T, the arithmetic type of a kernel, and src/vecmath.h for either. The build makes every `inline` of
# these modules always_inline: gcc would share one clone of a loss that computes what a loop drops.

ctypedef fused T:
    float
    double

cdef extern from "vecmath.h" nogil:
    float fl_exp_nonpositive_f32(float)
    double fl_exp_nonpositive_f64(double)
    float fl_log1p_unit_f32(float)
    double fl_log1p_unit_f64(double)
    double fl_log_f64(double)
    double fl_log1p_f64(double)
    float fl_product_low_f32(float, float, float)
    double fl_product_low_f64(double, double, double)


cdef inline T exp_nonpositive(T x) noexcept nogil:
    if T is float:
        return fl_exp_nonpositive_f32(x)
    else:
        return fl_exp_nonpositive_f64(x)


cdef inline T log1p_unit(T u) noexcept nogil:
    if T is float:
        return fl_log1p_unit_f32(u)
    else:
        return fl_log1p_unit_f64(u)


cdef inline T product_low(T a, T b, T product) noexcept nogil:
    if T is float:
        return fl_product_low_f32(a, b, product)
    else:
        return fl_product_low_f64(a, b, product)


cdef inline T magnitude(T x) noexcept nogil:
    return -x if x < 0 else x


cdef inline T positive_part(T x) noexcept nogil:
    return <T>0 if x < 0 else x  # nan passes


cdef inline T weighed(T weight, T x) noexcept nogil:
    # weight x, with 0 inf = 0: what has no weight costs nothing.
    return <T>0 if weight == 0 and x == <T>INFINITY else weight * x
