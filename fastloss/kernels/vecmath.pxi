# T, the arithmetic type of a kernel, and src/*.h for either. The build makes every `inline` of
# these modules always_inline: gcc would share one clone of a loss that computes what a loop drops.

ctypedef fused T:
    float
    double

cdef extern from "vecmath.h" nogil:
    double FL_UNSCALE_f32
    double FL_UNSCALE_f64
    float fl_exp_nonpositive_f32(float)
    double fl_exp_nonpositive_f64(double)
    float fl_expm1_nonpositive_f32(float)
    double fl_expm1_nonpositive_f64(double)
    double FL_HALFWAY_f32
    double FL_HALFWAY_f64
    float fl_exp_scaled_f32(float)
    double fl_exp_scaled_f64(double)
    float fl_exp_f32(float)
    double fl_exp_f64(double)
    float fl_exp_times_f32(float, float, float, float)
    double fl_exp_times_f64(double, double, double, double)
    float fl_exp_times_moderate_f32(float, float, float)
    double fl_exp_times_moderate_f64(double, double, double)
    float fl_log1p_scaled_f32(float, float)
    double fl_log1p_scaled_f64(double, double)
    float fl_log1p_unit_f32(float)
    double fl_log1p_unit_f64(double)
    float fl_log_pair_f32(float, float, float*)
    double fl_log_pair_f64(double, double, double*)
    float fl_log_sum_f32(float, float)
    double fl_log_sum_f64(double, double)
    float fl_log_f32(float)
    double fl_log_f64(double)
    float fl_log1p_f32(float)
    double fl_log1p_f64(double)
    float fl_minus_log1p_f32(float)
    double fl_minus_log1p_f64(double)
    float fl_minus_log_f32(float, float, float)
    double fl_minus_log_f64(double, double, double)
    float fl_exp_excess_f32(float)
    double fl_exp_excess_f64(double)
    float fl_log_cosh_unit_f32(float)
    double fl_log_cosh_unit_f64(double)
    float fl_atanh_rest_f32(float, float)
    double fl_atanh_rest_f64(double, double)
    double fl_exp_brief(double)
    double fl_log_brief(double, double)
    float fl_product_low_f32(float, float, float)
    double fl_product_low_f64(double, double, double)

cdef extern from "lanes.h" nogil:
    enum:
        FL_ADDS
    void fl_highest_f32(const float*, Py_ssize_t, float*)
    void fl_highest_f64(const double*, Py_ssize_t, double*)
    float fl_highest_of_all_f32(const float*, Py_ssize_t)
    double fl_highest_of_all_f64(const double*, Py_ssize_t)
    float fl_copy_highest_f32(float*, const float*, Py_ssize_t)
    double fl_copy_highest_f64(double*, const double*, Py_ssize_t)
    void fl_exponentials_f32(bint, float*, const float*, Py_ssize_t, const float*, const float*,
                             double*, double*, const char*, const char*)
    void fl_exponentials_f64(bint, double*, const double*, Py_ssize_t, const double*, const double*,
                             double*, double*, const char*, const char*)
    void fl_distances_f32(const float*, const float*, Py_ssize_t, const float*, double*, double*,
                          const char*)
    void fl_distances_f64(const double*, const double*, Py_ssize_t, const double*, double*, double*,
                          const char*)
    void fl_cross_f32(const float*, const float*, Py_ssize_t, const float*, const float*,
                      double*, const char*)
    void fl_kl_terms_f32(const float*, const float*, const float*, Py_ssize_t, const float*,
                         const float*, const float*, const float*, const float*, double*)
    void fl_cap_f32(float*, Py_ssize_t, double)
    void fl_uncap_f32(bint, const float*, Py_ssize_t, double, float*, float*)
    void fl_difference_f32(const float*, const float*, Py_ssize_t, float, float, float, float*)
    void fl_take_out_f32(float*, Py_ssize_t, const float*, float*, float*)
    void fl_less_f32(float*, const float*, Py_ssize_t, const float*)
    void fl_add_up_f32(const float*, Py_ssize_t, double*)
    void fl_add_exactly_f32(const float*, Py_ssize_t, double*)
    void fl_ratios_f32(bint, float*, float*, const float*, const float*, const float*, const float*,
                       Py_ssize_t, const float*, const float*, const float*, const float*,
                       const float*, const float*, const float*)
    void fl_shares_f32(float*, const float*, Py_ssize_t, const float*, const float*,
                       const float*)
    void fl_spread_f32(bint, const float*, Py_ssize_t, const float*, const float*,
                       const float*, const float*, const float*, float, float*, float*)
    void fl_cross_f64(const double*, const double*, Py_ssize_t, const double*, const double*,
                      double*, const char*)
    void fl_kl_terms_f64(const double*, const double*, const double*, Py_ssize_t, const double*,
                         const double*, const double*, const double*, const double*, double*)
    void fl_cap_f64(double*, Py_ssize_t, double)
    void fl_uncap_f64(bint, const double*, Py_ssize_t, double, double*, double*)
    void fl_difference_f64(const double*, const double*, Py_ssize_t, double, double, double,
                           double*)
    void fl_take_out_f64(double*, Py_ssize_t, const double*, double*, double*)
    void fl_less_f64(double*, const double*, Py_ssize_t, const double*)
    void fl_add_up_f64(const double*, Py_ssize_t, double*)
    void fl_add_exactly_f64(const double*, Py_ssize_t, double*)
    void fl_ratios_f64(bint, double*, double*, const double*, const double*, const double*,
                       const double*, Py_ssize_t, const double*, const double*, const double*,
                       const double*, const double*, const double*, const double*)
    void fl_shares_f64(double*, const double*, Py_ssize_t, const double*, const double*,
                       const double*)
    void fl_spread_f64(bint, const double*, Py_ssize_t, const double*, const double*,
                       const double*, const double*, const double*, double, double*, double*)
    float fl_part_sums_f32(bint, bint, const float*, Py_ssize_t, float, float*, const char*)
    void fl_add_part_f32(const float*, double*)
    void fl_argmax_f32(const float*, Py_ssize_t, float*, float*)
    void fl_next_f32(const float*, Py_ssize_t, const float*, const float*, float*, float*)
    void fl_above_f32(const float*, Py_ssize_t, const float*, float*)
    void fl_nans_f32(const float*, Py_ssize_t, float*, const char*)
    Py_ssize_t fl_all_above_f32(const float*, Py_ssize_t, float)
    Py_ssize_t fl_find_f32(const float*, Py_ssize_t, float)
    double fl_part_sums_f64(bint, bint, const double*, Py_ssize_t, double, double*, const char*)
    void fl_add_part_f64(const double*, double*)
    void fl_argmax_f64(const double*, Py_ssize_t, double*, double*)
    void fl_next_f64(const double*, Py_ssize_t, const double*, const double*, double*, double*)
    void fl_above_f64(const double*, Py_ssize_t, const double*, double*)
    void fl_nans_f64(const double*, Py_ssize_t, double*, const char*)
    Py_ssize_t fl_all_above_f64(const double*, Py_ssize_t, double)
    Py_ssize_t fl_find_f64(const double*, Py_ssize_t, double)
    double fl_settled(double*, double)
    enum:
        FL_LOGS
    void fl_join(double*, double*, Py_ssize_t)
    void fl_factors_f32(Py_ssize_t, bint, const double*, const double*, const double*,
                        const double*, const double*, double, double, double,
                        float*, float*, float*, float*, float*, float*, float*, float*,
                        float*, float*)
    void fl_scaled_f32(bint, bint, const float*, Py_ssize_t, const float*, const float*,
                       const float*, const float*, const float*, const float*,
                       const float*, const float*, const float*, float*, float*)
    void fl_factors_f64(Py_ssize_t, bint, const double*, const double*, const double*,
                        const double*, const double*, double, double, double,
                        double*, double*, double*, double*, double*, double*, double*, double*,
                        double*, double*)
    void fl_scaled_f64(bint, bint, const double*, Py_ssize_t, const double*, const double*,
                       const double*, const double*, const double*, const double*,
                       const double*, const double*, const double*, double*, double*)


cdef inline T exp_nonpositive(T x) noexcept nogil:
    if T is float:
        return fl_exp_nonpositive_f32(x)
    else:
        return fl_exp_nonpositive_f64(x)


cdef inline T halfway(T tag) noexcept nogil:
    return <T>FL_HALFWAY_f32 if T is float else <T>FL_HALFWAY_f64


cdef inline T exp_halfway(T x) noexcept nogil:
    # exp(x) / halfway, never subnormal.
    if T is float:
        return fl_exp_scaled_f32(x) * <float>FL_HALFWAY_f32
    else:
        return fl_exp_scaled_f64(x) * FL_HALFWAY_f64


cdef inline T exp(T x) noexcept nogil:
    if T is float:
        return fl_exp_f32(x)
    else:
        return fl_exp_f64(x)


cdef inline T exp_times(T y, T x, T low, T down) noexcept nogil:
    # y exp(x + low) 2^-down, of any size.
    if T is float:
        return fl_exp_times_f32(y, x, low, down)
    else:
        return fl_exp_times_f64(y, x, low, down)


cdef inline T exp_times_moderate(T y, T x, T low) noexcept nogil:
    # The same bits of moderate y and x, not scaled down.
    if T is float:
        return fl_exp_times_moderate_f32(y, x, low)
    else:
        return fl_exp_times_moderate_f64(y, x, low)


cdef inline T log1p_scaled(T u, T v) noexcept nogil:
    if T is float:
        return fl_log1p_scaled_f32(u, v)
    else:
        return fl_log1p_scaled_f64(u, v)


cdef inline T expm1_nonpositive(T x) noexcept nogil:
    if T is float:
        return fl_expm1_nonpositive_f32(x)
    else:
        return fl_expm1_nonpositive_f64(x)


cdef inline T log1p_unit(T u) noexcept nogil:
    if T is float:
        return fl_log1p_unit_f32(u)
    else:
        return fl_log1p_unit_f64(u)


cdef inline T log_pair(T m, T c, T* low) noexcept nogil:
    # log(m + c), and in low what its rounding lost.
    if T is float:
        return fl_log_pair_f32(m, c, low)
    else:
        return fl_log_pair_f64(m, c, low)


cdef inline T log_sum(T m, T c) noexcept nogil:
    # log(m + c) for normal m > 0, c what rounding m lost.
    if T is float:
        return fl_log_sum_f32(m, c)
    else:
        return fl_log_sum_f64(m, c)


cdef inline T log_positive(T x) noexcept nogil:
    # log(x) for x >= 0.
    if T is float:
        return fl_log_f32(x)
    else:
        return fl_log_f64(x)


cdef inline T log_scaled(bint finite, T x) noexcept nogil:
    # Below 1e-30 x may be no normal number: the logarithm of 2^64 x is taken.
    cdef T zero = 0, one = 1, least = <T>1e-30, large = <T>18446744073709551616.0
    cdef T log_large = <T>44.3614195558365, y = x * (large if x < least else one)
    return (log_sum(y, zero) if finite else log_positive(y)) - (log_large if x < least else zero)


cdef inline T log_any(T x) noexcept nogil:
    # log(x) for x >= 0.
    return log_scaled(False, x)


cdef inline T log_finite(T x) noexcept nogil:
    # log(x) for finite x > 0; any number else.
    return log_scaled(True, x)


cdef inline T log1p_finite(T x) noexcept nogil:
    # log(1 + x) for finite x >= 0; any number else.
    cdef T one = 1, m = one + x
    return log_sum(m, x - (m - one))


cdef inline T log1p(T x) noexcept nogil:
    # log(1 + x) for x >= -1.
    if T is float:
        return fl_log1p_f32(x)
    else:
        return fl_log1p_f64(x)


cdef inline T minus_log1p(T x) noexcept nogil:
    # x - log(1 + x) for x > -1.
    if T is float:
        return fl_minus_log1p_f32(x)
    else:
        return fl_minus_log1p_f64(x)


cdef inline T minus_log(T x, T m, T c) noexcept nogil:
    # x - log(m + c) for m + c = 1 + x > 0.
    if T is float:
        return fl_minus_log_f32(x, m, c)
    else:
        return fl_minus_log_f64(x, m, c)


cdef inline T exp_excess(T x) noexcept nogil:
    # exp(-x) - 1 + x for abs(x) <= 1.
    if T is float:
        return fl_exp_excess_f32(x)
    else:
        return fl_exp_excess_f64(x)


cdef inline T log_cosh_unit(T x) noexcept nogil:
    # log(cosh(x)) for abs(x) <= 1.
    if T is float:
        return fl_log_cosh_unit_f32(x)
    else:
        return fl_log_cosh_unit_f64(x)


cdef inline T atanh_rest(T z, T by) noexcept nogil:
    # (2 atanh(s) / s - 2) by / z, z = s s, for s in [-1/3, 1/3].
    if T is float:
        return fl_atanh_rest_f32(z, by)
    else:
        return fl_atanh_rest_f64(z, by)


cdef inline T root(T x) noexcept nogil:
    if T is float:
        return sqrtf(x)
    else:
        return sqrt(x)


cdef inline T product_low(T a, T b, T product) noexcept nogil:
    if T is float:
        return fl_product_low_f32(a, b, product)
    else:
        return fl_product_low_f64(a, b, product)


cdef inline T with_sign(T x, T sign) noexcept nogil:
    if T is float:
        return copysignf(x, sign)
    else:
        return copysign(x, sign)


cdef inline T magnitude(T x) noexcept nogil:
    if T is float:
        return fabsf(x)
    else:
        return fabs(x)


cdef inline T sign(T x) noexcept nogil:
    # -1, 0, 1 or nan.
    return <T>1 if x > 0 else (<T>-1 if x < 0 else x)


cdef inline T nan_or_0(T x) noexcept nogil:
    return x if x != x else <T>0


cdef inline T positive_part(T x) noexcept nogil:
    # One instruction; 0 for nan, which must come by another way.
    return x if x > 0 else <T>0


cdef inline T weighed(T weight, T x) noexcept nogil:
    # weight x, with 0 inf = 0: what has no weight costs nothing.
    return <T>0 if weight == 0 else weight * x
