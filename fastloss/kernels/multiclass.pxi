# Losses of a row of logits and a label (elementwise.pxi says how they are written).
#
# For a label, a row's loss is a function of z = (max of the other logits - z_y) + log(sum over the
# others of exp(z_k - that max)), the log-odds against the label; the drivers apply the chain rule.
# y is what z lost by rounding, so that exp(z) is right however large z is.
# p = sigmoid(-z) is the label's probability, q = 1 - p.


cdef inline T exp_of_odds(T z, T y) noexcept nogil:
    # exp(-abs(z + y))
    cdef T u = exp_nonpositive(-magnitude(z))
    return u + u * (y if z < 0 else -y)


cdef inline void cross_entropy_at(
        T z, T y, T a, const double* k, T* loss, T* grad, T* hess) noexcept nogil:
    cdef T one = 1, two = 2, u = exp_of_odds(z, y), r = one / (one + u)
    loss[0] = positive_part(z) + log1p_unit(u)
    grad[0] = u * r if z < 0 else r
    hess[0] = u / (one + u * (two + u))


cdef void cross_entropy(fl_elements* b) noexcept nogil:
    MAP_FLUSHED(b, cross_entropy_at[float], cross_entropy_at[double])

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
    MAP_FLUSHED(b, poly_at[float], poly_at[double])

BLOCKS["poly_loss"] = <size_t>&poly_loss


cdef inline void generalized_at(
        T z, T y, T a, const double* k, T* loss, T* grad, T* hess) noexcept nogil:
    # p^power = exp(-t), t = power nll = power (m + log1p(u)); what t loses by rounding is carried.
    cdef T one = 1, power = <T>k[0], u = exp_of_odds(z, y), r = one / (one + u)
    cdef T p = r if z < 0 else u * r, q = u * r if z < 0 else r
    cdef T log1p_u = log1p_unit(u), m = positive_part(z)
    cdef T product = power * m, rest = power * log1p_u, t = product + rest, low = t - product
    cdef T p_power
    low = ((product - (t - low)) + (rest - low)) + product_low(power, m, product) \
        + <T>(k[0] - <double>power) * (m + log1p_u) + (power * y if z > 0 else <T>0)
    p_power = exp_nonpositive(-t)
    low = weighed(p_power, low)
    loss[0] = (low - expm1_nonpositive(-t)) / power
    p_power -= low
    grad[0] = p_power * q
    hess[0] = p_power * q * (p - power * q)


cdef void generalized_cross_entropy(fl_elements* b) noexcept nogil:
    MAP_FLUSHED(b, generalized_at[float], generalized_at[double])

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
    if b.knobs[0] in (0.0, 1.0, 2.0, 3.0):
        MAP_FLUSHED(b, softmax_focal_whole_at[float], softmax_focal_whole_at[double])
    else:
        MAP_FLUSHED(b, softmax_focal_any_at[float], softmax_focal_any_at[double])

BLOCKS["softmax_focal_loss"] = <size_t>&softmax_focal_loss
