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
        MAP_LOG(b, kl_div_at[float], kl_div_at[double])
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
# Distances between distributions.
#
# Of a row's p from its target q (rows.pxi), at one class: z is x = log(q / p), which is -inf
# where there is no q, y is q and a is p; the derivatives are p d/dp and p^2 d2/dp2.


cdef inline void kl_div_with_logits_at(
        T z, T y, T a, const double* k, T* loss, T* grad, T* hess) noexcept nogil:
    # q - p more than its share, so that no term is negative: p - q + q x = q (exp(-x) - 1 + x).
    # Of target logits; of probabilities the driver does the same in one loop (fl_kl_terms).
    cdef T one = 1, close = y * exp_excess(z), apart = (a - y) + y * z
    loss[0] = close if magnitude(z) < one else apart
    loss[0] = a if z == -<T>INFINITY else loss[0]
    grad[0] = -y
    hess[0] = y


cdef void kl_div_with_logits(fl_elements* b) noexcept nogil:
    MAP_FLUSHED(b, kl_div_with_logits_at[float], kl_div_with_logits_at[double])

BLOCKS["kl_div_with_logits"] = <size_t>&kl_div_with_logits


cdef inline void js_divergence_with_logits_at(
        T z, T y, T a, const double* k, T* loss, T* grad, T* hess) noexcept nogil:
    # With v = m / q - 1 and w = m / p - 1: beta q (v - log1p(v)) + (1 - beta) p (w - log1p(w)).
    # Near -1 what 1 + v or 1 + w lost may be all of it: it is had from the quotient itself.
    cdef T one = 1, beta = <T>k[0], rest = <T>(1 - k[0]), down = expm1_nonpositive(-magnitude(z))
    cdef T up = -down / (one + down), most = <T>INFINITY, low = <T>-0.75
    cdef T near_q = down if z > 0 else up, near_p = up if z > 0 else down
    cdef T p_of_q = a / y, q_of_p = y / a
    cdef bint near = magnitude(z) < one
    cdef T to_q = near_q if near else p_of_q - one, to_p = near_p if near else q_of_p - one
    cdef bint no_q = (z == -most) | (to_q == most) | (beta == 0)
    cdef bint no_p = (a == 0) | (to_p == most) | (rest == 0), flat = (a == 0) | (rest == 0)
    cdef T v = rest * to_q, w = beta * to_p  # if set to 0 where there is none, no vectors
    cdef T m_q = beta + rest * p_of_q if v < low else one + v
    cdef T m_p = rest + beta * q_of_p if w < low else one + w
    cdef T lost_q = <T>0 if v < low else v - (m_q - one)
    cdef T lost_p = <T>0 if w < low else w - (m_p - one)
    cdef T of_q = y * minus_log(v, m_q, lost_q), of_p = a * minus_log(w, m_p, lost_p)
    cdef T log_p = z + log_any(beta) if to_p == most else log_sum(m_p, lost_p)
    cdef T g = -a * (rest * log_p), h = beta * y if to_q == most else rest * beta * (a / m_q)
    of_q = rest * a if no_q else of_q  # the limits
    of_p = beta * y if no_p else of_p
    loss[0] = beta * of_q + rest * of_p
    grad[0] = <T>0 if flat | (beta == 0) else g
    hess[0] = <T>0 if flat | (beta == 0) | (z == -most) else h


cdef void js_divergence_with_logits(fl_elements* b) noexcept nogil:
    MAP_FLUSHED(b, js_divergence_with_logits_at[float], js_divergence_with_logits_at[double])

BLOCKS["js_divergence_with_logits"] = <size_t>&js_divergence_with_logits


cdef inline void gaussian_kl_at(
        T z, T y, T a, const double* k, T* loss, T* grad, T* hess) noexcept nogil:
    # z is the mean, y the logarithm of the variance. exp(y) - 1 - y without cancellation: from its
    # series to 1, to 2 from half of y, as (exp(y / 2) - 1)^2 + 2 (exp(y / 2) - 1 - y / 2).
    cdef T zero = 0, one = 1, two = 2, half = 0.5
    cdef bint near = magnitude(y) <= one, middle = (y > one) & (y <= two)
    cdef T t = y if near else (half * y if middle else zero), excess = exp_excess(-t)
    cdef T rise = excess + t  # exp(t) - 1
    cdef T e = exp_times(half, y, zero, zero), fall = half * expm1_nonpositive(y if y < 0 else zero)
    cdef T far = e - half * (one + y) if y > 0 else fall - half * y
    cdef T slope = e - half if y > 0 else fall
    far = half * rise * rise + excess if middle else far
    slope = half * rise * (rise + two) if middle else slope
    loss[0] = half * z * z + (half * excess if near else far)
    grad[0] = z
    hess[0] = (half * rise if near else slope) + nan_or_0(y)


cdef void gaussian_kl(fl_elements* b) noexcept nogil:
    MAP_FLUSHED(b, gaussian_kl_at[float], gaussian_kl_at[double])

BLOCKS["gaussian_kl"] = <size_t>&gaussian_kl
