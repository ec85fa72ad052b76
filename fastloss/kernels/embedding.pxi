# Losses of embeddings (elementwise.pxi says how losses are written).


cdef inline void margin_ranking_at(
        T z, T y, T a, const double* k, T* loss, T* grad, T* hess) noexcept nogil:
    # Of two scores z and a, of which z is to be the higher if y is 1; hess: the derivative by a.
    # Near the margin y d is subtracted exactly, so what d and the margin lost by rounding counts.
    cdef T zero = 0, margin = <T>k[0], low = <T>(k[0] - <double>margin)
    cdef T d = z - a, part = d - z, lost = (z - (d - part)) - (a + part), g = -y
    cdef T x = (margin - y * d) + (low - y * (lost if lost == lost else zero))
    loss[0] = zero if x <= 0 else x
    grad[0] = g if x > 0 else nan_or_0(x)
    hess[0] = y if x > 0 else nan_or_0(x)


cdef void margin_ranking(fl_elements* b) noexcept nogil:
    MAP(b, margin_ranking_at[float], margin_ranking_at[double])

BLOCKS["margin_ranking"] = <size_t>&margin_ranking
