# Losses of a logit and a binary target (elementwise.pxi says how they are written).
#
# u = exp(-abs z) gives everything: softplus(-abs z) = log1p(u), the sigmoids of abs z and -abs z
# are 1 / (1 + u) and u / (1 + u), and no intermediate overflows or cancels. Where a weight or abs z
# itself multiplies a small u, v = u / halfway takes its place, which does not underflow.


cdef inline void binary_at(bint smooth, T z, T y, T a, const double* k,
                           T* loss, T* grad, T* hess) noexcept nogil:
    # positive and negative are the weights of softplus(-z) and softplus(z); both from y, since
    # 1 - positive would lose a small smoothing.
    cdef T one = 1, two = 2, half = 0.5, smoothing = <T>k[0]
    cdef T positive = a * (y + smoothing * (half - y) if smooth else y)
    cdef T negative = one - y + smoothing * (y - half) if smooth else one - y
    cdef T v = exp_halfway(-magnitude(z)), u = v * halfway(z), r = one / (one + u)
    # `far` weighs the side that z is wrong on, abs z away; both pay log1p(u).
    cdef T both = positive + negative, far = positive if z < 0 else negative
    cdef T near = (negative if z < 0 else positive) * (v * r) * halfway(z)
    loss[0] = weighed(far, magnitude(z)) + both * log1p_scaled(u, v) * halfway(z)
    far *= r
    grad[0] = near - far if z < 0 else far - near
    hess[0] = both * (v / (one + u * (two + u))) * halfway(z)


cdef inline void binary_plain_at(
        T z, T y, T a, const double* k, T* loss, T* grad, T* hess) noexcept nogil:
    binary_at(False, z, y, a, k, loss, grad, hess)


cdef inline void binary_smooth_at(
        T z, T y, T a, const double* k, T* loss, T* grad, T* hess) noexcept nogil:
    binary_at(True, z, y, a, k, loss, grad, hess)


cdef void binary_cross_entropy_with_logits(fl_elements* b) noexcept nogil:
    if b.knobs[0] == 0:
        MAP_FLUSHED(b, binary_plain_at[float], binary_plain_at[double])
    else:
        MAP_FLUSHED(b, binary_smooth_at[float], binary_smooth_at[double])

BLOCKS["binary_cross_entropy_with_logits"] = <size_t>&binary_cross_entropy_with_logits


cdef inline T whole_power(T q, T n) noexcept nogil:
    # q^n for n = 0, 1, 2, 3, 4.
    cdef T one = 1, two = 2, three = 3
    return ((q if n >= one else one) * (q if n >= two else one) * (q if n > two else one)
            * (q if n > three else one))


# Of the log-odds x + x_low for the right class, p = sigmoid(x), q = 1 - p and nll = softplus(-x) =
# -log p: loss = alpha q^gamma nll, d/dx = -alpha q^gamma (gamma p nll + q).
cdef inline void focal_of(bint whole, bint split, T x, T x_low, T alpha, T gamma, T gamma_low,
                          T* loss, T* grad, T* hess) noexcept nogil:
    cdef T one = 1, two = 2
    cdef T plain_v = exp_halfway(-magnitude(x))
    cdef T v = plain_v + plain_v * (x_low if x < 0 else -x_low) if split else plain_v
    cdef T u = v * halfway(x), r = one / (one + u), log1p_u = log1p_scaled(u, v) * halfway(x)
    cdef T p = u * r if x < 0 else r, q = r if x < 0 else u * r
    cdef T p_up = v * r if x < 0 else r / halfway(x)
    cdef T nll = positive_part(-x) + log1p_u, p_nll = weighed(p, nll)
    # exp(-s) over `unit`: times the factors of a large gamma it may be a number where it is 0 alone
    cdef T q_gamma, s, m, product, rest, low, unit = one if whole else halfway(x)
    if whole:
        q_gamma = whole_power(q, gamma)
    else:
        # exp(-gamma softplus(x)), softplus(x) = m + log1p(u); the argument's low part is carried.
        # Beyond 2000 nll and q are 0 whatever q^gamma is.
        m = positive_part(x)
        m = <T>2000 if m > 2000 else m
        product = gamma * m
        rest = gamma * log1p_u
        s = product + rest
        low = s - product
        low = ((product - (s - low)) + (rest - low)) + product_low(gamma, m, product) \
            + gamma_low * (m + log1p_u)
        if split:
            low += gamma * x_low if x > 0 else <T>0
        q_gamma = exp_halfway(-s)
        q_gamma = q_gamma if q_gamma == 0 else q_gamma - q_gamma * low
    alpha *= q_gamma
    loss[0] = weighed(alpha, nll) * unit
    grad[0] = -alpha * (gamma * p_nll + q) * unit
    hess[0] = (alpha * weighed(p_up, gamma * nll * (gamma * p - q) + (two * gamma + one) * q)
               * halfway(x) * unit)


cdef inline void focal_at(bint whole, T z, T y, const double* k,
                          T* loss, T* grad, T* hess) noexcept nogil:
    cdef T one = 1, sign = one if y == one else -one
    cdef T weight_0 = <T>(1.0 if k[1] != k[1] else 1.0 - k[1])
    cdef T weight_1 = <T>(1.0 if k[1] != k[1] else k[1])
    cdef T alpha = weight_1 if y == one else weight_0
    focal_of(whole, False, sign * z + (y - y), <T>0, alpha, <T>k[0], <T>(k[0] - <T>k[0]),
             loss, grad, hess)
    grad[0] = sign * grad[0]


cdef inline void focal_whole_at(
        T z, T y, T a, const double* k, T* loss, T* grad, T* hess) noexcept nogil:
    focal_at(True, z, y, k, loss, grad, hess)


cdef inline void focal_any_at(
        T z, T y, T a, const double* k, T* loss, T* grad, T* hess) noexcept nogil:
    focal_at(False, z, y, k, loss, grad, hess)


cdef void sigmoid_focal_loss(fl_elements* b) noexcept nogil:
    if b.knobs[0] in (0.0, 1.0, 2.0, 3.0):
        MAP_FLUSHED(b, focal_whole_at[float], focal_whole_at[double])
    else:
        MAP_FLUSHED(b, focal_any_at[float], focal_any_at[double])

BLOCKS["sigmoid_focal_loss"] = <size_t>&sigmoid_focal_loss


# Of a negative: q = max(p - clip, 0), loss = -q^gamma log(1 - q). With the logit c of the clip in
# k[3], p - clip = -p (1 - clip) expm1(c - z), which is right also where the two are close.
cdef inline void clipped_of(bint whole, T z, T gamma, T gamma_low, const double* k,
                            T* loss, T* grad, T* hess) noexcept nogil:
    cdef T zero = 0, one = 1, two = 2, half = 0.5
    cdef T clip = <T>k[2], clip_low = <T>(k[2] - <double>clip)
    cdef T c = <T>k[3], c_low = <T>(k[3] - <double>c), above = (z - c) - c_low
    cdef T d = zero if above <= 0 else above
    cdef T v = exp_halfway(-magnitude(z)), u = v * halfway(z), r = one / (one + u)
    cdef T p = u * r if z < 0 else r, o = r if z < 0 else u * r
    cdef T o_up = r / halfway(z) if z < 0 else v * r
    cdef T share = -<T>(1 - k[2]) * expm1_nonpositive(-d), q = p * share
    # n = 1 - q = o + clip, of the two the more exact, and what rounding it lost.
    cdef T n = one - q if q < half else o + clip, back = n - o
    cdef T lost = (one - n) - q if q < half else (o - (n - back)) + (clip - back) + clip_low
    cdef T nll = -log_sum(n, lost), slope = p * o_up / n, by_power = gamma * (p * o_up * (nll / q))
    cdef T w = o / share
    cdef T q_gamma, log_q, low = 0, s
    if whole:
        q_gamma = whole_power(q, gamma)
    else:
        log_q = log_pair(q, zero, &low)
        s = gamma * log_q
        low = product_low(gamma, log_q, s) + (gamma * low + gamma_low * log_q)
        q_gamma = exp_nonpositive(s)
        q_gamma = q_gamma if q_gamma == 0 else q_gamma + q_gamma * low
    loss[0] = zero if q == 0 else q_gamma * nll
    grad[0] = zero if q == 0 else q_gamma * (by_power + slope) * halfway(z)
    s = (q_gamma * w) * ((gamma - one) * by_power + two * gamma * slope)
    s += q_gamma * (slope * ((o * o + clip * (o - p)) / n) + (o - p) * by_power)
    hess[0] = zero if q == 0 else s * halfway(z)


cdef inline void asymmetric_at(bint whole, bint clipped, T z, T y, const double* k,
                               T* loss, T* grad, T* hess) noexcept nogil:
    # Products with 0 and 1 choose the power: two selects of one condition become a branch.
    cdef T one = 1, sign = one if y == one else -one, x = z + (y - y), value = 0, g = 0, h = 0
    cdef T is_1 = <T>(y == one), is_0 = one - is_1
    cdef T negative = <T>k[0], negative_low = <T>(k[0] - <double>negative)
    cdef T positive = <T>k[1], positive_low = <T>(k[1] - <double>positive)
    if clipped:
        clipped_of(whole, x, negative, negative_low, k, &value, &g, &h)
        negative = positive
        negative_low = positive_low
    focal_of(whole, False, sign * x, <T>0, one, is_1 * positive + is_0 * negative,
             is_1 * positive_low + is_0 * negative_low, loss, grad, hess)
    grad[0] = sign * grad[0]
    if clipped:
        loss[0] = loss[0] if y == one else value
        grad[0] = grad[0] if y == one else g
        hess[0] = hess[0] if y == one else h


cdef inline void asymmetric_whole_at(
        T z, T y, T a, const double* k, T* loss, T* grad, T* hess) noexcept nogil:
    asymmetric_at(True, False, z, y, k, loss, grad, hess)


cdef inline void asymmetric_any_at(
        T z, T y, T a, const double* k, T* loss, T* grad, T* hess) noexcept nogil:
    asymmetric_at(False, False, z, y, k, loss, grad, hess)


cdef inline void asymmetric_whole_clipped_at(
        T z, T y, T a, const double* k, T* loss, T* grad, T* hess) noexcept nogil:
    asymmetric_at(True, True, z, y, k, loss, grad, hess)


cdef inline void asymmetric_any_clipped_at(
        T z, T y, T a, const double* k, T* loss, T* grad, T* hess) noexcept nogil:
    asymmetric_at(False, True, z, y, k, loss, grad, hess)


cdef void asymmetric(fl_elements* b) noexcept nogil:
    cdef const double* given = b.knobs
    cdef double[FL_MAX_KNOBS] k
    cdef double gamma_neg = given[0], gamma_pos = given[1]
    cdef double clip = given[2] if given[2] >= 2.2250738585072014e-308 else 0  # not if subnormal
    cdef bint whole = (gamma_neg in (0.0, 1.0, 2.0, 3.0, 4.0)
                       and gamma_pos in (0.0, 1.0, 2.0, 3.0, 4.0))
    k[0] = gamma_neg
    k[1] = gamma_pos
    k[2] = clip
    k[3] = log_positive(clip) - log1p(-clip) if clip < 1 else 1e30  # none above
    b.knobs = k
    if whole and clip == 0:
        MAP_FLUSHED(b, asymmetric_whole_at[float], asymmetric_whole_at[double])
    elif clip == 0:
        MAP_FLUSHED(b, asymmetric_any_at[float], asymmetric_any_at[double])
    elif whole:
        MAP_FLUSHED(b, asymmetric_whole_clipped_at[float], asymmetric_whole_clipped_at[double])
    else:
        MAP_FLUSHED(b, asymmetric_any_clipped_at[float], asymmetric_any_clipped_at[double])
    b.knobs = given

BLOCKS["asymmetric"] = <size_t>&asymmetric


# Of a score and a target of -1 or +1: y and y y = 1 are exact, so all is a function of the margin
# t = y s and the chain rule a sign. What is constant on a side takes nan from `t if t != t`.


cdef inline void soft_margin_at(
        T z, T y, T a, const double* k, T* loss, T* grad, T* hess) noexcept nogil:
    cdef T one = 1, two = 2, t = y * z, u = exp_nonpositive(-magnitude(t)), r = one / (one + u)
    loss[0] = positive_part(-t) + log1p_unit(u)
    grad[0] = -y * (r if t < 0 else u * r)
    hess[0] = u / (one + u * (two + u))


cdef void soft_margin(fl_elements* b) noexcept nogil:
    MAP_FLUSHED(b, soft_margin_at[float], soft_margin_at[double])

BLOCKS["soft_margin"] = <size_t>&soft_margin


cdef inline void exponential_of(bint moderate, T z, T y,
                                T* loss, T* grad, T* hess) noexcept nogil:
    cdef T one = 1, zero = 0
    cdef T e = exp_times_moderate(one, -y * z, zero) if moderate else exp(-y * z)
    loss[0] = e
    grad[0] = -y * e
    hess[0] = e


cdef inline void exponential_at(
        T z, T y, T a, const double* k, T* loss, T* grad, T* hess) noexcept nogil:
    exponential_of(False, z, y, loss, grad, hess)


cdef inline void exponential_moderate_at(
        T z, T y, T a, const double* k, T* loss, T* grad, T* hess) noexcept nogil:
    exponential_of(True, z, y, loss, grad, hess)


cdef void exponential(fl_elements* b) noexcept nogil:
    MAP_MODERATE(b, True, exponential_moderate_at[float], exponential_moderate_at[double],
                 exponential_at[float], exponential_at[double])

BLOCKS["exponential"] = <size_t>&exponential


cdef inline void hinge_at(T z, T y, T a, const double* k, T* loss, T* grad, T* hess) noexcept nogil:
    cdef T zero = 0, one = 1, c = one - y * z
    c = zero if c <= 0 else c
    loss[0] = c
    grad[0] = -y if c > 0 else c
    hess[0] = c if c != c else zero


cdef void hinge(fl_elements* b) noexcept nogil:
    MAP(b, hinge_at[float], hinge_at[double])

BLOCKS["hinge"] = <size_t>&hinge


cdef inline void squared_hinge_at(
        T z, T y, T a, const double* k, T* loss, T* grad, T* hess) noexcept nogil:
    cdef T zero = 0, one = 1, two = 2, c = one - y * z
    c = zero if c <= 0 else c
    loss[0] = c * c
    grad[0] = -two * y * c
    hess[0] = two if c > 0 else c


cdef void squared_hinge(fl_elements* b) noexcept nogil:
    MAP(b, squared_hinge_at[float], squared_hinge_at[double])

BLOCKS["squared_hinge"] = <size_t>&squared_hinge


cdef inline void modified_huber_at(
        T z, T y, T a, const double* k, T* loss, T* grad, T* hess) noexcept nogil:
    cdef T zero = 0, one = 1, two = 2, four = 4, t = y * z, c = one - t
    c = zero if c <= 0 else c
    loss[0] = -four * t if t < -one else c * c
    grad[0] = -two * y * (two if t < -one else c)
    c = two if c > 0 else c
    hess[0] = zero if t < -one else c


cdef void modified_huber(fl_elements* b) noexcept nogil:
    MAP(b, modified_huber_at[float], modified_huber_at[double])

BLOCKS["modified_huber"] = <size_t>&modified_huber


cdef inline void perceptron_at(
        T z, T y, T a, const double* k, T* loss, T* grad, T* hess) noexcept nogil:
    cdef T zero = 0, c = -y * z
    c = zero if c <= 0 else c
    loss[0] = c
    grad[0] = -y if c > 0 else c
    hess[0] = c if c != c else zero


cdef void perceptron(fl_elements* b) noexcept nogil:
    MAP(b, perceptron_at[float], perceptron_at[double])

BLOCKS["perceptron"] = <size_t>&perceptron


cdef inline void hinge_embedding_at(
        T z, T y, T a, const double* k, T* loss, T* grad, T* hess) noexcept nogil:
    # Near the margin z is subtracted exactly, so what T lost of the margin counts.
    cdef T zero = 0, one = 1, margin = <T>k[0], low = <T>(k[0] - <double>margin)
    cdef T x = z + (y - y), c = (margin - x) + low
    c = zero if c <= 0 else c
    loss[0] = x if y > 0 else c
    grad[0] = (x if x != x else one) if y > 0 else (-one if c > 0 else c)
    hess[0] = x if x != x else zero


cdef void hinge_embedding(fl_elements* b) noexcept nogil:
    MAP(b, hinge_embedding_at[float], hinge_embedding_at[double])

BLOCKS["hinge_embedding"] = <size_t>&hinge_embedding


cdef inline void probabilities_at(
        T z, T y, T a, const double* k, T* loss, T* grad, T* hess) noexcept nogil:
    # Of probabilities; 0 log 0 = 0, also in the derivatives, and nan outside [0, 1].
    cdef T zero = 0, one = 1
    cdef T inside = z if z >= 0 else <T>NAN, p = inside if inside <= 1 else <T>NAN
    cdef T q = one - p, n = one - y
    cdef T e = p - y, d = p * q
    cdef T log_p = log_finite(p), log_q = log_sum(q, (one - q) - p)
    log_p = -<T>INFINITY if p == 0 else log_p
    log_q = -<T>INFINITY if q == 0 else log_q
    loss[0] = -weighed(y, log_p) - weighed(n, log_q) + (p - p)
    # At p = y = 0 or 1 the quotient is 0 / 0, the derivative 1 - 2 y.
    grad[0] = n - y if magnitude(e) + d == 0 else e / d
    e = y / p / p
    d = n / q / q
    hess[0] = (zero if y == 0 else e) + (zero if n == 0 else d) + (p - p)


cdef void binary_cross_entropy(fl_elements* b) noexcept nogil:
    MAP_LOG(b, probabilities_at[float], probabilities_at[double])

BLOCKS["binary_cross_entropy"] = <size_t>&binary_cross_entropy


cdef inline void multilabel_soft_margin_at(
        T z, T y, T a, const double* k, T* loss, T* grad, T* hess) noexcept nogil:
    cdef T one = 1
    binary_at(False, z, y, one, k, loss, grad, hess)
    loss[0] = weighed(a, loss[0])
    grad[0] = weighed(a, grad[0])
    hess[0] = weighed(a, hess[0])


cdef void multilabel_soft_margin(fl_elements* b) noexcept nogil:
    MAP_FLUSHED(b, multilabel_soft_margin_at[float], multilabel_soft_margin_at[double])

BLOCKS["multilabel_soft_margin"] = <size_t>&multilabel_soft_margin
