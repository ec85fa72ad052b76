# Losses of the logarithm z of a mean and a target that is not negative (elementwise.pxi says how
# they are written).
#
# Terms are formed by exp_times, which is right where the exponential alone leaves the range of
# numbers. Where two terms may both overflow, or both vanish, they are taken 2^-64 or 2^64 of, so
# that their difference is right. `moderate`: no term can do either (MAP_MODERATE).

cdef enum:
    DOWN = 64
    FAR = 2000  # exp of it is inf


cdef inline T two_to_down(T tag) noexcept nogil:
    return <T>18446744073709551616.0


cdef inline T exp_near(bint moderate, T y, T x, T low, T down) noexcept nogil:
    return exp_times_moderate(y, x, low) if moderate else exp_times(y, x, low, down)


cdef inline void poisson_of_log(bint full, bint moderate, T z, T y, const double* k,
                                T* loss, T* grad, T* hess) noexcept nogil:
    cdef T zero = 0, one = 1, half = 0.5, far = FAR, large = two_to_down(z), small = one / large
    cdef T log_two_pi = <T>1.8378770664093453
    cdef bint little = (y < 1) & (z > -far)
    cdef T down = <T>DOWN if z > 0 else (-<T>DOWN if little else zero)
    cdef T up = one if moderate else (large if z > 0 else (small if little else one))
    cdef T by = one if moderate else (small if z > 0 else (large if little else one))
    cdef T part = y * by, x = far if z > far and not moderate else z, log_y, rest = zero
    cdef T e = exp_near(moderate, one, z, zero, down)
    if full:
        log_y = log_positive(y if y > 1 else one)
        x -= log_y - one if y > 1 else zero
        rest = half * (log_y + log_two_pi) * by if y > 1 else zero
    loss[0] = (e - (part * x if moderate else weighed(part, x)) + rest) * up
    grad[0] = (e - part) * up
    hess[0] = e * up


cdef inline void poisson_of_mean(bint full, T z, T y, const double* k,
                                 T* loss, T* grad, T* hess) noexcept nogil:
    # The mean is z + eps = m + low: what rounding loses counts where z is near 1, or near -eps.
    cdef T zero = 0, one = 1, half = 0.5, log_two_pi = <T>1.8378770664093453
    cdef T eps = <T>k[2], m = z + eps, part = m - z
    cdef T low = (z - (m - part)) + (eps - part) + <T>(k[2] - <double>eps), x, log_y, rest = zero
    part = m
    m += low
    low -= m - part
    x = log_sum(m, low) if m > 0 else (-<T>INFINITY if m == 0 else <T>NAN)
    if full:
        log_y = log_positive(y if y > 1 else one)
        x -= log_y - one if y > 1 else zero
        rest = half * (log_y + log_two_pi) if y > 1 else zero
    part = zero if y == 0 else y / m
    loss[0] = z + (y - y) if z == INFINITY else z - weighed(y, x) + rest
    grad[0] = one - part
    hess[0] = zero if y == 0 else part / m


cdef inline void poisson_at(
        T z, T y, T a, const double* k, T* loss, T* grad, T* hess) noexcept nogil:
    poisson_of_log(False, False, z, y, k, loss, grad, hess)


cdef inline void poisson_moderate_at(
        T z, T y, T a, const double* k, T* loss, T* grad, T* hess) noexcept nogil:
    poisson_of_log(False, True, z, y, k, loss, grad, hess)


cdef inline void poisson_full_at(
        T z, T y, T a, const double* k, T* loss, T* grad, T* hess) noexcept nogil:
    poisson_of_log(True, False, z, y, k, loss, grad, hess)


cdef void poisson_of_logs(fl_elements* b) noexcept nogil:
    MAP_MODERATE(b, True, poisson_moderate_at[float], poisson_moderate_at[double],
                 poisson_at[float], poisson_at[double])


cdef inline void poisson_mean_at(
        T z, T y, T a, const double* k, T* loss, T* grad, T* hess) noexcept nogil:
    poisson_of_mean(False, z, y, k, loss, grad, hess)


cdef inline void poisson_mean_full_at(
        T z, T y, T a, const double* k, T* loss, T* grad, T* hess) noexcept nogil:
    poisson_of_mean(True, z, y, k, loss, grad, hess)


cdef void poisson_nll(fl_elements* b) noexcept nogil:
    if b.knobs[0] and b.knobs[1]:
        MAP_FLUSHED(b, poisson_full_at[float], poisson_full_at[double])
    elif b.knobs[0]:
        poisson_of_logs(b)
    elif b.knobs[1]:
        MAP_LOG(b, poisson_mean_full_at[float], poisson_mean_full_at[double])
    else:
        MAP_LOG(b, poisson_mean_at[float], poisson_mean_at[double])

BLOCKS["poisson_nll"] = <size_t>&poisson_nll


cdef inline void negative_binomial_of(bint moderate, T z, T y, const double* k,
                                      T* loss, T* grad, T* hess) noexcept nogil:
    # With o = alpha e^z, the odds, u the smaller of o and 1 / o, and s = log(1 + o), which is
    # log(1 + u), beside log(o) if that is positive:
    # loss = y (s - z) + s / alpha. Where o is large, s - z = log(alpha) + log(1 + u) does not
    # cancel; where it is small, s = o.
    cdef T zero = 0, one = 1, two = 2, half = 0.5, large = two_to_down(z), small = one / large
    cdef T alpha = <T>k[0], by_alpha = <T>(1 / k[0]), close = <T>1e-20, far = FAR
    cdef T log_low, log_alpha = log_pair(alpha, <T>(k[0] - <double>alpha), &log_low)
    cdef T o = exp_near(moderate, alpha, z, zero, zero), e = exp_near(moderate, one, z, zero, zero)
    cdef bint below = o < 1
    cdef T u = o if below else one / o, log1p_u = log1p_unit(u)
    cdef T log_o = log_alpha + z, part = log_o - z, s, d, x, by, g
    part = (log_alpha - part) + (z - (log_o - part)) + log_low
    part = part if moderate or part == part else zero  # beyond the finite numbers
    s = log1p_u if below else log_o + (log1p_u + part)
    d = log1p_u - z if below else log_alpha + log1p_u
    g = (e - y) / (one + o)
    # u = exp(x + part) is a number, whatever alpha, also where what it is multiplied by is large.
    x = log_o if below else -log_o
    part = part if below else -part
    by = half * by_alpha + half * y
    if moderate:
        loss[0] = y * d + s * by_alpha
        grad[0] = g
        hess[0] = exp_times_moderate(two * by, x, part) / (one + u * (two + u))
    else:
        loss[0] = ((weighed(y * large, d) + exp_times(one, z, zero, -<T>DOWN)) * small
                   if (y < 1) & (o < close) & (z > -far)
                   else weighed(y, d) + (e if o < close else s * by_alpha))
        grad[0] = (g if (o < large) & (e < large)
                   else by_alpha * (one - exp_times(y, -z, zero, zero)) / (one + u))
        hess[0] = exp_times(by, x, part, -one) / (one + u * (two + u))


cdef inline void negative_binomial_at(
        T z, T y, T a, const double* k, T* loss, T* grad, T* hess) noexcept nogil:
    negative_binomial_of(False, z, y, k, loss, grad, hess)


cdef inline void negative_binomial_moderate_at(
        T z, T y, T a, const double* k, T* loss, T* grad, T* hess) noexcept nogil:
    negative_binomial_of(True, z, y, k, loss, grad, hess)


cdef void negative_binomial_nll(fl_elements* b) noexcept nogil:
    # With such alphas no product leaves the range of numbers.
    MAP_MODERATE(b, 1e-6 < b.knobs[0] < 1e6,
                 negative_binomial_moderate_at[float], negative_binomial_moderate_at[double],
                 negative_binomial_at[float], negative_binomial_at[double])

BLOCKS["negative_binomial_nll"] = <size_t>&negative_binomial_nll


cdef inline void gamma_of(bint moderate, T z, T y, T* loss, T* grad, T* hess) noexcept nogil:
    # Beside a z below 1e-20 a g that vanishes counts; it is y then.
    cdef T zero = 0, one = 1, close = <T>1e-20, g = exp_near(moderate, y, -z, zero, zero)
    if moderate:
        loss[0] = z + g
    else:
        loss[0] = g if g == INFINITY else z + (y if magnitude(z) < close else g)
    grad[0] = one - g
    hess[0] = g


cdef inline void gamma_at(T z, T y, T a, const double* k, T* loss, T* grad, T* hess) noexcept nogil:
    gamma_of(False, z, y, loss, grad, hess)


cdef inline void gamma_moderate_at(
        T z, T y, T a, const double* k, T* loss, T* grad, T* hess) noexcept nogil:
    gamma_of(True, z, y, loss, grad, hess)


cdef void gamma_nll(fl_elements* b) noexcept nogil:
    MAP_MODERATE(b, True, gamma_moderate_at[float], gamma_moderate_at[double],
                 gamma_at[float], gamma_at[double])

BLOCKS["gamma_nll"] = <size_t>&gamma_nll


cdef inline void half_squared_at(
        T z, T y, T a, const double* k, T* loss, T* grad, T* hess) noexcept nogil:
    cdef T zero = 0, half = 0.5, e = exp(z), d = e - y
    loss[0] = (half * d) * d
    grad[0] = exp_times(d, z, zero, zero)
    hess[0] = exp_times(e + d, z, zero, zero)


cdef inline T product_rest(bint moderate, T c, double rest, T z, T x) noexcept nogil:
    # What x = c z lost of (c + rest) z; 0 where it is no number.
    cdef T low = product_low(c, z, x) + <T>rest * z
    return low if moderate or magnitude(low) < 1 else <T>0


cdef inline void tweedie_of(bint moderate, T z, T y, const double* k,
                            T* loss, T* grad, T* hess) noexcept nogil:
    # exp(c z) / c - y exp(d z) / d, c = 2 - power, d = c - 1, whose last digits count.
    cdef double power = k[0], cc = 2 - power, dd = 1 - power
    cdef T c = <T>cc, d = <T>dd, by_c = <T>(1 / cc), by_d = <T>(1 / dd)
    cdef T zero = 0, one = 1, most = <T>1e30, limit = <T>(100 if T is float else 720)
    cdef T x1, x2, low1, low2, excess, e1, e2, down, up = one
    if not moderate:
        z = most if z > most else z
        z = -most if z < -most else z
    x1 = c * z
    x2 = d * z
    low1 = product_rest(moderate, c, (cc - <double>c) + (2 - (cc + power)), z, x1)
    low2 = product_rest(moderate, d, (dd - <double>d) + (1 - (dd + power)), z, x2)
    if moderate:
        e1 = exp_times_moderate(one, x1, low1)
        e2 = exp_times_moderate(y, x2, low2)
    else:
        # Where the first is inf only the sign of the difference counts.
        excess = x1 - limit if x1 > limit else zero
        x1 -= excess
        x2 -= excess
        e1 = exp_times(one, x1, low1, zero)
        e2 = exp_times(y, x2, low2, zero)
        down = <T>DOWN if e1 + e2 > 1 else -<T>DOWN
        up = two_to_down(z) if e1 + e2 > 1 else one / two_to_down(z)
        e1 = exp_times(one, x1, low1, down)
        e2 = exp_times(y, x2, low2, down)
    loss[0] = (e1 * by_c - e2 * by_d) * up
    grad[0] = (e1 - e2) * up
    hess[0] = (c * e1 - d * e2) * up


cdef inline void tweedie_at(
        T z, T y, T a, const double* k, T* loss, T* grad, T* hess) noexcept nogil:
    tweedie_of(False, z, y, k, loss, grad, hess)


cdef inline void tweedie_moderate_at(
        T z, T y, T a, const double* k, T* loss, T* grad, T* hess) noexcept nogil:
    tweedie_of(True, z, y, k, loss, grad, hess)


cdef void tweedie(fl_elements* b) noexcept nogil:
    if b.knobs[0] == 0:
        MAP_FLUSHED(b, half_squared_at[float], half_squared_at[double])
    elif b.knobs[0] == 1:
        poisson_of_logs(b)
    elif b.knobs[0] == 2:
        gamma_nll(b)
    else:  # from 1 to 3 abs(c) < 1, abs(d) < 2: what is moderate stays so
        MAP_MODERATE(b, 1 < b.knobs[0] < 3, tweedie_moderate_at[float], tweedie_moderate_at[double],
                     tweedie_at[float], tweedie_at[double])

BLOCKS["tweedie"] = <size_t>&tweedie
