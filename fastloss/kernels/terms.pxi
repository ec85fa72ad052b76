# The driver of rows of terms (rows.pxi has what it shares with the softmax).
#
# Rows whose loss is no function of a softmax: the sum over the classes of a term, which a block
# function gives as it does an elementwise loss. `c.form` says of what (src/call.h):
# FL_TERMS      prediction, target and class weight; of a label only its own, with a target of 1
# FL_MEANS      the same over the number of classes
# FL_DIVERGENCE prediction p and target t; where these are close the term lacks t - p, which
#               `balance` gives and is added in double
# FL_MARGINS    the other classes and the label's prediction, over the number of classes
# FL_RIVAL      the largest of the other classes and the label's prediction: a single term
# FL_LISTS      each class that is no label and the prediction of each label, over the number of
#               classes; the target is the list of the labels (`list_rows`)
# Where a row has a single term it is found first, then written among zeros. The units are those of
# the rows above: LANES rows side by side or one. A row whose loss is nan is nan in all classes.

cdef struct Terms:
    int64_t[LANES] y, rival
    double[LANES] w, loss, first, second  # the derivatives of the label's class


cdef struct LaneSums:
    double[LANES] high, low  # low: what rounding loses, of doubles


cdef inline void no_lanes(LaneSums* s, T tag) noexcept nogil:
    memset(s.high, 0, sizeof(s.high))
    if T is double:
        memset(s.low, 0, sizeof(s.low))


cdef inline void add_lanes(LaneSums* s, T* x, Py_ssize_t n, Py_ssize_t steps) noexcept nogil:
    # x has room for zeros up to the end of its last step.
    cdef Py_ssize_t i, lane
    cdef double own, sum, v
    cdef double[LANES] high  # in registers
    for i in range(n, steps * LANES):
        x[i] = 0
    for lane in range(LANES):
        high[lane] = s.high[lane]
    for i in range(steps):
        for lane in range(LANES):
            own = x[i * LANES + lane]
            sum = high[lane] + own
            if T is double:
                v = sum - high[lane]
                s.low[lane] += (high[lane] - (sum - v)) + (own - v)
            high[lane] = sum
    for lane in range(LANES):
        s.high[lane] = high[lane]


cdef inline double lane_sum(fl_call* c, LaneSums* s, Py_ssize_t lane, T tag) noexcept nogil:
    # A row's sum: a lane, or all of them. After an infinity the low part is nan.
    cdef double high = s.high[lane] if c.lanes else merged(s.high), x = high
    if T is double:
        x += s.low[lane] if c.lanes else merged(s.low)
    return x if x == x else high


cdef inline void balance(T* x, const T* p, const T* t, Py_ssize_t n) noexcept nogil:
    cdef T zero = 0
    cdef Py_ssize_t i
    for i in range(n):
        x[i] = t[i] - p[i] if close(p[i], t[i]) else zero


cdef inline void scale_lanes(T* x, const T* w, const T* scale, Py_ssize_t steps) noexcept nogil:
    cdef Py_ssize_t i, lane
    cdef T zero = 0, product
    cdef fl_mode own = fl_enter(True)
    for i in range(steps):
        for lane in range(LANES):
            product = x[i * LANES + lane] * scale[lane]
            x[i * LANES + lane] = zero if w[lane] == 0 else product
    fl_leave(own)


cdef inline T element(const fl_operand* op, Py_ssize_t row, Py_ssize_t col, T tag) noexcept nogil:
    cdef const char* src = fl_row(op, row) + col * op.step
    cdef T x
    if adjacent(op, <T>0):
        return (<const T*>src)[0]
    load(&x, src, op.step, 1, op.code)
    return x


cdef inline Py_ssize_t place(fl_call* c, Py_ssize_t k, Py_ssize_t lane, Py_ssize_t step,
                             Py_ssize_t steps) noexcept nogil:
    # Where class k of a row is in the block of these steps, or -1.
    if c.lanes:
        return (k - step) * LANES + lane if step <= k < step + steps else -1
    k -= step * LANES
    return k if 0 <= k < steps * LANES else -1


cdef void fill_row(const fl_operand* op, Py_ssize_t row, T x) noexcept nogil:
    cdef T[BLOCK] block
    cdef Py_ssize_t i, at
    if not op.data:
        return
    for i in range(BLOCK):
        block[i] = x
    for at from 0 <= at < op.cols by BLOCK:
        scatter(op, block, row * op.cols + at, min(<Py_ssize_t>BLOCK, op.cols - at), False)


cdef void write_terms(fl_call* c, const fl_operand* op, const T* x, Py_ssize_t row, Py_ssize_t n,
                      Py_ssize_t step, Py_ssize_t steps) noexcept nogil:
    cdef Py_ssize_t col = step * LANES
    if c.lanes:
        store_lanes(c, op, x, row, n, step, steps, NULL)
    else:
        store(fl_row(op, row) + col * op.step, x, op.step, min(steps * LANES, c.classes - col),
              op.code, c.stream)


cdef void write_class(const fl_operand* op, Py_ssize_t row, Py_ssize_t k, T x) noexcept nogil:
    if op.data:
        scatter(op, &x, row * op.cols + k, 1, False)


cdef void single_terms(fl_call* c, fl_workspace* ws, fl_elements* b, Py_ssize_t row, Py_ssize_t n,
                       Terms* s, T tag) noexcept nogil:
    # The losses and derivatives of rows of one term, for the label's class or its rival's.
    cdef T* z = <T*>ws.pred
    cdef T* t = <T*>ws.target
    cdef T* block = <T*>ws.weight
    cdef T[LANES] top, at
    cdef T most
    cdef double[LANES] label
    cdef const T* others
    cdef Py_ssize_t i, j, lane, step, steps, k, group = LANES if c.lanes else 1
    cdef bint rival = c.form == FL_RIVAL, up
    for i in range(n):
        t[i] = 1
        z[i] = s.rival[i] = 0
        if s.w[i] != 0 and not rival:
            z[i] = element(&c.pred, row + i, s.y[i], tag)
    for i from 0 <= i < (n if rival else 0) by group:
        if not c.lanes and s.w[i] == 0:
            continue
        for lane in range(LANES):
            top[lane] = -<T>INFINITY
            at[lane] = 0
        for step from 0 <= step < steps_of(c) by STEPS:
            steps = min(<Py_ssize_t>STEPS, steps_of(c) - step)
            others = logits(c, &c.pred, row + i, n if c.lanes else 1, step, steps, &s.y[i],
                            &label[i], block, &most)
            for j in range(steps):
                for lane in range(LANES):
                    up = (others[j * LANES + lane] > top[lane]) | (
                        others[j * LANES + lane] != others[j * LANES + lane])
                    top[lane] = others[j * LANES + lane] if up else top[lane]
                    at[lane] = <T>(step + j) if up else at[lane]
        if c.lanes:
            for lane in range(n):
                z[lane] = top[lane]
                s.rival[lane] = <int64_t>at[lane]
        else:
            z[i] = -<T>INFINITY
            for lane in range(LANES):
                k = <Py_ssize_t>at[lane] * LANES + lane
                if top[lane] != top[lane] or top[lane] > z[i] or (
                        top[lane] == z[i] and k < s.rival[i]):
                    z[i] = top[lane]
                    s.rival[i] = k
    if rival:
        for i in range(n):
            t[i] = <T>label[i]
            if s.w[i] == 0:
                z[i] = t[i] = 0
    b.pred = z
    b.target = t
    b.n = n
    b.scale = 1
    c.block(b)
    for i in range(n):
        s.loss[i] = 0 if s.w[i] == 0 else (<T*>b.loss)[i] * s.w[i]
        s.first[i] = s.second[i] = s.loss[i] if s.loss[i] != s.loss[i] else 0
        if s.w[i] != 0 and s.loss[i] == s.loss[i] and c.order:
            s.first[i] = (<T*>b.grad)[i] * (s.w[i] * c.scale)
            s.first[i] = 0 - s.first[i] if rival else s.first[i]
            s.second[i] = (<T*>b.hess)[i] * (s.w[i] * c.scale) if c.order == 2 else 0


cdef void term_rows(fl_call* c, fl_workspace* ws, fl_elements* b, Py_ssize_t row, Py_ssize_t n,
                    Terms* s, Py_ssize_t j, bint single, T tag) noexcept nogil:
    # Rows [row, row + n), which are the lanes j ... of s: sums their terms, unless each has a
    # single one, and writes their gradients and Hessians.
    cdef T* z = <T*>ws.pred
    cdef T* t = <T*>ws.target
    cdef T* a = <T*>ws.extra
    cdef T* rest = <T*>ws.weight
    cdef T* loss = <T*>b.loss
    cdef T* grad = <T*>b.grad
    cdef T* hess = <T*>b.hess
    cdef T[LANES] w, scale
    cdef T one
    cdef double factor
    cdef LaneSums sum, first, second
    cdef Py_ssize_t all_steps = steps_of(c), blocks = (all_steps + STEPS - 1) // STEPS
    cdef Py_ssize_t block, step, steps, m, at, i, k, lane, start = 0
    cdef bint margins = c.form == FL_MARGINS
    cdef double count = c.classes if margins or c.form == FL_MEANS else 1
    for lane in range(LANES if single or c.lanes else 0):
        i = j + (min(lane, n - 1) if c.lanes else 0)
        w[lane] = <T>s.w[i]
        scale[lane] = <T>(s.w[i] * c.scale / count)
        if single:  # what the other classes get
            scale[lane] = <T>NAN if s.loss[i] != s.loss[i] else <T>0
    # The block function gives what a row alone gets, of LANES rows what is scaled by lanes.
    b.scale = 1 if c.lanes else s.w[j] * c.scale / count
    no_lanes(&sum, tag)
    if margins and not single:
        no_lanes(&first, tag)
        no_lanes(&second, tag)
        for lane in range(n):
            t[lane] = element(&c.pred, row + lane, s.y[j + lane], tag)
        for lane in range(n, LANES):
            t[lane] = t[0]
        for i in range(1, min(<Py_ssize_t>STEPS, all_steps)):
            for lane in range(LANES):
                t[i * LANES + lane] = t[lane]
        if not c.lanes:  # the label's block last: it gets what the others sum up to
            start = s.y[j] // BLOCK + 1
    for block in range(blocks):
        step = (start + block) % blocks * STEPS
        steps = min(<Py_ssize_t>STEPS, all_steps - step)
        m = steps * LANES if c.lanes else min(steps * LANES, c.classes - step * LANES)
        at = row * c.classes + step * LANES
        if single:
            for i in range(steps):
                for lane in range(LANES):
                    grad[i * LANES + lane] = scale[lane]
            for i in range(steps if c.order == 2 else 0):
                for lane in range(LANES):
                    hess[i * LANES + lane] = scale[lane]
        else:
            b.n = m
            b.pred = z
            b.target = t
            if c.lanes:
                load_lanes(z, &c.pred, row, n, step, steps)
                if c.soft:
                    load_lanes(t, &c.target, row, n, step, steps)
                for i in range(steps if c.soft and c.extra.data else 0):
                    gather(&one, &c.extra, step + i, 1)
                    for lane in range(LANES):
                        a[i * LANES + lane] = one
            else:
                b.pred = read(z, &c.pred, at, m)
                if c.soft:
                    b.target = read(t, &c.target, at, m)
                    if c.extra.data:
                        b.extra = read(a, &c.extra, step * LANES, m)
            if c.bounded and outside(c, <const T*>b.target, <const T*>NULL, m):
                for i in range(m):
                    if not c.lanes or i % LANES < n and s.w[j + i % LANES] != 0:
                        if outside(c, <const T*>b.target + i, <const T*>NULL, 1):
                            c.bad = 1
            c.block(b)
            if margins:
                for lane in range(n):
                    k = place(c, s.y[j + lane], lane, step, steps)
                    if k >= 0:
                        loss[k] = grad[k] = hess[k] = 0
                if c.order:
                    add_lanes(&first, grad, m, steps)
                if c.order == 2:
                    add_lanes(&second, hess, m, steps)
            if c.form == FL_DIVERGENCE:
                balance(rest, <const T*>b.pred, <const T*>b.target, m)
                add_lanes(&sum, rest, m, steps)
            add_lanes(&sum, loss, m, steps)
            if c.lanes and c.order:
                scale_lanes(grad, w, scale, steps)
            if c.lanes and c.order == 2:
                scale_lanes(hess, w, scale, steps)
        if block == blocks - 1 and margins and not single:
            for i in range(j, j + n):
                factor = s.w[i] * c.scale / count if c.lanes else 1
                s.first[i] = 0 if s.w[i] == 0 else 0 - lane_sum(c, &first, i - j, tag) * factor
                s.second[i] = 0 if s.w[i] == 0 else lane_sum(c, &second, i - j, tag) * factor
        if single or margins:
            for lane in range(n if not c.soft else 0):
                i = j + lane
                k = place(c, s.rival[i], lane, step, steps) if c.form == FL_RIVAL else -1
                if k >= 0:
                    grad[k] = <T>(0 - s.first[i])
                    hess[k] = <T>s.second[i]
                k = place(c, s.y[i], lane, step, steps)
                if k >= 0:
                    grad[k] = <T>s.first[i]
                    hess[k] = <T>s.second[i]
        if c.grad.data:
            write_terms(c, &c.grad, grad, row, n, step, steps)
        if c.hess.data:
            write_terms(c, &c.hess, hess, row, n, step, steps)
    for i in range(j, j + (0 if single else n)):
        s.loss[i] = 0 if s.w[i] == 0 else lane_sum(c, &sum, i - j, tag) / count * s.w[i]
        if margins and c.lanes and blocks > 1:  # the label's block may have been written before
            write_class(&c.grad, row + i - j, s.y[i], <T>s.first[i])
            write_class(&c.hess, row + i - j, s.y[i], <T>s.second[i])
        if s.loss[i] != s.loss[i]:
            fill_row(&c.grad, row + i - j, <T>NAN)
            fill_row(&c.hess, row + i - j, <T>NAN)


cdef inline void keep_others(T* loss, T* grad, T* active, T* count, const T* other, const T* live,
                             Py_ssize_t steps, bint slopes) noexcept nogil:
    # Clears the terms of labels and of lanes without one; counts those that cost something, by
    # class and by lane.
    cdef Py_ssize_t i, lane
    cdef T zero = 0, x
    for i in range(steps):
        for lane in range(LANES):
            x = loss[i * LANES + lane]
            loss[i * LANES + lane] = zero if other[i * LANES + lane] * live[lane] == 0 else x
    for i in range(steps if slopes else 0):
        for lane in range(LANES):
            x = grad[i * LANES + lane]
            x = zero if other[i * LANES + lane] * live[lane] == 0 else x
            active[i * LANES + lane] += x
            count[lane] += x


cdef void list_rows(fl_call* c, fl_workspace* ws, fl_elements* b, Py_ssize_t row, Py_ssize_t n,
                    Terms* s, Py_ssize_t j, T tag) noexcept nogil:
    # As `term_rows`, of lists of labels: a label after the other with all classes. The scratch
    # holds the scores, which an output may lie on, 1 for the classes that are no labels, and the
    # gradients, which until the end count terms: exactly.
    cdef Py_ssize_t all_steps = steps_of(c), size = all_steps * LANES, most = 0
    cdef Py_ssize_t slot, step, steps, i, k, lane
    cdef T* z = <T*>(ws + 1)
    cdef T* other = z + c.unit
    cdef T* active = other + c.unit
    cdef T* y = <T*>ws.target
    cdef T[LANES] live, count, w, scale
    cdef Py_ssize_t[LANES] labels, at
    cdef LaneSums sum
    cdef double of_label
    no_lanes(&sum, tag)
    b.scale = 1
    b.target = y
    if c.lanes:
        load_lanes(z, &c.pred, row, n, 0, all_steps)
    else:
        load(z, fl_row(&c.pred, row), c.pred.step, c.classes, c.pred.code)
    for k in range(size):
        other[k] = 1 if c.lanes or k < c.classes else 0
        active[k] = 0
    for lane in range(n):
        labels[lane] = 0
        while s.w[j + lane] != 0:
            k = place(c, listed(c, row + lane, labels[lane]), lane, 0, all_steps)
            if k < 0:
                break
            other[k] = 0
            labels[lane] += 1
        most = max(most, labels[lane])
    for slot in range(most):
        for lane in range(LANES):
            count[lane] = live[lane] = y[lane] = 0
        for lane in range(n):
            at[lane] = -1
            if slot < labels[lane]:
                at[lane] = place(c, listed(c, row + lane, slot), lane, 0, all_steps)
            if at[lane] >= 0:
                live[lane] = 1
                y[lane] = z[at[lane]]
        for lane in range(0 if c.lanes else LANES):
            live[lane] = live[0]
            y[lane] = y[0]
        for i in range(1, min(<Py_ssize_t>STEPS, all_steps)):
            memcpy(y + i * LANES, y, LANES * sizeof(T))
        for step from 0 <= step < all_steps by STEPS:
            steps = min(<Py_ssize_t>STEPS, all_steps - step)
            k = step * LANES
            b.pred = z + k
            b.n = steps * LANES if c.lanes else min(steps * LANES, c.classes - k)
            c.block(b)
            keep_others(<T*>b.loss, <T*>b.grad, active + k, count, other + k, live, steps,
                        c.order > 0)
            add_lanes(&sum, <T*>b.loss, b.n, steps)
        for lane in range(n):
            if at[lane] >= 0:
                of_label = count[lane] if c.lanes else total(count, LANES)
                active[at[lane]] -= <T>of_label
    for lane in range(LANES):
        i = j + (min(lane, n - 1) if c.lanes else 0)
        w[lane] = <T>s.w[i]
        scale[lane] = <T>(s.w[i] * c.scale / c.classes)
    if c.grad.data:
        scale_lanes(active, w, scale, all_steps)
        write_terms(c, &c.grad, active, row, n, 0, all_steps)
    for lane in range(n):
        i = j + lane
        s.loss[i] = 0 if s.w[i] == 0 else lane_sum(c, &sum, lane, tag) / c.classes * s.w[i]
        fill_row(&c.hess, row + lane, <T>NAN if s.loss[i] != s.loss[i] else <T>0)
        if s.loss[i] != s.loss[i]:
            fill_row(&c.grad, row + lane, <T>NAN)


cdef void terms(fl_call* c, Py_ssize_t index, fl_workspace* ws, T tag) noexcept nogil:
    cdef Py_ssize_t begin = index * c.range, end = min(c.size, begin + c.range), at, n, j
    cdef bint single = c.form == FL_RIVAL or c.form == FL_TERMS and not c.soft
    cdef T[LANES] loss
    cdef T* a = <T*>ws.extra
    cdef Terms s
    cdef fl_elements b
    cdef Sum partial
    partial.high = partial.low = 0
    memset(&b, 0, sizeof(b))
    b.wide = T is double
    b.order = c.order
    b.ahead = c.ranges > NEAR and not c.lanes
    b.knobs = c.knobs
    b.extra = a
    b.loss = ws.loss
    b.grad = ws.grad
    b.hess = ws.hess
    for j in range(BLOCK):
        a[j] = 1
    for at from begin <= at < end by LANES:
        n = min(<Py_ssize_t>LANES, end - at)
        bring_near(c, at, n, True, True, False, tag)
        row_weights(s.w, s.y, c, at, n, tag)
        if single:
            single_terms(c, ws, &b, at, n, &s, tag)
        if single and c.order == 0:
            pass
        elif c.form == FL_LISTS:
            for j from 0 <= j < n by (LANES if c.lanes else 1):
                list_rows(c, ws, &b, at + j, n if c.lanes else 1, &s, j, tag)
        elif c.lanes:
            term_rows(c, ws, &b, at, n, &s, 0, single, tag)
        else:
            for j in range(n):
                if s.w[j] == 0:
                    s.loss[j] = s.first[j] = s.second[j] = 0
                term_rows(c, ws, &b, at + j, 1, &s, j, single or s.w[j] == 0, tag)
        for j in range(n):
            loss[j] = <T>s.loss[j]
        add(&partial, total(s.loss, n))
        if c.loss.data:
            scatter(&c.loss, loss, at, n, False)
    if c.stream:
        fl_stream_fence()
    c.partial[index] = value(&partial)
