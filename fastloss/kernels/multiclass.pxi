# Losses of a row of logits and a label (elementwise.pxi says how they are written).
#
# For a label, a row's loss is a function of the log-odds against it, z + log(a): z = max of the
# other logits - z_y, a = the sum over the others of exp(z_k - that max); y is what z lost by
# rounding, so that exp(z) is right however large z is. The drivers apply the chain rule.
# Cross-entropy takes one logarithm of all, or, where only the sum of the losses counts, one of
# eight rows; for the others `add_log_sum` makes z and y the log-odds.
# p, 1 / (1 + the odds), is the label's probability, q = 1 - p.


cdef inline void add_log_sum_as(bint brief, fl_elements* b) noexcept nogil:
    cdef double* z = <double*>b.pred
    cdef double* y = <double*>b.target
    cdef const double* a = <const double*>b.extra
    cdef double log_sum, odds, low
    cdef Py_ssize_t i
    for i in range(b.n):
        log_sum = fl_log_brief(a[i], 0) if brief else fl_log_f64(a[i])
        odds = z[i] + log_sum
        low = odds - z[i]
        low = (z[i] - (odds - low)) + (log_sum - low) + y[i]
        z[i] = odds
        y[i] = low if low == low else 0  # beyond the finite numbers


cdef void add_log_sum(fl_elements* b) noexcept nogil:
    if b.brief:
        add_log_sum_as(True, b)
    else:
        add_log_sum_as(False, b)


cdef inline T exp_of_odds(T z, T y) noexcept nogil:
    # exp(-abs(z + y))
    cdef T u = exp_nonpositive(-magnitude(z))
    return u * (1 + (y if z < 0 else -y))  # u y alone may be below what is a number


cdef inline void cross_entropy_at(
        T z, T y, T a, const double* k, T* loss, T* grad, T* hess) noexcept nogil:
    # log(1 + a exp(z)), or z + log(exp(-z) + a): positive_part(z) + log(1 + loss).
    cdef T one = 1, up = exp_halfway(-magnitude(z)), v = up + up * (y if z < 0 else -y)
    cdef T x = (a * v if z < 0 else v) * halfway(z), rest = one if z < 0 else a, m = rest + x
    cdef T r = one / m
    loss[0] = x if z < 0 else x + (a - one)
    grad[0] = (x if z < 0 else rest) / m
    hess[0] = x * r * (rest * r)


cdef inline void cross_entropy_brief_at(
        double z, double y, double a, const double* k, double* loss, double* grad, double* hess
) noexcept nogil:
    # The same: the lower of 1 and a exp(z), or of exp(-z) and a, and what the higher has above 1.
    # (A third select by the sign of z, and gcc makes two divisions, one for each.)
    cdef double one = 1, u = fl_exp_brief(-magnitude(z))
    cdef double own = one if z < 0 else u, rest = a * (u if z < 0 else one), r = one / (own + rest)
    grad[0] = rest * r
    hess[0] = rest * r * (own * r)
    loss[0] = (own if own < rest else rest) + ((rest if own < rest else own) - one)


cdef inline void add_logs_as(
        bint brief, double* loss, const double* m, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    cdef double one = 1, x, sum
    for i in range(n):
        x = loss[i]
        sum = one + x
        x -= sum - one
        loss[i] = m[i] + (fl_log_brief(sum, x) if brief else fl_log_sum_f64(sum, x))


cdef void add_logs(fl_elements* b) noexcept nogil:
    # The losses m + log(1 + x) of x.
    cdef double* loss = <double*>b.loss
    cdef const double* z = <const double*>b.pred
    cdef double[LANES] m
    cdef Py_ssize_t i, n = b.n
    for i in range(n):
        m[i] = positive_part(z[i])
    if b.summed:
        fl_join(m, loss, n)
        for i in range(FL_LOGS, n):
            loss[i] = 0
        n = FL_LOGS
    if b.brief:
        add_logs_as(True, loss, m, n)
    else:
        add_logs_as(False, loss, m, n)


cdef void cross_entropy(fl_elements* b) noexcept nogil:
    if b.brief:
        MAP_LABELS(b, cross_entropy_brief_at)
    else:
        MAP_LABELS(b, cross_entropy_at[double])
    if not b.silent:
        add_logs(b)

BLOCKS["cross_entropy"] = <size_t>&cross_entropy


cdef inline void poly_at(
        T z, T y, T a, const double* k, T* loss, T* grad, T* hess) noexcept nogil:
    # nll + epsilon q, whose derivative is q (1 + epsilon p).
    cdef T one = 1, epsilon = <T>k[0], plain_v = exp_halfway(-magnitude(z))
    cdef T v = plain_v + plain_v * (y if z < 0 else -y), u = v * halfway(z), r = one / (one + u)
    cdef T p = r if z < 0 else u * r, q = u * r if z < 0 else r
    cdef T q_up = v * r if z < 0 else r / halfway(z)
    loss[0] = positive_part(z) + (log1p_scaled(u, v) + epsilon * q_up) * halfway(z)
    grad[0] = q_up * (one + epsilon * p) * halfway(z)
    hess[0] = p * (q_up * (one + epsilon * (p - q))) * halfway(z)


cdef void poly_loss(fl_elements* b) noexcept nogil:
    add_log_sum(b)
    MAP_LABELS(b, poly_at[double])

BLOCKS["poly_loss"] = <size_t>&poly_loss


cdef inline void generalized_at(
        T z, T y, T a, const double* k, T* loss, T* grad, T* hess) noexcept nogil:
    # p^power = exp(-t), t = power nll = power (m + log1p(u)); what t loses by rounding is carried.
    cdef T one = 1, least = <T>1e-18, power = <T>k[0], u = exp_of_odds(z, y), r = one / (one + u)
    cdef T p = r if z < 0 else u * r, q = u * r if z < 0 else r
    cdef T log1p_u = log1p_unit(u), m = positive_part(z)
    cdef T product = power * m, rest = power * log1p_u, t = product + rest, low = t - product
    cdef T p_power
    low = ((product - (t - low)) + (rest - low)) + product_low(power, m, product) \
        + <T>(k[0] - <double>power) * (m + log1p_u) + (power * y if z > 0 else <T>0)
    p_power = exp_nonpositive(-t)
    low = weighed(p_power, low)
    loss[0] = (low - expm1_nonpositive(-t)) / power
    loss[0] = m + log1p_u if t < least else loss[0]  # t may be 0 for what it is divided by
    p_power -= low
    grad[0] = p_power * q
    hess[0] = p_power * q * (p - power * q)


cdef void generalized_cross_entropy(fl_elements* b) noexcept nogil:
    add_log_sum(b)
    MAP_LABELS(b, generalized_at[double])

BLOCKS["generalized_cross_entropy"] = <size_t>&generalized_cross_entropy


cdef inline void softmax_focal_whole_at(
        T z, T y, T a, const double* k, T* loss, T* grad, T* hess) noexcept nogil:
    focal_of(True, True, -z, -y, <T>1, <T>k[0], <T>(k[0] - <T>k[0]), loss, grad, hess)
    grad[0] = -grad[0]


cdef inline void softmax_focal_any_at(
        T z, T y, T a, const double* k, T* loss, T* grad, T* hess) noexcept nogil:
    focal_of(False, True, -z, -y, <T>1, <T>k[0], <T>(k[0] - <T>k[0]), loss, grad, hess)
    grad[0] = -grad[0]


cdef void softmax_focal_loss(fl_elements* b) noexcept nogil:
    add_log_sum(b)
    if b.knobs[0] in (0.0, 1.0, 2.0, 3.0):
        MAP_LABELS(b, softmax_focal_whole_at[double])
    else:
        MAP_LABELS(b, softmax_focal_any_at[double])

BLOCKS["softmax_focal_loss"] = <size_t>&softmax_focal_loss


# Of no softmax, each class apart (the driver `terms`): y is the class's target, 1 for a label's.


cdef inline void nll_at(T z, T y, T a, const double* k, T* loss, T* grad, T* hess) noexcept nogil:
    loss[0] = -z
    grad[0] = nan_or_0(z) - y
    hess[0] = nan_or_0(z)


cdef void nll(fl_elements* b) noexcept nogil:
    MAP(b, nll_at[float], nll_at[double])

BLOCKS["nll"] = <size_t>&nll


cdef inline void chance_at(
        T z, T y, T a, const double* k, T* loss, T* grad, T* hess) noexcept nogil:
    # 0 log 0 = 0, also in the derivatives.
    cdef T mass = a * y, slope = mass / z, bend = slope / z
    loss[0] = nan_or_0(z) - weighed(mass, log_any(z))
    grad[0] = <T>0 if mass == 0 else -slope
    hess[0] = <T>0 if mass == 0 else bend


cdef void cross_entropy_with_probs(fl_elements* b) noexcept nogil:
    MAP(b, chance_at[float], chance_at[double])

BLOCKS["cross_entropy_with_probs"] = <size_t>&cross_entropy_with_probs


# Of another class's score z and the label's, y: max(0, margin + z - y). Where the sum is small,
# what the difference and T have lost counts.
cdef inline void margin_of(bint square, T z, T y, double margin,
                           T* loss, T* grad, T* hess) noexcept nogil:
    cdef T zero = 0, one = 1, two = 2, wide = <T>margin, d = z - y, low = lost(z, y, d)
    cdef T c
    low = (low if d > 0 else -low) if low == low else zero
    c = (wide + d) + (low + <T>(margin - <double>wide))
    c = zero if c <= 0 else c
    loss[0] = c * c if square else c
    grad[0] = two * c if square else (one if c > 0 else c)
    hess[0] = (two if c > 0 else c) if square else nan_or_0(c)


cdef inline void multi_margin_at(
        T z, T y, T a, const double* k, T* loss, T* grad, T* hess) noexcept nogil:
    margin_of(False, z, y, k[1], loss, grad, hess)


cdef inline void multi_margin_squared_at(
        T z, T y, T a, const double* k, T* loss, T* grad, T* hess) noexcept nogil:
    margin_of(True, z, y, k[1], loss, grad, hess)


cdef void multi_margin(fl_elements* b) noexcept nogil:
    if b.knobs[0] == 1:
        MAP(b, multi_margin_at[float], multi_margin_at[double])
    else:
        MAP(b, multi_margin_squared_at[float], multi_margin_squared_at[double])

BLOCKS["multi_margin"] = <size_t>&multi_margin


cdef inline void crammer_singer_at(
        T z, T y, T a, const double* k, T* loss, T* grad, T* hess) noexcept nogil:
    margin_of(False, z, y, k[0], loss, grad, hess)


cdef void crammer_singer(fl_elements* b) noexcept nogil:
    MAP(b, crammer_singer_at[float], crammer_singer_at[double])

BLOCKS["crammer_singer"] = <size_t>&crammer_singer


cdef inline void multilabel_margin_at(
        T z, T y, T a, const double* k, T* loss, T* grad, T* hess) noexcept nogil:
    margin_of(False, z, y, 1.0, loss, grad, hess)


cdef void multilabel_margin(fl_elements* b) noexcept nogil:
    MAP(b, multilabel_margin_at[float], multilabel_margin_at[double])

BLOCKS["multilabel_margin"] = <size_t>&multilabel_margin
