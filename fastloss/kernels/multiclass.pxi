# Losses of a row of logits and a label (elementwise.pxi says how they are written).
#
# For a label, a row's loss is a function of z = (max of the other logits - z_y) + log(sum over the
# others of exp(z_k - that max)), the log-odds against the label; the drivers apply the chain rule.


cdef inline void cross_entropy_at(
        T z, T y, T a, const double* k, T* loss, T* grad, T* hess) noexcept nogil:
    cdef T one = 1, two = 2, u = exp_nonpositive(-magnitude(z)), r = one / (one + u)
    loss[0] = positive_part(z) + log1p_unit(u)
    grad[0] = u * r if z < 0 else r
    hess[0] = u / (one + u * (two + u))


cdef void cross_entropy(fl_elements* b) noexcept nogil:
    MAP_FLUSHED(b, cross_entropy_at[float], cross_entropy_at[double])

BLOCKS["cross_entropy"] = <size_t>&cross_entropy
