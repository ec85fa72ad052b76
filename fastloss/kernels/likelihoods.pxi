# Likelihoods of a prediction and its scale (elementwise.pxi says how losses are written): z is the
# prediction, y the scale, whose domain is checked, a the target; hess gets the derivative by y.

from libc.math cimport log as libc_log


cdef inline T log_two_pi(T tag, const double* k) noexcept nogil:
    # If the loss is in full, which its first knob says.
    return <T>(k[0] * 1.8378770664093453)


cdef inline void gaussian_nll_at(
        T z, T y, T a, const double* k, T* loss, T* grad, T* hess) noexcept nogil:
    # A variance below eps counts as eps: the loss is constant in it there.
    cdef T zero = 0, one = 1, half = 0.5, eps = <T>k[1]
    cdef T v = eps if y < eps else y, d = z - a, q = d / v
    loss[0] = half * d * q + half * (log_any(v) + log_two_pi(z, k))
    grad[0] = q
    # d q or q^2: the one that is in range where the result is.
    hess[0] = zero if y < eps else half * ((one - d * q) / v if v < one else one / v - q * q)


cdef void gaussian_nll(fl_elements* b) noexcept nogil:
    MAP_LOG(b, gaussian_nll_at[float], gaussian_nll_at[double])

BLOCKS["gaussian_nll"] = <size_t>&gaussian_nll


cdef inline void gaussian_nll_with_log_var_at(
        T z, T y, T a, const double* k, T* loss, T* grad, T* hess) noexcept nogil:
    # By w = d exp(-y / 2), whose square is in range where the loss is. The target is the checked
    # operand's neighbour as above: y the logarithm of the variance.
    cdef T zero = 0, half = 0.5, d = z - a, s = -half * y, w = exp_times(d, s, zero, zero)
    loss[0] = half * w * w + half * (y + log_two_pi(z, k))
    grad[0] = exp_times(w, s, zero, zero)
    hess[0] = half - half * w * w


cdef void gaussian_nll_with_log_var(fl_elements* b) noexcept nogil:
    MAP_FLUSHED(b, gaussian_nll_with_log_var_at[float], gaussian_nll_with_log_var_at[double])

BLOCKS["gaussian_nll_with_log_var"] = <size_t>&gaussian_nll_with_log_var


cdef inline void laplace_nll_at(
        T z, T y, T a, const double* k, T* loss, T* grad, T* hess) noexcept nogil:
    # log(2 y): of 2 y while that is a number, so that nothing cancels at 1/2.
    cdef T zero = 0, one = 1, two = 2, log_two = <T>0.6931471805599453, d = z - a
    cdef T r = magnitude(d) / y
    loss[0] = log_any(y if y > one else two * y) + (log_two if y > one else zero) + r
    grad[0] = sign(d) / y
    hess[0] = (one - r) / y


cdef void laplace_nll(fl_elements* b) noexcept nogil:
    MAP_LOG(b, laplace_nll_at[float], laplace_nll_at[double])

BLOCKS["laplace_nll"] = <size_t>&laplace_nll


cdef double log_gamma_ratio(double x) noexcept nogil:
    # log(gamma(x + 1/2) / gamma(x)) for x > 0: its asymptotic series, from 16 on; below by
    # gamma(x + 1) = x gamma(x).
    cdef double above = 1, below = 1, r
    while x < 16:
        above *= x
        below *= x + 0.5
        x += 1
    r = 1 / (x * x)
    return 0.5 * libc_log(x) + libc_log(above / below) - (
        1 / 8.0 - r * (1 / 192.0 - r * (1 / 640.0 - r * (17 / 14336.0 - r * (
            31 / 18432.0 - r * (691 / 180224.0)))))) / x


cdef inline void student_t_nll_at(
        T z, T y, T a, const double* k, T* loss, T* grad, T* hess) noexcept nogil:
    # k: df, the constant, sqrt(df), (df + 1) / sqrt(df). With u = d / (y sqrt(df)); beyond 2^60
    # (2^200) 1 + u^2 is u^2, whose logarithm is 2 log(u).
    cdef T zero = 0, one = 1, two = 2, n = <T>(k[0] + 1), root_df = <T>k[2], constant = <T>k[1]
    cdef T d = z - a, u = d / y / root_df, m = magnitude(u), square = u * u
    cdef T beyond = <T>1152921504606846976 if T is float else <T>1.6069380442589903e60
    cdef T far = two * log_positive(m if m > beyond else one)
    cdef T near = log1p(zero if m > beyond else square)
    cdef T part = one / (u + one / u) if m > one else u / (one + square)  # u / (1 + u^2)
    cdef T share = one / (one + one / square) if m > one else square / (one + square)
    loss[0] = constant + log_any(y) + <T>0.5 * n * (far if m > beyond else near)
    grad[0] = <T>k[3] * part / y
    hess[0] = (one - n * share) / y


cdef void student_t_nll(fl_elements* b) noexcept nogil:
    cdef double[4] k
    cdef double df = b.knobs[0]
    cdef fl_elements own = b[0]
    k[0] = df
    # log(sqrt(df pi) gamma(df / 2) / gamma((df + 1) / 2))
    k[1] = 0.5 * libc_log(df) + 0.5723649429247001 - log_gamma_ratio(0.5 * df)
    k[2] = sqrt(df)
    k[3] = (df + 1) / k[2]
    own.knobs = k
    MAP_LOG(&own, student_t_nll_at[float], student_t_nll_at[double])

BLOCKS["student_t_nll"] = <size_t>&student_t_nll
