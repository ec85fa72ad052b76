# The drivers: one for elementwise losses, here; one for rows of classes (rows.pxi), one for rows of
# terms (terms.pxi); and the pass over weights and labels that comes before all. Each does one range
# of a call, chosen by its number, and writes one partial sum, so that a result's bits do not depend
# on which thread did what.
#
# A block is BLOCK elements in the L1 cache, STEPS steps of LANES lanes. Contiguous input is
# read where it lies; anything else (strides, byte order, integers) is first loaded into the block.
# Losses, gradients and Hessians are computed into blocks of the workspace and stored from there, so
# an output may lie on the prediction.


cdef inline void load(T* dst, const char* src, Py_ssize_t step, Py_ssize_t n,
                      int code) noexcept nogil:
    if T is float:
        fl_load_f32(dst, src, step, n, code)
    else:
        fl_load_f64(dst, src, step, n, code)


cdef inline void store(char* dst, const T* src, Py_ssize_t step, Py_ssize_t n, int code,
                       bint stream) noexcept nogil:
    if T is float:
        fl_store_f32(dst, src, step, n, code, stream)
    else:
        fl_store_f64(dst, src, step, n, code, stream)


cdef inline bint readable(const fl_operand* op, T tag) noexcept nogil:
    # Whether its elements are of this type, as C reads them.
    return op.code == (FL_F32 if sizeof(T) == 4 else FL_F64)


cdef inline bint adjacent(const fl_operand* op, T tag) noexcept nogil:
    return op.step == sizeof(T) and readable(op, tag)


cdef void gather(T* dst, const fl_operand* op, Py_ssize_t at, Py_ssize_t n) noexcept nogil:
    # What is broadcast is loaded once: short rows cost more to find than to load.
    cdef Py_ssize_t row = at // op.cols, col = at % op.cols, take, done, i
    cdef T[BLOCK] each
    if op.ndim == 1 and op.stride[0] == 0 and op.cols < n:  # every row is the same
        done = op.cols
        load(dst, op.data + col * op.step, op.step, done - col, op.code)
        load(dst + (done - col), op.data, op.step, col, op.code)
        while done < n:
            take = min(done, n - done)
            memcpy(dst + done, dst, take * sizeof(T))
            done += take
        return
    if op.ndim == 1 and op.step == 0 and 1 < op.cols < n <= BLOCK:  # a row is one number
        load(each, op.data + row * op.stride[0], op.stride[0], (col + n - 1) // op.cols + 1,
             op.code)
        done = row = 0
        while done < n:
            take = min(n - done, op.cols - col)
            for i in range(done, done + take):
                dst[i] = each[row]
            done += take
            row += 1
            col = 0
        return
    while n > 0:
        take = min(n, op.cols - col)
        load(dst, fl_row(op, row) + col * op.step, op.step, take, op.code)
        dst += take
        n -= take
        row += 1
        col = 0


cdef inline char* at_once(const fl_operand* op, Py_ssize_t at, Py_ssize_t n,
                          T tag) noexcept nogil:
    # Where the elements [at, at + n) lie side by side, or NULL.
    if not adjacent(op, tag):
        return NULL
    if op.ndim == 0:  # a division takes its time
        return op.data + at * op.step
    if at % op.cols + n <= op.cols:
        return fl_row(op, at // op.cols) + at % op.cols * op.step
    return NULL


cdef const T* read(T* block, const fl_operand* op, Py_ssize_t at, Py_ssize_t n) noexcept nogil:
    # The elements [at, at + n): where they lie if they lie as they should, else loaded into block.
    cdef const char* there = at_once(op, at, n, <T>0)
    if there != NULL:
        return <const T*>there
    gather(block, op, at, n)
    return block


cdef void scatter(const fl_operand* op, const T* src, Py_ssize_t at, Py_ssize_t n,
                  bint stream) noexcept nogil:
    cdef Py_ssize_t row = at // op.cols, col = at % op.cols, take
    while n > 0:
        take = min(n, op.cols - col)
        store(fl_row(op, row) + col * op.step, src, op.step, take, op.code, stream)
        src += take
        n -= take
        row += 1
        col = 0


cdef void load_halves(T* dst, const fl_operand* op, const char* src, Py_ssize_t stride,
                      Py_ssize_t rows, Py_ssize_t cols) noexcept nogil:
    # `rows` <= LANES rows of adjacent elements of two bytes, of any type, to columns LANES apart:
    # converted a row's part at a time, or all together where rows are adjacent too.
    cdef T[BLOCK] block
    cdef Py_ssize_t col, row, m
    for col from 0 <= col < cols by STEPS:
        m = min(<Py_ssize_t>STEPS, cols - col)
        if stride == 2 * m:
            load(block, src + 2 * col, 2, rows * m, op.code)
        else:
            for row in range(rows):
                load(block + row * m, src + row * stride + 2 * col, 2, m, op.code)
        if T is float:
            fl_to_columns_f32(dst + col * LANES, <const char*>block, m * sizeof(T), rows, m)
        else:
            fl_to_columns_f64(dst + col * LANES, <const char*>block, m * sizeof(T), rows, m)


cdef void store_halves(const fl_operand* op, char* dst, const T* src, Py_ssize_t stride,
                       Py_ssize_t rows, Py_ssize_t cols) noexcept nogil:
    cdef T[BLOCK] block
    cdef Py_ssize_t col, row, m
    for col from 0 <= col < cols by STEPS:
        m = min(<Py_ssize_t>STEPS, cols - col)
        if T is float:
            fl_from_columns_f32(<char*>block, src + col * LANES, m * sizeof(T), rows, m)
        else:
            fl_from_columns_f64(<char*>block, src + col * LANES, m * sizeof(T), rows, m)
        if stride == 2 * m:
            store(dst + 2 * col, block, 2, rows * m, op.code, False)
        else:
            for row in range(rows):
                store(dst + row * stride + 2 * col, block + row * m, 2, m, op.code, False)


cdef inline void clear(fl_workspace* ws, bint split, bint soft, bint exact) noexcept nogil:
    # `exact`: with what additions to `total` and `below` lose, which is kept of doubles and of
    # divergences.
    cdef size_t size = (LANES << exact) * sizeof(double)
    memset(ws.total, 0, size)
    if split:
        memset(ws.below, 0, size)
    if soft:
        memset(ws.dot, 0, sizeof(ws.dot))
        memset(ws.mass, 0, sizeof(ws.mass))


cdef inline double merged(const double* lanes) noexcept nogil:
    cdef Py_ssize_t i
    cdef double[32] x  # the compiler keeps it in registers
    for i in range(32):
        x[i] = lanes[i] + lanes[i + 32]
    for i in range(16):
        x[i] += x[i + 16]
    for i in range(8):
        x[i] += x[i + 8]
    for i in range(4):
        x[i] += x[i + 4]
    return (x[0] + x[2]) + (x[1] + x[3])


cdef double total(T* x, Py_ssize_t n) noexcept nogil:
    # The sum in double; x has room for zeros up to the next multiple of LANES.
    cdef double[LANES] lane
    cdef Py_ssize_t i, j
    memset(lane, 0, sizeof(lane))
    for i in range(n, (n + LANES - 1) // LANES * LANES):
        x[i] = 0
    for i from 0 <= i < n by LANES:
        for j in range(LANES):
            lane[j] += x[i + j]
    return merged(lane)


cdef struct Sum:
    double high, low


cdef inline void add(Sum* s, double x) noexcept nogil:
    # Two-sum: the total of many blocks is as good as the blocks.
    cdef double t = s.high + x, v = t - s.high
    s.low += (s.high - (t - v)) + (x - v)
    s.high = t


cdef inline double value(const Sum* s) noexcept nogil:
    # After an infinity the low part is nan.
    cdef double t = s.high + s.low
    return t if t == t else s.high


# ---- weights ----


cdef void weights(T* w, fl_call* c, Py_ssize_t at, Py_ssize_t n) noexcept nogil:
    # sample_weight and mask of n elements (or rows); what is masked weighs 0, whatever it holds.
    cdef T[BLOCK] keep
    cdef Py_ssize_t i
    if c.weight.data:
        gather(w, &c.weight, at, n)
    else:
        for i in range(n):
            w[i] = 1
    if c.mask.data:
        gather(keep, &c.mask, at, n)
        for i in range(n):
            w[i] = <T>0 if keep[i] == 0 else w[i]


cdef inline bint outside(fl_call* c, const T* y, const T* w, Py_ssize_t n) noexcept nogil:
    # Is a target that weighs something out of its domain? w may be NULL.
    if T is float:
        return fl_outside_f32(c, y, w, n)
    else:
        return fl_outside_f64(c, y, w, n)


cdef bint row_weights(double* w, int64_t* y, fl_call* c, Py_ssize_t row, Py_ssize_t n,
                      T tag) noexcept nogil:
    # The weight of up to LANES rows and, for labels, the label; a row to skip weighs 0, and a
    # label out of range, even one that changed since it was checked, is flagged and skipped.
    # Returns whether any row is.
    cdef T[LANES] own
    cdef T class_weight, in_mask
    cdef Py_ssize_t i, take, at = row, done = 0
    cdef int bad = 0, skips = 0
    cdef bint keep, inside
    if c.weight.data or c.mask.data:
        weights(own, c, row, n)
        for i in range(n):
            w[i] = own[i]
    else:
        for i in range(n):
            w[i] = 1
    for i in range(n if c.soft else 0):
        skips |= w[i] == 0
    if c.soft:
        return skips
    while done < n:
        take = min(n - done, c.target.cols - at % c.target.cols)
        fl_load_i64(y + done, fl_row(&c.target, at // c.target.cols)
                    + at % c.target.cols * c.target.step, c.target.step, take, c.target.code)
        at += take
        done += take
    for i in range(n):
        bad |= (y[i] < 0) | (y[i] >= c.classes)
    if not (bad or c.has_ignored or c.weight.data or c.mask.data or c.class_mask.data
            or c.extra.data):
        return False
    bad = 0
    for i in range(n):
        keep = (w[i] != 0) & ((not c.has_ignored) | (y[i] != c.ignored))
        inside = (y[i] >= 0) & (y[i] < c.classes)
        bad |= keep & (not inside)
        keep = keep & inside
        skips |= not keep
        w[i] = w[i] if keep else 0
        y[i] = y[i] if keep else 0
    for i in range(n if c.class_mask.data else 0):  # apart, for the loop above to be of vectors
        if w[i] != 0:
            load(&in_mask, fl_row(&c.class_mask, row + i) + y[i] * c.class_mask.step, 0, 1,
                 c.class_mask.code)
            if in_mask == 0:
                bad = skips = 1
                w[i] = y[i] = 0
    if bad:
        c.bad = 1
    if c.extra.data and not c.spread:
        # With smoothing a class of weight 0 still pays for the others: only the mean's denominator
        # sees its weight.
        for i in range(n):
            if w[i] != 0:
                gather(&class_weight, &c.extra, y[i], 1)
                w[i] *= class_weight
                skips |= w[i] == 0
    return skips


cdef inline void rows_near(const fl_operand* op, Py_ssize_t row, Py_ssize_t n, bint write,
                           T tag) noexcept nogil:
    if op.data and op.ndim and adjacent(op, tag):
        fl_prefetch_page(fl_row(op, row), n * op.stride[op.ndim - 1], write)


cdef inline void bring_near(const fl_call* c, Py_ssize_t row, Py_ssize_t n, bint reads,
                            bint writes, bint in_loops, T tag) noexcept nogil:
    # What short rows side by side are read from and written to a page later, from memory. (Without,
    # 1048576 rows of 4 take 1.2 times as long.) `in_loops`: but for predictions and gradients.
    cdef const fl_operand* y = &c.target
    if not c.lanes or c.ranges <= NEAR:
        return
    if reads and not in_loops:
        rows_near(&c.pred, row, n, False, tag)
    if reads and c.soft:
        rows_near(y, row, n, False, tag)
    if writes and not in_loops:
        rows_near(&c.grad, row, n, True, tag)
    if writes:
        rows_near(&c.hess, row, n, True, tag)
    if not c.soft:
        fl_prefetch_page(fl_row(y, row // y.cols) + row % y.cols * y.step, n * y.step, False)


cdef int64_t listed(fl_call* c, Py_ssize_t row, Py_ssize_t slot) noexcept nogil:
    # The label in this slot of a row's list, or -1 where the list has ended. A label out of range,
    # even one that changed since it was checked, is flagged and ends it.
    cdef int64_t y = -1
    cdef const char* src = fl_row(&c.target, row) + slot * c.target.step
    if slot < c.classes and c.target.code == FL_I64:
        memcpy(&y, src, sizeof(y))
    elif slot < c.classes:
        fl_load_i64(&y, src, 0, 1, c.target.code)
    if -1 <= y < c.classes:
        return y
    c.bad = 1
    return -1


cdef double plain_labels(fl_call* c, Py_ssize_t at, Py_ssize_t end) noexcept nogil:
    # Checks labels that all count; returns how many there are.
    cdef int64_t[BLOCK] y
    cdef Py_ssize_t i, n, count = end - at
    cdef const fl_operand* op = &c.target
    cdef int bad = 0
    while at < end:
        n = min(min(<Py_ssize_t>BLOCK, end - at), op.cols - at % op.cols)
        fl_load_i64(y, fl_row(op, at // op.cols) + at % op.cols * op.step, op.step, n, op.code)
        for i in range(n):
            bad |= (y[i] < 0) | (y[i] >= c.classes)
        at += n
    if bad:
        c.bad = 1
    return count


cdef void weigh(fl_call* c, Py_ssize_t index, fl_workspace* ws, T tag) noexcept nogil:
    # partial[index] = the sum of the weights; checks labels, and targets where `bounded`.
    cdef Py_ssize_t begin = index * c.range, end = min(c.size, begin + c.range), at = begin
    cdef Py_ssize_t n, take, i, j, col, m
    cdef T[BLOCK] w, y
    cdef T class_weight
    cdef double[LANES] row_weight
    cdef int64_t[LANES] label
    cdef const T* target
    cdef Sum partial
    if c.classes >= 0 and not (c.soft or c.weight.data or c.mask.data or c.has_ignored
                               or c.extra.data or c.class_mask.data):
        c.partial[index] = plain_labels(c, at, end)
        return
    partial.high = partial.low = 0
    while at < end:
        n = min(<Py_ssize_t>BLOCK, end - at)
        if c.classes < 0:
            weights(w, c, at, n)
            if c.bounded:
                target = read(y, &c.target, at, n)
                if outside(c, target, w, n):
                    c.bad = 1
        for j from 0 <= j < (n if c.classes >= 0 else 0) by LANES:
            take = min(<Py_ssize_t>LANES, n - j)
            row_weights(row_weight, label, c, at + j, take, tag)
            for i in range(take):
                w[j + i] = <T>row_weight[i]
            for i in range(take if c.bounded else 0):
                for col from 0 <= col < (c.classes if row_weight[i] != 0 else 0) by BLOCK:
                    m = min(<Py_ssize_t>BLOCK, c.classes - col)
                    target = read(y, &c.target, (at + j + i) * c.classes + col, m)
                    if outside(c, target, <const T*>NULL, m):
                        c.bad = 1
            for i in range(take if c.form == FL_LISTS else 0):
                col = 0
                while row_weight[i] != 0 and listed(c, at + j + i, col) >= 0:
                    col += 1
            if c.extra.data and c.spread and not c.soft:
                for i in range(take):
                    if row_weight[i] != 0:
                        gather(&class_weight, &c.extra, label[i], 1)
                        w[j + i] *= class_weight
        add(&partial, total(w, n))
        at += n
    c.partial[index] = value(&partial)


# ---- elementwise ----


cdef void elementwise(fl_call* c, Py_ssize_t index, fl_workspace* ws, T tag) noexcept nogil:
    cdef Py_ssize_t begin = index * c.range, end = min(c.size, begin + c.range), at, n, r
    cdef bint weighted = c.weight.data != NULL or c.mask.data != NULL
    cdef T* w = <T*>ws.weight
    cdef T* a = <T*>ws.extra
    cdef fl_operand* given = &c.loss  # the loss's, the gradient's, the Hessian's
    cdef fl_elements b
    cdef Sum partial
    cdef T* results[3]
    partial.high = partial.low = 0
    memset(&b, 0, sizeof(b))
    b.wide = T is double
    b.order = c.order
    b.silent = c.silent
    b.summed = not c.loss.data
    b.ahead = c.ranges > NEAR
    b.stream = c.stream and c.grad.ndim == 0 and c.hess.ndim == 0
    b.scale = c.scale
    b.knobs = c.knobs
    b.loss = results[0] = <T*>ws.loss
    b.grad = results[1] = <T*>ws.grad
    b.hess = results[2] = <T*>ws.hess
    b.extra = a
    b.sum = NULL if c.silent else ws.total
    b.checks = c if c.bounded else NULL
    if weighted:
        b.weight = w
    if not c.extra.data:
        for at in range(min(<Py_ssize_t>BLOCK, end - begin)):
            a[at] = <T>c.extra_value
    for at from begin <= at < end by BLOCK:
        n = min(<Py_ssize_t>BLOCK, end - at)
        b.n = n
        b.pred = read(<T*>ws.pred, &c.pred, at, n)
        b.target = read(<T*>ws.target, &c.target, at, n)
        if c.extra.data:
            b.extra = read(a, &c.extra, at, n)
        if weighted:
            weights(w, c, at, n)
        for r in range(c.order + 1):
            b.to[r] = at_once(&given[r], at, n, tag) if given[r].data else NULL
        b.first = at == begin
        b.last = at + n == end
        memset(ws.total, 0, LANES * sizeof(double))
        c.block(&b)
        if b.stream:
            memcpy(ws.before_grad, results[1] + BLOCK - 64 // sizeof(T), 64)
            memcpy(ws.before_hess, results[2] + BLOCK - 64 // sizeof(T), 64)
        for r in range(c.order + 1):
            if given[r].data and not b.to[r]:
                scatter(&given[r], results[r], at, n, False)
        add(&partial, merged(ws.total))
    if c.stream:
        fl_stream_fence()
    c.partial[index] = value(&partial)
