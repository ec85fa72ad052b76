# Losses of real predictions and real targets (elementwise.pxi says how they are written).


cdef inline T lost(T z, T y, T e) noexcept nogil:
    # abs(z - y) - abs(e), e being z - y rounded; nan where that is infinite.
    cdef T back = e - z, low = (z - (e - back)) - (y + back)
    return low if e > 0 else -low


cdef inline void mse_at(T z, T y, T a, const double* k, T* loss, T* grad, T* hess) noexcept nogil:
    cdef T e = z - y
    loss[0] = e * e
    grad[0] = e + e
    hess[0] = 2


cdef void mse(fl_elements* b) noexcept nogil:
    MAP(b, mse_at[float], mse_at[double])

BLOCKS["mse"] = <size_t>&mse


cdef inline void huber_at(T z, T y, T a, const double* k, T* loss, T* grad, T* hess) noexcept nogil:
    cdef T delta = <T>k[0], e = z - y, c
    c = delta if delta < e else e
    c = -delta if c < -delta else c
    loss[0] = c * (e - c * <T>0.5)
    grad[0] = c
    hess[0] = e if e != e else <T>(e == c)


cdef void huber(fl_elements* b) noexcept nogil:
    MAP(b, huber_at[float], huber_at[double])

BLOCKS["huber"] = <size_t>&huber

cdef inline void half_mse_at(
        T z, T y, T a, const double* k, T* loss, T* grad, T* hess) noexcept nogil:
    cdef T e = z - y
    loss[0] = <T>0.5 * e * e
    grad[0] = e
    hess[0] = e if e != e else <T>1


cdef void half_mse(fl_elements* b) noexcept nogil:
    MAP(b, half_mse_at[float], half_mse_at[double])

BLOCKS["half_mse"] = <size_t>&half_mse


cdef inline void l1_at(T z, T y, T a, const double* k, T* loss, T* grad, T* hess) noexcept nogil:
    cdef T e = z - y
    loss[0] = magnitude(e)
    grad[0] = sign(e)
    hess[0] = nan_or_0(e)


cdef void l1(fl_elements* b) noexcept nogil:
    MAP(b, l1_at[float], l1_at[double])

BLOCKS["l1"] = <size_t>&l1


cdef inline void smooth_l1_at(
        T z, T y, T a, const double* k, T* loss, T* grad, T* hess) noexcept nogil:
    cdef T half = 0.5, beta = <T>k[0], inverse = <T>(1 / k[0]), e = z - y, m = magnitude(e)
    loss[0] = half * e * (e * inverse) if m < beta else m - half * beta
    grad[0] = e * inverse if m < beta else sign(e)
    hess[0] = inverse if m < beta else nan_or_0(e)


cdef void smooth_l1(fl_elements* b) noexcept nogil:
    MAP(b, smooth_l1_at[float], smooth_l1_at[double])

BLOCKS["smooth_l1"] = <size_t>&smooth_l1


# Where sqrt(1 + x^2) overflows it is abs(x), and x divided by it is 1 with x's sign.


cdef inline void pseudo_huber_at(
        T z, T y, T a, const double* k, T* loss, T* grad, T* hess) noexcept nogil:
    # delta^2 (h - 1) is e^2 / (h + 1), which keeps the digits of small residuals.
    cdef T one = 1, delta = <T>k[0], inverse = <T>(1 / k[0]), e = z - y, m = magnitude(e)
    cdef T x = e * inverse, h = root(one + x * x), r = one / h
    loss[0] = delta * (m - delta) if h == <T>INFINITY else e * (e / (one + h))
    grad[0] = with_sign(delta, e) if h == <T>INFINITY else e / h
    hess[0] = r * r * r


cdef void pseudo_huber(fl_elements* b) noexcept nogil:
    MAP(b, pseudo_huber_at[float], pseudo_huber_at[double])

BLOCKS["pseudo_huber"] = <size_t>&pseudo_huber


cdef inline void charbonnier_at(
        T z, T y, T a, const double* k, T* loss, T* grad, T* hess) noexcept nogil:
    cdef T one = 1, eps = <T>k[0], inverse = <T>(1 / k[0]), e = z - y, m = magnitude(e)
    cdef T x = e * inverse, h = root(one + x * x)
    cdef T r = one / (m * inverse if h == <T>INFINITY else h)
    loss[0] = m if h == <T>INFINITY else eps * h
    grad[0] = with_sign(one, e) if h == <T>INFINITY else x / h
    hess[0] = r * (r * (r * inverse))


cdef void charbonnier(fl_elements* b) noexcept nogil:
    MAP(b, charbonnier_at[float], charbonnier_at[double])

BLOCKS["charbonnier"] = <size_t>&charbonnier


cdef inline void log_cosh_at(
        T z, T y, T a, const double* k, T* loss, T* grad, T* hess) noexcept nogil:
    # With u = exp(-2 abs e), w = u - 1: abs(e) - log 2 + log1p(u), -w / (2 + w), 4 u / (1 + u)^2.
    # log 2 is subtracted in two parts, the first short.
    cdef T one = 1, two = 2, e = z - y, m = magnitude(e)
    cdef T high = 0.693145751953125, low = <T>1.42860682030941723212e-6
    cdef T v = exp_halfway(-two * m), u = v * halfway(z), w = expm1_nonpositive(-two * m)
    cdef T t = -w / (two + w), rest = two * lost(z, y, e)
    loss[0] = log_cosh_unit(e) if m < one else (m - high) + (log1p_unit(u) - low)
    grad[0] = t if e > 0 else -t
    v = v - v * rest if m < INFINITY else v  # exp is steep: the rounding of e counts
    hess[0] = <T>4 * (v / (one + u * (two + u))) * halfway(z)


cdef void log_cosh(fl_elements* b) noexcept nogil:
    MAP_FLUSHED(b, log_cosh_at[float], log_cosh_at[double])

BLOCKS["log_cosh"] = <size_t>&log_cosh


cdef inline void fair_at(T z, T y, T a, const double* k, T* loss, T* grad, T* hess) noexcept nogil:
    # Beyond 2^32 (2^64) the logarithm is below the rounding.
    cdef T one = 1, c = <T>k[0], inverse = <T>(1 / k[0]), e = z - y, m = magnitude(e)
    cdef T scaled = m * inverse, r = one / (one + scaled)
    cdef T beyond = <T>4294967296 if T is float else <T>18446744073709551616.0
    loss[0] = c * m if scaled > beyond else c * (c * minus_log1p(scaled))
    grad[0] = c * sign(e) if scaled > beyond else e / (one + scaled)
    hess[0] = r * r


cdef void fair(fl_elements* b) noexcept nogil:
    MAP_LOG(b, fair_at[float], fair_at[double])

BLOCKS["fair"] = <size_t>&fair


cdef inline void cauchy_at(
        T z, T y, T a, const double* k, T* loss, T* grad, T* hess) noexcept nogil:
    # Beyond 2^60 (2^200), where the square may overflow, 1 + x^2 is x^2 and log(x) is
    # log1p(x / 2^32) + 32 log 2 (128 log 2).
    cdef T one = 1, zero = 0, half = 0.5, c = <T>k[0], inverse = <T>(1 / k[0]), e = z - y
    cdef T m = magnitude(e), x = m * inverse
    cdef T beyond = <T>1152921504606846976 if T is float else <T>1.6069380442589903e60
    cdef T shrunk = m * <T>(1 / k[0] / (4294967296.0 if T is float else 3.402823669209385e38))
    cdef T shift = <T>22.18070977791825 if T is float else <T>88.722839111673
    cdef bint large = x > beyond
    cdef T of = shrunk if large else x * x, square = one + of, r = one / square
    cdef T log = log_sum(square, zero) + (of - (square - one)) * r, g = e * r
    log = log if of < INFINITY else of
    loss[0] = c * (c * (log + shift if large else half * log))
    g = c * (c / e) if large else g
    grad[0] = g
    hess[0] = -(g * inverse) * (g * inverse) if large else (one - x) * (one + x) * r * r


cdef void cauchy(fl_elements* b) noexcept nogil:
    MAP_LOG(b, cauchy_at[float], cauchy_at[double])

BLOCKS["cauchy"] = <size_t>&cauchy


cdef inline void quantile_at(
        T z, T y, T a, const double* k, T* loss, T* grad, T* hess) noexcept nogil:
    cdef T under = <T>k[0], over = <T>(1 - k[0]), e = z - y
    loss[0] = (over if e > 0 else under) * magnitude(e)
    grad[0] = over if e > 0 else (-under if e < 0 else e)
    hess[0] = nan_or_0(e)


cdef void quantile(fl_elements* b) noexcept nogil:
    MAP(b, quantile_at[float], quantile_at[double])

BLOCKS["quantile"] = <size_t>&quantile


cdef inline void expectile_at(
        T z, T y, T a, const double* k, T* loss, T* grad, T* hess) noexcept nogil:
    cdef T two = 2, e = z - y
    cdef T w = <T>(1 - k[0]) if e > 0 else <T>k[0]  # from the double, rounded once
    loss[0] = w * e * e
    grad[0] = two * w * e
    hess[0] = e if e != e else two * w


cdef void expectile(fl_elements* b) noexcept nogil:
    MAP(b, expectile_at[float], expectile_at[double])

BLOCKS["expectile"] = <size_t>&expectile


cdef inline T excess(T z, T y, const double* k) noexcept nogil:
    # abs(z - y) - epsilon, also where it cancels: what the roundings of both lost is added.
    cdef T epsilon = <T>k[0], e = z - y, m = magnitude(e)
    cdef T low = lost(z, y, e) - <T>(k[0] - <double>epsilon)
    return (m - epsilon) + (low if m < INFINITY else <T>0)


cdef inline void epsilon_insensitive_at(
        T z, T y, T a, const double* k, T* loss, T* grad, T* hess) noexcept nogil:
    cdef T x = excess(z, y, k)
    loss[0] = <T>0 if x <= 0 else x
    grad[0] = <T>0 if x <= 0 else sign(z - y)
    hess[0] = nan_or_0(x)


cdef void epsilon_insensitive(fl_elements* b) noexcept nogil:
    MAP(b, epsilon_insensitive_at[float], epsilon_insensitive_at[double])

BLOCKS["epsilon_insensitive"] = <size_t>&epsilon_insensitive


cdef inline void squared_epsilon_insensitive_at(
        T z, T y, T a, const double* k, T* loss, T* grad, T* hess) noexcept nogil:
    cdef T x = excess(z, y, k), c = <T>0 if x <= 0 else x
    loss[0] = c * c
    grad[0] = c + c if z > y else -c - c
    hess[0] = <T>2 if c > 0 else c


cdef void squared_epsilon_insensitive(fl_elements* b) noexcept nogil:
    MAP(b, squared_epsilon_insensitive_at[float], squared_epsilon_insensitive_at[double])

BLOCKS["squared_epsilon_insensitive"] = <size_t>&squared_epsilon_insensitive


cdef inline void absolute_percentage_error_at(
        T z, T y, T a, const double* k, T* loss, T* grad, T* hess) noexcept nogil:
    cdef T floor = <T>k[0], e = z - y, m = magnitude(y), d = floor if m < floor else m
    loss[0] = magnitude(e) / d
    grad[0] = sign(e) / d
    hess[0] = nan_or_0(e)


cdef void absolute_percentage_error(fl_elements* b) noexcept nogil:
    MAP(b, absolute_percentage_error_at[float], absolute_percentage_error_at[double])

BLOCKS["absolute_percentage_error"] = <size_t>&absolute_percentage_error


cdef inline void squared_log_error_at(
        T z, T y, T a, const double* k, T* loss, T* grad, T* hess) noexcept nogil:
    # The difference x of the logarithms is log1p(abs(z - y) / (1 + the lesser)), of a quotient that
    # may overflow beyond 2^96 (2^900): there log(quotient / 2^32) + 32 log 2 (128 log 2).
    cdef T one = 1, two = 2, e = magnitude(z - y), d = one + (y if y < z else z)
    cdef T beyond = <T>7.922816251426434e28 if T is float else <T>8.452712498170644e270
    cdef T shrink = <T>2.3283064365386963e-10 if T is float else <T>2.938735877055719e-39
    cdef T shift = <T>22.18070977791825 if T is float else <T>88.722839111673
    cdef bint large = e > beyond * magnitude(d)
    cdef T x = log1p(e * (shrink if large else one) / d) + (shift if large else <T>0)
    cdef T q = one / (one + z)
    loss[0] = x * x
    x = x if z >= y else -x
    x = nan_or_0(x) if z == INFINITY else x  # 1 / (1 + z)^2 outweighs it
    grad[0] = two * q * x
    hess[0] = two * q * (q * (one - x))


cdef void squared_log_error(fl_elements* b) noexcept nogil:
    MAP(b, squared_log_error_at[float], squared_log_error_at[double])

BLOCKS["squared_log_error"] = <size_t>&squared_log_error


cdef inline void multi_quantile_at(
        T z, T y, T a, const double* k, T* loss, T* grad, T* hess) noexcept nogil:
    # Of the level q or, above 1/2, of q - 1 (1 as -0): what is left is rounded once.
    cdef T zero = 0, one = 1, least = magnitude(a), rest = one - least, e = z - y
    cdef T side = with_sign(one, a), under = least if side > zero else rest
    cdef T over = rest if side > zero else least
    loss[0] = (over if e > 0 else under) * magnitude(e)
    grad[0] = over if e > 0 else (-under if e < 0 else e)
    hess[0] = nan_or_0(e)


cdef void multi_quantile(fl_elements* b) noexcept nogil:
    MAP(b, multi_quantile_at[float], multi_quantile_at[double])

BLOCKS["multi_quantile"] = <size_t>&multi_quantile
