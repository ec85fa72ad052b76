# Divergences between distributions (elementwise.pxi says how they are written).


cdef inline void kl_div_at(
        T z, T y, T a, const double* k, T* loss, T* grad, T* hess) noexcept nogil:
    # 0 log 0 = 0, and what has no probability costs nothing where z is -inf.
    cdef T nothing = nan_or_0(z)
    loss[0] = weighed(y, log_any(y) - z) + nothing
    grad[0] = nothing - y
    hess[0] = nothing


cdef inline void kl_div_log_at(
        T z, T y, T a, const double* k, T* loss, T* grad, T* hess) noexcept nogil:
    # exp(y) (y - z), right also where exp(y) alone is no number.
    cdef T zero = 0, nothing = nan_or_0(z)
    loss[0] = nothing if y == -INFINITY else exp_times(y - z, y, zero, zero)
    grad[0] = nothing - exp(y)
    hess[0] = nothing


cdef void kl_div(fl_elements* b) noexcept nogil:
    if b.knobs[0] == 0:
        MAP(b, kl_div_at[float], kl_div_at[double])
    else:
        MAP_FLUSHED(b, kl_div_log_at[float], kl_div_log_at[double])

BLOCKS["kl_div"] = <size_t>&kl_div


cdef inline bint close(T p, T t) noexcept nogil:
    cdef T half = 0.5
    return magnitude(p - t) < half * t


cdef inline void kl_at(T z, T y, T a, const double* k, T* loss, T* grad, T* hess) noexcept nogil:
    # Of probabilities: t log(t / p), and where p is close to t what that is less t - p (which the
    # driver adds up exactly): t (r - log(1 + r)), r = (p - t) / t. 0 log 0 = 0.
    cdef T zero = 0, one = 1, large = <T>18446744073709551616.0, least = <T>1e-30  # 2^64
    cdef T e = z - y, s = e / (z + y), square = s * s
    cdef T near = s * (e - square * atanh_rest(square, y))
    # Neither number may be below the normal ones, nor their quotient above the largest.
    cdef T up = large if y < <T>1e-20 else one, p_up = large if z < least else up
    cdef T log_ratio = log_positive(y * up / (z * p_up))
    cdef T slope = y / z, bend = slope / z
    log_ratio += <T>44.3614195558365 if p_up > up else zero
    loss[0] = near if close(z, y) else weighed(y, log_ratio) + nan_or_0(z)
    grad[0] = zero if y == 0 else -slope
    hess[0] = zero if y == 0 else bend


cdef void kl_div_with_probs(fl_elements* b) noexcept nogil:
    MAP(b, kl_at[float], kl_at[double])

BLOCKS["kl_div_with_probs"] = <size_t>&kl_div_with_probs
