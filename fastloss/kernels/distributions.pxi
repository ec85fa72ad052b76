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
