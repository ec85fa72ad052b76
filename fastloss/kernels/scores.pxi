# The driver of scores: of each row of logits and its label what is asked for, in one pass, without
# a gradient. Sums are those of rows.pxi, to the same bits, the label left out; then the label is
# added to what is of all classes.
#
# A row after the other, the class of the maximum is looked for once it is known, in the one block
# that has it; the highest k are a sorted list, and a block whose maximum is not above the last of
# them is passed over. Rows side by side are kept whole in the scratch, so these are further passes
# there.


cdef struct Scores:
    double[LANES] top, log_sum, dot  # of all classes
    int64_t[LANES] argmax, rank
    int[LANES] odd  # nan is among the logits


cdef inline bint asked(const fl_call* c, int result) noexcept nogil:
    return c.scores[result].data != NULL


cdef inline bint asks_sums(const fl_call* c) noexcept nogil:
    return (asked(c, FL_LOGPROB) or asked(c, FL_LOSS) or asked(c, FL_CONFIDENCE)
            or asks_all(c))


cdef inline bint asks_all(const fl_call* c) noexcept nogil:
    # The sum of all classes.
    return asked(c, FL_LSE) or asks_rest(c)


cdef inline bint asks_rest(const fl_call* c) noexcept nogil:
    # With the digits of what is beside the highest. The sum's logarithm is added to the highest
    # logit, which has as few digits, unless it is near 0.
    return asked(c, FL_ENTROPY) or asked(c, FL_TOPK_LOGPROB)


cdef inline bint asks_argmax(const fl_call* c) noexcept nogil:
    return asked(c, FL_ARGMAX) or asked(c, FL_CORRECT)


cdef inline T part_sums(bint split, bint dot, const T* z, Py_ssize_t steps, T top, T* part,
                        const char* ahead) noexcept nogil:
    # The flags are constants in each of the loops.
    if T is float:
        if dot:
            return fl_part_sums_f32(True, True, z, steps, top, part, ahead)
        if split:
            return fl_part_sums_f32(True, False, z, steps, top, part, ahead)
        return fl_part_sums_f32(False, False, z, steps, top, part, ahead)
    else:
        if dot:
            return fl_part_sums_f64(True, True, z, steps, top, part, ahead)
        if split:
            return fl_part_sums_f64(True, False, z, steps, top, part, ahead)
        return fl_part_sums_f64(False, False, z, steps, top, part, ahead)


cdef inline void add_part(const T* lane, double* total) noexcept nogil:
    if T is float:
        fl_add_part_f32(lane, total)
    else:
        fl_add_part_f64(lane, total)


cdef inline void argmax_of(const T* z, Py_ssize_t steps, T* top, T* at) noexcept nogil:
    if T is float:
        fl_argmax_f32(z, steps, top, at)
    else:
        fl_argmax_f64(z, steps, top, at)


cdef inline void next_of(const T* z, Py_ssize_t steps, const T* last, const T* last_at, T* top,
                         T* at) noexcept nogil:
    if T is float:
        fl_next_f32(z, steps, last, last_at, top, at)
    else:
        fl_next_f64(z, steps, last, last_at, top, at)


cdef inline void above(const T* z, Py_ssize_t steps, const T* bound, T* count) noexcept nogil:
    if T is float:
        fl_above_f32(z, steps, bound, count)
    else:
        fl_above_f64(z, steps, bound, count)


cdef inline void nans(const T* z, Py_ssize_t steps, T* odd, const char* ahead) noexcept nogil:
    if T is float:
        fl_nans_f32(z, steps, odd, ahead)
    else:
        fl_nans_f64(z, steps, odd, ahead)


cdef inline Py_ssize_t all_above(const T* z, Py_ssize_t steps, T bound) noexcept nogil:
    if T is float:
        return fl_all_above_f32(z, steps, bound)
    else:
        return fl_all_above_f64(z, steps, bound)


cdef inline Py_ssize_t find(const T* z, Py_ssize_t steps, T x) noexcept nogil:
    if T is float:
        return fl_find_f32(z, steps, x)
    else:
        return fl_find_f64(z, steps, x)


cdef void scatter_bytes(const fl_operand* op, const char* src, Py_ssize_t size, Py_ssize_t at,
                        Py_ssize_t n) noexcept nogil:
    # Integers of `size` bytes to where they belong, as `scatter` does with floats.
    cdef Py_ssize_t row = at // op.cols, col = at % op.cols, take, i
    cdef char* dst
    while n > 0:
        take = min(n, op.cols - col)
        dst = fl_row(op, row) + col * op.step
        if op.step == size:
            memcpy(dst, src, take * size)
        else:
            for i in range(take):
                memcpy(dst + i * op.step, src + i * size, size)
        src += take * size
        n -= take
        row += 1
        col = 0


cdef void with_labels(const Rows* s, Scores* f, Py_ssize_t begin, Py_ssize_t end) noexcept nogil:
    # What is of all classes, from the sums that leave the label out.
    cdef Py_ssize_t i
    cdef double z, m, rise, share, others, dot
    cdef bint alone, leads
    for i in range(begin, end):
        z = s.label_logit[i]
        m = s.top[i]
        alone = m == -INFINITY
        leads = alone | (z > m)
        rise = fabs(z - m)
        share = 0 if alone else fl_exp_nonpositive_f64(-rise)
        rise = 1000 if rise > 1000 else rise  # no share is left: 0 times inf is nan
        others = s.sum[i] * share if leads else s.others[i] + share
        dot = share * (s.dot[i] + s.sum[i] * rise) if leads else s.dot[i] + share * rise
        f.top[i] = z if leads else m
        f.log_sum[i] = fl_log1p_f64(others)
        f.dot[i] = dot / (1 + others)


cdef Py_ssize_t insert(T x, int64_t index, T* value, int64_t* at, Py_ssize_t held,
                       Py_ssize_t k) noexcept nogil:
    # Into a list in descending order of at most k, equals in the order of their index.
    cdef Py_ssize_t i = held
    while i > 0 and (x > value[i - 1] or x == value[i - 1] and index < at[i - 1]):
        if i < k:
            value[i] = value[i - 1]
            at[i] = at[i - 1]
        i -= 1
    if i < k:
        value[i] = x
        at[i] = index
    return min(held + 1, k)


cdef Py_ssize_t select(const T* z, Py_ssize_t col, Py_ssize_t cols, int64_t label, T* value,
                       int64_t* at, Py_ssize_t held, Py_ssize_t k) noexcept nogil:
    # The highest k of a row so far and a block, but for the label.
    cdef Py_ssize_t i, j
    for i from 0 <= i < cols by LANES:
        if held == k and all_above(z + i, 1, value[k - 1]) == 0:
            continue
        for j in range(i, min(i + LANES, cols)):
            if (held < k or z[j] > value[k - 1]) and col + j != label:
                held = insert(z[j], col + j, value, at, held, k)
    return held


cdef void write_topk(const fl_call* c, Py_ssize_t row, const int64_t* at,
                     const T* value) noexcept nogil:
    # A row's highest classes and the logarithms of their probabilities.
    cdef const fl_operand* op = &c.scores[FL_TOPK]
    scatter_bytes(op, <const char*>at, sizeof(int64_t), row * c.topk, c.topk)
    op = &c.scores[FL_TOPK_LOGPROB]
    store(fl_row(op, row), value, op.step, c.topk, op.code, False)


cdef void raise_top(fl_workspace* ws, double rise) noexcept nogil:
    # A row's maximum has risen: all that was summed is below it, and further by this.
    cdef double share = fl_exp_nonpositive_f64(-rise)
    cdef Py_ssize_t i
    for i in range(LANES):
        ws.dot[i] += weighed(ws.total[i], rise)
    for i in range(2 * LANES):
        ws.dot[i] *= share
    rescale(ws, share, rise, True, False, True)


cdef void score_row(fl_call* c, fl_workspace* ws, Rows* s, Scores* f, Py_ssize_t j,
                    T tag) noexcept nogil:
    cdef Py_ssize_t row = s.row + j, all_steps = steps_of(c), step, steps, col, cols, i
    cdef Py_ssize_t held = 0, highest_at = 0
    cdef T* block = <T*>ws.pred
    cdef T* part = <T*>ws.loss
    cdef T* odd = <T*>ws.near
    cdef int64_t* at = <int64_t*>(ws + 1)
    cdef T* value = <T*>(at + c.topk)
    cdef bint sums = asks_sums(c), split = asks_rest(c), dot = asked(c, FL_ENTROPY)
    cdef bint ranks = asked(c, FL_RANK), known
    cdef double unscale = FL_UNSCALE_f32 if sizeof(T) == 4 else FL_UNSCALE_f64
    cdef T m = -<T>INFINITY, own, label = 0
    cdef const T* z = NULL
    cdef const char* src
    cdef const char* ahead
    clear(ws, True, dot, True)
    for i in range(LANES):
        odd[i] = 0
    f.rank[j] = 0
    if ranks:
        load(&label, fl_row(&c.pred, row) + s.y[j] * c.pred.step, 0, 1, c.pred.code)
    for step from 0 <= step < all_steps by STEPS:
        steps = min(<Py_ssize_t>STEPS, all_steps - step)
        col = step * LANES
        cols = min(steps * LANES, c.classes - col)
        ahead = after_next(c, &c.pred, row, step)
        # Most blocks are not higher than those before: their maximum is found with their sum.
        known = (not sums or m == -<T>INFINITY or cols < steps * LANES
                 or col <= s.y[j] < col + cols)
        if known:
            z = logits(c, &c.pred, row, 1, step, steps, &s.y[j], &s.label_logit[j], block, &own)
        else:
            src = fl_row(&c.pred, row) + col * c.pred.step
            z = <const T*>src
            if not adjacent(&c.pred, <T>0):
                load(block, src, c.pred.step, cols, c.pred.code)
                z = block
            own = part_sums(split, dot, z, steps, m, part, ahead)
        if own > m:
            if sums and m > -<T>INFINITY:
                raise_top(ws, <double>own - m)
            m = own
            highest_at = step
            known = True
        if sums:
            if known:
                part_sums(split, dot, z, steps, <T>0 if m == -<T>INFINITY else m, part, ahead)
            for i in range((steps + FL_ADDS - 1) // FL_ADDS):
                add_part(part + 3 * i * LANES, ws.total)
                if split:
                    add_part(part + (3 * i + 1) * LANES, ws.below)
                if dot:
                    add_part(part + (3 * i + 2) * LANES, ws.dot)
        else:
            nans(z, steps, odd, ahead)
        if ranks and own > label:
            f.rank[j] += all_above(z, steps, label)
        if c.topk and (held < c.topk or own > value[c.topk - 1]):
            held = select(z, col, cols, s.y[j], value, at, held, c.topk)
    s.top[j] = m
    if sums:
        s.sum[j] = merged(ws.total) * unscale
        s.others[j] = s.sum[j] - 1
        # What is left is done where it must be, a pass of its own.
        odd[0] = s.sum[j] != s.sum[j]  # nan, or inf - inf
        known = asked(c, FL_LSE) and not split and fabs(<double>m) < 1 and s.sum[j] < 2
        for step from 0 <= step < (all_steps if odd[0] != 0 or known else 0) by STEPS:
            odd[0] = 0 if step == 0 else odd[0]
            steps = min(<Py_ssize_t>STEPS, all_steps - step)
            z = logits(c, &c.pred, row, 1, step, steps, &s.y[j], &s.label_logit[j], block, &own)
            nans(z, steps, odd, NULL)
            part_sums(True, False, z, steps, m, part, NULL)
            for i in range((steps + FL_ADDS - 1) // FL_ADDS):
                add_part(part + (3 * i + 1) * LANES, ws.below)
        if split or known:
            ws.below[0] = merged(ws.below) * unscale
            s.others[j] = ws.below[0] + (floor(s.sum[j] - ws.below[0] + 0.5) - 1)
    s.dot[j] = merged(ws.dot) * unscale if dot else 0
    f.odd[j] = s.label_logit[j] != s.label_logit[j]
    for i in range(LANES):
        f.odd[j] |= odd[i] != 0
    if asks_argmax(c):
        steps = min(<Py_ssize_t>STEPS, all_steps - highest_at)
        if all_steps > STEPS:  # else z is the one block
            z = logits(c, &c.pred, row, 1, highest_at, steps, &s.y[j], &s.label_logit[j], block,
                       &own)
        i = highest_at * LANES + find(z, steps, m)
        f.argmax[j] = i
        if s.label_logit[j] > m or s.label_logit[j] == m > -<T>INFINITY and s.y[j] < i:
            f.argmax[j] = s.y[j]
        elif m == -<T>INFINITY:  # all are
            f.argmax[j] = 0
    if c.topk:
        with_labels(s, f, j, j + 1)
        insert(<T>s.label_logit[j], s.y[j], value, at, held, c.topk)
        for i in range(c.topk):
            value[i] = <T>(value[i] - f.top[j] - f.log_sum[j])
            if f.odd[j]:
                at[i] = -1
                value[i] = NAN
        write_topk(c, row, at, <const T*>value)


cdef void score_lanes(fl_call* c, fl_workspace* ws, Rows* s, Scores* f, T tag) noexcept nogil:
    cdef T* e = <T*>ws.loss
    cdef T* z = <T*>s.e
    cdef T* top = <T*>ws.top
    cdef T* at = <T*>ws.near
    cdef T* label = <T*>ws.factor
    cdef T* last = <T*>ws.inverse
    cdef T* last_at = <T*>ws.first
    cdef bint sums = asks_sums(c), all_classes = asks_all(c), dot = asked(c, FL_ENTROPY)
    cdef double unscale = FL_UNSCALE_f32 if sizeof(T) == 4 else FL_UNSCALE_f64
    cdef Py_ssize_t step, steps, i, k
    cdef int64_t* index = <int64_t*>(z + c.unit)
    cdef T* value = <T*>(index + c.topk * LANES)
    clear(ws, all_classes, dot, True)
    for i in range(LANES):
        top[i] = -<T>INFINITY
        label[i] = at[i] = 0
    for step from 0 <= step < c.classes by STEPS:
        steps = min(<Py_ssize_t>STEPS, c.classes - step)
        lane_logits(c, &c.pred, s.row, s.n, step, steps, s.y, s.label_logit, z + step * LANES, top)
    for i in range(s.n):
        s.top[i] = top[i]
    for i in range(LANES):
        top[i] = <T>0 if top[i] == -<T>INFINITY else top[i]
    for step from 0 <= step < (c.classes if sums else 0) by STEPS:
        steps = min(<Py_ssize_t>STEPS, c.classes - step)
        next_near(c, s, step, steps, False, tag)
        exponentials(all_classes, e, z + step * LANES, steps, top, <const T*>NULL, ws.total,
                     ws.below, NULL, NULL)
        if dot:
            distances(z + step * LANES, <const T*>e, steps, top, ws.dot, ws.mass, NULL)
    for i in range(s.n):  # the labels are back
        label[i] = <T>s.label_logit[i]
        z[s.y[i] * LANES + i] = label[i]
    nans(z, c.classes, at, NULL)
    for i in range(s.n):
        f.odd[i] = at[i] != 0
        s.sum[i] = ws.total[i] * unscale
        if all_classes:
            ws.below[i] *= unscale
            s.others[i] = ws.below[i] + (floor(s.sum[i] - ws.below[i] + 0.5) - 1)
            s.dot[i] = ws.dot[i] * unscale if dot else 0
    if c.topk:
        with_labels(s, f, 0, s.n)
    if asks_argmax(c):
        for i in range(LANES):
            top[i] = -<T>INFINITY
            at[i] = 0
        argmax_of(z, c.classes, top, at)
        for i in range(s.n):
            f.argmax[i] = <int64_t>at[i]
    if asked(c, FL_RANK):
        for i in range(LANES):
            at[i] = 0
        above(z, c.classes, label, at)
        for i in range(s.n):
            f.rank[i] = <int64_t>at[i]
    for i in range(LANES):
        last[i] = <T>INFINITY
        last_at[i] = -1
    for k in range(c.topk):
        for i in range(LANES):
            top[i] = -<T>INFINITY
            at[i] = -1
        next_of(z, c.classes, last, last_at, top, at)
        for i in range(s.n):
            last[i] = top[i]
            last_at[i] = at[i]
            index[i * c.topk + k] = -1 if f.odd[i] else <int64_t>at[i]
            value[i * c.topk + k] = NAN if f.odd[i] else <T>(top[i] - f.top[i] - f.log_sum[i])
    for i in range(s.n if c.topk else 0):
        if s.w[i] != 0:
            write_topk(c, s.row + i, index + i * c.topk, <const T*>(value + i * c.topk))


cdef void confidences(fl_call* c, Rows* s) noexcept nogil:
    # The label's probability, which the derivative is where all signs are the others, into s.first.
    cdef fl_elements b
    cdef Py_ssize_t i
    for i in range(s.n):
        s.ahead[i] = -s.ahead[i]
        s.ahead_low[i] = -s.ahead_low[i]
    memset(&b, 0, sizeof(b))
    b.pred = s.ahead
    b.target = s.ahead_low
    b.extra = s.over
    b.loss = s.dot
    b.grad = s.first
    b.knobs = c.knobs
    b.scale = 1
    b.n = s.n
    b.wide = True
    b.order = 1
    c.block(&b)


cdef void write_number(const fl_call* c, int result, const Rows* s, const Scores* f,
                       const double* x, T tag) noexcept nogil:
    # What a row that is left out has, or one with a nan, is nan.
    cdef T[LANES] own
    cdef Py_ssize_t i
    if asked(c, result):
        for i in range(s.n):
            own[i] = NAN if s.w[i] == 0 or f.odd[i] else <T>x[i]
        scatter(&c.scores[result], <const T*>own, s.row, s.n, False)


cdef void write_index(const fl_call* c, int result, const Rows* s, const Scores* f,
                      const int64_t* x) noexcept nogil:
    # Or -1.
    cdef int64_t[LANES] own
    cdef Py_ssize_t i
    if asked(c, result):
        for i in range(s.n):
            own[i] = -1 if s.w[i] == 0 or f.odd[i] else x[i]
        scatter_bytes(&c.scores[result], <const char*>own, sizeof(int64_t), s.row, s.n)


cdef void write_scores(fl_call* c, fl_workspace* ws, Rows* s, Scores* f, T tag) noexcept nogil:
    cdef double[LANES] x
    cdef char[LANES] right
    cdef int64_t* none = <int64_t*>(ws + 1)
    cdef T* nan = <T*>(none + c.topk)
    cdef Py_ssize_t i, k
    for i in range(s.n):
        if s.w[i] == 0:  # whatever is there: finite, and not used
            s.top[i] = s.label_logit[i] = s.others[i] = s.dot[i] = 0
            s.sum[i] = 1
            f.odd[i] = False
            for k in range(c.topk):
                none[k] = -1
                nan[k] = NAN
            if c.topk:
                write_topk(c, s.row + i, <const int64_t*>none, <const T*>nan)
    if asks_all(c) and not c.topk:
        with_labels(s, f, 0, s.n)
    for i in range(s.n):
        x[i] = s.label_logit[i] - s.top[i]
    write_number(c, FL_MARGIN, s, f, x, tag)
    for i in range(s.n):  # of an infinite logit the sum is nan
        x[i] = f.top[i] if fabs(f.top[i]) == INFINITY else f.top[i] + f.log_sum[i]
    write_number(c, FL_LSE, s, f, x, tag)
    for i in range(s.n):
        x[i] = NAN if fabs(f.top[i]) == INFINITY else f.log_sum[i] + f.dot[i]
    write_number(c, FL_ENTROPY, s, f, x, tag)
    if asks_sums(c):
        judge(c, s.n, s, False, tag)
        write_number(c, FL_LOSS, s, f, s.loss, tag)
        for i in range(s.n):
            x[i] = 0 - s.loss[i]
        write_number(c, FL_LOGPROB, s, f, x, tag)
    if asked(c, FL_CONFIDENCE):
        confidences(c, s)
        write_number(c, FL_CONFIDENCE, s, f, s.first, tag)
    write_index(c, FL_ARGMAX, s, f, f.argmax)
    write_index(c, FL_RANK, s, f, f.rank)
    if asked(c, FL_CORRECT):
        for i in range(s.n):
            right[i] = s.w[i] != 0 and not f.odd[i] and f.argmax[i] == s.y[i]
        scatter_bytes(&c.scores[FL_CORRECT], right, 1, s.row, s.n)


cdef void scores(fl_call* c, Py_ssize_t index, fl_workspace* ws, T tag) noexcept nogil:
    cdef Py_ssize_t begin = index * c.range, end = min(c.size, begin + c.range), at, j
    cdef fl_mode own = fl_enter(True)
    cdef Rows s
    cdef Scores f
    memset(&s, 0, sizeof(s))
    memset(&f, 0, sizeof(f))
    s.e = ws + 1
    for at from begin <= at < end by LANES:
        s.row = at
        s.n = min(<Py_ssize_t>LANES, end - at)
        bring_near(c, at, s.n, c.classes <= STEPS or not asks_sums(c), False, False, tag)
        row_weights(s.w, s.y, c, at, s.n, tag)
        if c.lanes:
            score_lanes(c, ws, &s, &f, tag)
        for j in range(0 if c.lanes else s.n):
            if s.w[j] != 0:
                score_row(c, ws, &s, &f, j, tag)
        write_scores(c, ws, &s, &f, tag)
    fl_leave(own)
