# Losses of real predictions and real targets (elementwise.pxi says how they are written).


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
