# The driver of rows of classes (drivers.pxi has what it shares with the others).
#
# A unit of work is either LANES short rows side by side, a lane each (`c.lanes`: also where the
# classes are not the adjacent axis), or one row, LANES columns at a time. Both are `steps` steps
# of lanes, so the loops below serve both; only loading, merging lanes and storing differ.
#
# Per row: the maximum and the sum of e = exp(z - max), then, from the row's loss and its
# derivatives, everything that is written is e times something. For a label the maximum and the sum
# leave the label out; that keeps the loss of a confident row (the log-odds, multiclass.pxi).
# e is kept between the passes where the unit fits the scratch (`c.stored`), else computed again.
# 1 - p of the largest class is (S - 1) / S with S - 1 summed on its own, which does not cancel.

ctypedef fl_rows Rows

cdef void load_lanes(T* dst, const fl_operand* op, Py_ssize_t row, Py_ssize_t n,
                     Py_ssize_t col, Py_ssize_t cols) noexcept nogil:
    # Columns [col, col + cols) of n <= LANES rows, a step each; the lanes beyond n are zero.
    cdef Py_ssize_t take, last, i, stride, done = 0
    if n < LANES:
        memset(dst, 0, cols * LANES * sizeof(T))
    while done < n:
        last = op.shape[op.ndim - 1] if op.ndim else 1
        stride = op.stride[op.ndim - 1] if op.ndim else 0
        take = min(n - done, last - row % last)
        src = fl_row(op, row) + col * op.step
        if adjacent(op, <T>0):
            if T is float:
                fl_to_columns_f32(dst + done, src, stride, take, cols)
            else:
                fl_to_columns_f64(dst + done, src, stride, take, cols)
        elif op.step == 2:
            load_halves(dst + done, op, src, stride, take, cols)
        elif stride == sizeof(T) and readable(op, <T>0):
            fl_copy_pieces(<char*>(dst + done), LANES * sizeof(T), src, op.step,
                           take * sizeof(T), cols, False)
        else:
            for i in range(cols):
                fl_prefetch(src + (i + FL_SOON) * op.step, stride * take, False)
                load(dst + i * LANES + done, src + i * op.step, stride, take, op.code)
        row += take
        done += take


cdef void store_lanes(const fl_call* c, const fl_operand* op, const T* src, Py_ssize_t row,
                      Py_ssize_t n, Py_ssize_t col, Py_ssize_t cols, char* lines) noexcept nogil:
    # Where the classes are apart, `lines` are those that wait for the next rows, two of each class.
    cdef Py_ssize_t take, last, i, stride, plane, done = 0
    cdef bint first, final
    cdef char* line
    while done < n:
        last = op.shape[op.ndim - 1] if op.ndim else 1
        stride = op.stride[op.ndim - 1] if op.ndim else 0
        take = min(n - done, last - row % last)
        dst = fl_row(op, row) + col * op.step
        if adjacent(op, <T>0):
            if T is float:
                fl_from_columns_f32(dst, src + done, stride, take, cols)
            else:
                fl_from_columns_f64(dst, src + done, stride, take, cols)
        elif op.step == 2:
            store_halves(op, dst, src + done, stride, take, cols)
        elif lines and c.stream and stride == sizeof(T) and readable(op, <T>0):
            first = row % c.range == 0 or row % last * stride < 64  # else they are a line and more
            final = (row + take) % last == 0 or row + take == c.size or (row + take) % c.range == 0
            plane = row - row % last  # its first row
            if (op.step == last * stride and op.step >= 128
                    and (op.step | <Py_ssize_t>dst - (row - plane) * stride) % 64 != 0
                    and plane // c.range == (plane + last - 1) // c.range):  # all is done here
                for i in range(cols):
                    line = lines + 128 * (col + i)
                    fl_stream_in_plane(dst + i * op.step, <const char*>(src + i * LANES + done),
                                       take * sizeof(T), line,
                                       dst + i * op.step - (row - plane) * stride, op.step,
                                       line + 64 if i > 0 else NULL,
                                       line + 192 if i + 1 < cols else NULL)
            else:
                for i in range(cols):
                    fl_stream_piece(dst + i * op.step, <const char*>(src + i * LANES + done),
                                    take * sizeof(T), lines + 128 * (col + i), first,
                                    final or take * stride < 64)
        elif stride == sizeof(T) and readable(op, <T>0):
            fl_copy_pieces(dst, op.step, <const char*>(src + done), LANES * sizeof(T),
                           take * sizeof(T), cols, True)
        else:
            for i in range(cols):
                fl_prefetch(dst + (i + FL_SOON) * op.step, stride * take, True)
                store(dst + i * op.step, src + i * LANES + done, stride, take, op.code, False)
        row += take
        done += take


cdef inline Py_ssize_t steps_of(const fl_call* c) noexcept nogil:
    return c.classes if c.lanes else (c.classes + LANES - 1) // LANES


cdef inline void highest(const T* z, Py_ssize_t steps, T* top) noexcept nogil:
    if T is float:
        fl_highest_f32(z, steps, top)
    else:
        fl_highest_f64(z, steps, top)


cdef inline T highest_of_all(const T* z, Py_ssize_t steps) noexcept nogil:
    if T is float:
        return fl_highest_of_all_f32(z, steps)
    else:
        return fl_highest_of_all_f64(z, steps)


cdef inline T copy_highest(T* block, const T* z, Py_ssize_t n) noexcept nogil:
    if T is float:
        return fl_copy_highest_f32(block, z, n)
    else:
        return fl_copy_highest_f64(block, z, n)


cdef inline const T* cooling(const fl_call* c, fl_workspace* ws, T tag) noexcept nogil:
    # 1 / temperature, in two parts, or NULL.
    cdef T* by = <T*>ws.by
    cdef double high = 1 / c.temperature
    if c.temperature == 1:
        return NULL
    high = min(high, 3.4e38 if T is float else 1.7e308)  # 0 times inf is nan
    by[0] = <T>high
    if T is float:
        by[1] = <T>(high - by[0])
    else:
        by[1] = (1 - by[0] * c.temperature - product_low(by[0], c.temperature,
                                                         by[0] * c.temperature)) * by[0]
    return by


cdef void load_mask(T* keep, const fl_call* c, Py_ssize_t row, Py_ssize_t n, Py_ssize_t step,
                    Py_ssize_t steps) noexcept nogil:
    # The class mask of the same classes as `logits` loads; 0 is a class that is out.
    cdef const fl_operand* op = &c.class_mask
    cdef Py_ssize_t col = step * LANES, cols = min(steps * LANES, c.classes - col)
    if c.lanes:
        load_lanes(keep, op, row, n, step, steps)
        return
    load(keep, fl_row(op, row) + col * op.step, op.step, cols, op.code)
    memset(keep + cols, 0, (steps * LANES - cols) * sizeof(T))


cdef inline void take_labels(T* z, Py_ssize_t classes, const T* y, T* own, T* top) noexcept nogil:
    if T is float:
        fl_take_out_f32(z, classes, y, own, top)
    else:
        fl_take_out_f64(z, classes, y, own, top)


cdef inline void as_lanes(T* y, const int64_t* labels, Py_ssize_t n) noexcept nogil:
    # Of few classes: there are no vectors of 64-bit integers to floats before AVX-512.
    cdef Py_ssize_t i
    for i in range(n):
        y[i] = <T><int32_t>labels[i]
    for i in range(n, LANES):
        y[i] = -1


cdef void lane_logits(fl_call* c, const fl_operand* op, Py_ssize_t row, Py_ssize_t n,
                      Py_ssize_t step, Py_ssize_t steps, const int64_t* y, double* label_logit,
                      T* block, T* top) noexcept nogil:
    # Classes [step, step + steps) of rows side by side, capped; the labels' are taken out (-inf).
    # `top` is raised to the highest, unless it is NULL.
    cdef Py_ssize_t i, k
    cdef uint64_t among
    cdef T[BLOCK] keep
    cdef T[LANES] labels, own, any_top
    load_lanes(block, op, row, n, step, steps)
    if c.softcap != 0 and op == &c.pred:
        cap(block, steps * LANES, c.softcap)
    if c.class_mask.data and op == &c.pred:
        load_mask(keep, c, row, n, step, steps)
        for i in range(steps * LANES):
            block[i] = -<T>INFINITY if keep[i] == 0 else block[i]
    if not (c.soft or c.spread) and steps == c.classes:  # then every label is here
        as_lanes(labels, y, n)
        memset(own, 0, sizeof(own))
        memset(any_top, 0, sizeof(any_top))
        take_labels(block, steps, labels, own, top if top else any_top)
        for i in range(n):
            label_logit[i] = own[i]
        return
    if not (c.soft or c.spread):
        among = fl_among(y, n, step, steps)
        while among:
            i = fl_lowest(among)
            k = y[i] - step
            label_logit[i] = block[k * LANES + i]
            block[k * LANES + i] = -<T>INFINITY
            among &= among - 1
    if top:
        highest(block, steps, top)


cdef const T* logits(fl_call* c, const fl_operand* op, Py_ssize_t row, Py_ssize_t n,
                     Py_ssize_t step, Py_ssize_t steps, const int64_t* y, double* label_logit,
                     T* block, T* most) noexcept nogil:
    # Steps [step, step + steps) of a unit's logits (or its target's), capped; the label's is taken
    # out (-inf), as is padding. Of a single row, `most` gets their maximum.
    cdef Py_ssize_t i, k, col, cols
    cdef bint take_out = not c.soft and not c.spread
    cdef bint masked = c.class_mask.data != NULL and op == &c.pred
    cdef bint capped = c.softcap != 0 and op == &c.pred
    cdef T[BLOCK] keep
    cdef const char* src
    if c.lanes:
        lane_logits(c, op, row, n, step, steps, y, label_logit, block, <T*>NULL)
        return block
    if masked:
        load_mask(keep, c, row, n, step, steps)
    col = step * LANES
    cols = min(steps * LANES, c.classes - col)
    k = y[0] - col if take_out else -1
    k = k if 0 <= k < cols else -1
    src = fl_row(op, row) + col * op.step
    if adjacent(op, <T>0) and not masked and not capped:
        if k < 0 and cols % LANES == 0:
            most[0] = highest_of_all(<const T*>src, steps)
            return <const T*>src
        most[0] = copy_highest(block, <const T*>src, cols)
        if k >= 0:
            label_logit[0] = (<const T*>src)[k]
            block[k] = -<T>INFINITY
            if not label_logit[0] < most[0]:
                most[0] = highest_of_all(block, steps)
        return block
    load(block, src, op.step, cols, op.code)
    if capped:
        cap(block, cols, c.softcap)
    for i in range(cols, steps * LANES):
        block[i] = -<T>INFINITY
    for i in range(cols if masked else 0):
        block[i] = -<T>INFINITY if keep[i] == 0 else block[i]
    if k >= 0:
        label_logit[0] = block[k]
        block[k] = -<T>INFINITY
    most[0] = highest_of_all(block, steps)
    return block


cdef void count_kept(fl_call* c, fl_workspace* ws, Rows* s, T tag) noexcept nogil:
    # How many classes a mask keeps, of each row of a group.
    cdef T* keep = <T*>ws.pred
    cdef Py_ssize_t i, row, col, cols
    for row in range(s.n):
        s.kept[row] = 0
        for col from 0 <= col < c.classes by BLOCK:
            cols = min(<Py_ssize_t>BLOCK, c.classes - col)
            load(keep, fl_row(&c.class_mask, s.row + row) + col * c.class_mask.step,
                 c.class_mask.step, cols, c.class_mask.code)
            for i in range(cols):
                s.kept[row] += keep[i]


cdef void target_mass(fl_call* c, fl_workspace* ws, const Rows* s, Py_ssize_t j, Py_ssize_t n,
                      Py_ssize_t step, Py_ssize_t steps, bint checks, T* u) noexcept nogil:
    # What multiplies -log p of each class in the rows [j, j + n): class weight x (smoothed) target,
    # whose domain is checked if it is read for the first time.
    cdef Py_ssize_t i, k, lane, col, cols, row = s.row + j
    cdef const int64_t* y = &s.y[j]
    cdef T[BLOCK] class_weight
    cdef T[LANES] top, over
    cdef T[BLOCK] spread
    cdef T one, keep = <T>(1 - c.smoothing)
    cdef const char* src
    if c.target_logits:
        for lane in range(LANES):
            i = j + (min(lane, n - 1) if c.lanes else 0)
            top[lane] = <T>s.target_top[i]
            over[lane] = <T>((FL_UNSCALE_f32 if T is float else FL_UNSCALE_f64) / s.target_sum[i])
        shares(u, logits(c, &c.target, row, n, step, steps, NULL, NULL, u, &one), steps, top, over,
               cooling(c, ws, <T>0))
        return
    if c.soft:
        if c.lanes:
            load_lanes(u, &c.target, row, n, step, steps)
        else:
            col = step * LANES
            cols = min(steps * LANES, c.classes - col)
            src = fl_row(&c.target, row) + col * c.target.step
            load(u, src, c.target.step, cols, c.target.code)
        if checks and c.bounded and outside(
                c, u, <const T*>NULL, steps * LANES if c.lanes else cols):
            for i in range(steps * LANES if c.lanes else 1):
                if not c.lanes or i % LANES < n and s.w[j + i % LANES] != 0:
                    if not c.lanes or outside(c, u + i, <const T*>NULL, 1):
                        c.bad = 1
    if c.spread:
        if c.class_mask.data:  # evenly over the classes kept
            load_mask(spread, c, row, n, step, steps)
            for i in range(steps * LANES):
                lane = j + (min(i % LANES, n - 1) if c.lanes else 0)
                spread[i] *= <T>(c.smoothing / s.kept[lane])
        else:
            one = <T>(c.smoothing / c.classes)
            for i in range(steps * LANES):
                spread[i] = one
    if c.soft:
        if c.spread:
            for i in range(steps * LANES):
                u[i] = u[i] * keep + spread[i]
    else:
        for i in range(steps * LANES):
            u[i] = spread[i]
        if c.lanes:
            for lane in range(n):
                k = y[lane] - step
                if 0 <= k < steps:
                    u[k * LANES + lane] += keep
        else:
            k = y[0] - step * LANES
            if 0 <= k < steps * LANES:
                u[k] += keep
    if c.extra.data:
        if c.lanes:
            for i in range(steps):
                gather(&one, &c.extra, step + i, 1)
                for lane in range(LANES):
                    u[i * LANES + lane] *= one
        else:
            col = step * LANES
            cols = min(steps * LANES, c.classes - col)
            gather(class_weight, &c.extra, col, cols)
            for i in range(cols):
                u[i] *= class_weight[i]
    if not c.lanes:
        for i in range(min(steps * LANES, c.classes - step * LANES), steps * LANES):
            u[i] = 0


cdef inline void exponentials(bint split, T* e, const T* z, Py_ssize_t steps, const T* top,
                              const T* by, double* total, double* below, const char* ahead,
                              const char* into) noexcept nogil:
    # The flags are constants in each of the loops.
    if T is float:
        if by != NULL:
            fl_exponentials_f32(True, e, z, steps, top, by, total, below, ahead, into)
        elif split:
            fl_exponentials_f32(True, e, z, steps, top, NULL, total, below, ahead, into)
        else:
            fl_exponentials_f32(False, e, z, steps, top, NULL, total, below, ahead, into)
    else:
        if by != NULL:
            fl_exponentials_f64(True, e, z, steps, top, by, total, below, ahead, into)
        elif split:
            fl_exponentials_f64(True, e, z, steps, top, NULL, total, below, ahead, into)
        else:
            fl_exponentials_f64(False, e, z, steps, top, NULL, total, below, ahead, into)


cdef inline void shares(T* q, const T* t, Py_ssize_t steps, const T* top, const T* over,
                        const T* by) noexcept nogil:
    if T is float:
        if by == NULL:
            fl_shares_f32(q, t, steps, top, over, NULL)
        else:
            fl_shares_f32(q, t, steps, top, over, by)
    else:
        if by == NULL:
            fl_shares_f64(q, t, steps, top, over, NULL)
        else:
            fl_shares_f64(q, t, steps, top, over, by)


cdef inline void ratios(bint of_logits, T* x, T* p, const T* e, const T* z, const T* t, const T* q,
                        Py_ssize_t steps, fl_workspace* ws, const T* by) noexcept nogil:
    if T is float:
        fl_ratios_f32(of_logits, x, p, e, z, t, q, steps, <float*>ws.top, <float*>ws.near,
                      <float*>ws.factor, <float*>ws.inverse, <float*>ws.first, <float*>ws.second,
                      by)
    else:
        fl_ratios_f64(of_logits, x, p, e, z, t, q, steps, ws.top, ws.near, ws.factor, ws.inverse,
                      ws.first, ws.second, by)


cdef inline void cross(const T* z, const T* q, Py_ssize_t steps, const T* top, const T* by,
                       double* total, const char* ahead) noexcept nogil:
    if T is float:
        if by == NULL:
            fl_cross_f32(z, q, steps, top, NULL, total, ahead)
        else:
            fl_cross_f32(z, q, steps, top, by, total, ahead)
    else:
        if by == NULL:
            fl_cross_f64(z, q, steps, top, NULL, total, ahead)
        else:
            fl_cross_f64(z, q, steps, top, by, total, ahead)


cdef inline void kl_terms_as(const T* e, const T* z, const T* q, Py_ssize_t steps,
                             fl_workspace* ws, const T* by) noexcept nogil:
    if T is float:
        fl_kl_terms_f32(e, z, q, steps, <float*>ws.top, <float*>ws.near, <float*>ws.factor,
                        <float*>ws.second, by, ws.below)
    else:
        fl_kl_terms_f64(e, z, q, steps, ws.top, ws.near, ws.factor, ws.second, by, ws.below)


cdef inline void kl_terms(const T* e, const T* z, const T* q, Py_ssize_t steps, fl_workspace* ws,
                          const T* by) noexcept nogil:
    # The flags are constants in each of the loops.
    if e != NULL and by != NULL:
        kl_terms_as(e, z, q, steps, ws, by)
    elif e != NULL:
        kl_terms_as(e, z, q, steps, ws, <const T*>NULL)
    elif by != NULL:
        kl_terms_as(<const T*>NULL, z, q, steps, ws, by)
    else:
        kl_terms_as(<const T*>NULL, z, q, steps, ws, <const T*>NULL)


cdef inline void less(T* g, const T* u, Py_ssize_t steps, const T* scale) noexcept nogil:
    if T is float:
        fl_less_f32(g, u, steps, scale)
    else:
        fl_less_f64(g, u, steps, scale)


cdef inline void difference(const T* e, const T* u, Py_ssize_t n, fl_workspace* ws,
                            T* g) noexcept nogil:
    if T is float:
        fl_difference_f32(e, u, n, (<float*>ws.near)[0], (<float*>ws.factor)[0],
                          (<float*>ws.scale)[0], g)
    else:
        fl_difference_f64(e, u, n, ws.near[0], ws.factor[0], ws.scale[0], g)


cdef void cap(T* z, Py_ssize_t n, double softcap) noexcept nogil:
    if T is float:
        fl_cap_f32(z, n, softcap)
    else:
        fl_cap_f64(z, n, softcap)


cdef void uncap(fl_call* c, Py_ssize_t row, Py_ssize_t n, Py_ssize_t step, Py_ssize_t steps, T* z,
                T* grad, T* hess) noexcept nogil:
    # The derivatives in a block's logits, which are read again into z, from those in the capped.
    cdef Py_ssize_t col = step * LANES, count = steps * LANES
    if c.lanes:
        load_lanes(z, &c.pred, row, n, step, steps)
    else:
        count = min(count, c.classes - col)
        load(z, fl_row(&c.pred, row) + col * c.pred.step, c.pred.step, count, c.pred.code)
    if T is float:
        fl_uncap_f32(c.order == 2, z, count, c.softcap, grad, hess)
    else:
        fl_uncap_f64(c.order == 2, z, count, c.softcap, grad, hess)


cdef inline void add_up(const T* x, Py_ssize_t steps, double* total) noexcept nogil:
    if T is float:
        fl_add_up_f32(x, steps, total)
    else:
        fl_add_up_f64(x, steps, total)


cdef inline void add_step(double* total, T* x, Py_ssize_t n) noexcept nogil:
    if T is float:
        fl_add_step_f32(total, x, n)
    else:
        fl_add_step_f64(total, x, n)


cdef inline void add_exactly(const T* x, Py_ssize_t steps, double* total) noexcept nogil:
    if T is float:
        fl_add_exactly_f32(x, steps, total)
    else:
        fl_add_exactly_f64(x, steps, total)


cdef inline void spread_out(bint hessian, const T* p, Py_ssize_t steps, fl_workspace* ws, T slope,
                            T* g, T* h) noexcept nogil:
    if T is float:
        fl_spread_f32(hessian, p, steps, <float*>ws.factor, <float*>ws.first_up,
                      <float*>ws.second_up, <float*>ws.one_minus, <float*>ws.scale, slope, g, h)
    else:
        fl_spread_f64(hessian, p, steps, ws.factor, ws.first_up, ws.second_up, ws.one_minus,
                      ws.scale, slope, g, h)


cdef inline void distances(const T* z, const T* u, Py_ssize_t steps, const T* top,
                           double* dot, double* mass, const char* ahead) noexcept nogil:
    if T is float:
        fl_distances_f32(z, u, steps, top, dot, mass, ahead)
    else:
        fl_distances_f64(z, u, steps, top, dot, mass, ahead)


cdef inline void scaled(bint apart, bint hessian, const T* e, Py_ssize_t steps, const T* y,
                        fl_workspace* ws, T* grad, T* hess) noexcept nogil:
    if T is float:
        fl_scaled_f32(apart, hessian, e, steps, y, <float*>ws.first, <float*>ws.near,
                      <float*>ws.factor, <float*>ws.inverse, <float*>ws.first_up,
                      <float*>ws.second_up, <float*>ws.unscale, <float*>ws.one_minus, grad, hess)
    else:
        fl_scaled_f64(apart, hessian, e, steps, y, ws.first, ws.near, ws.factor, ws.inverse,
                      ws.first_up, ws.second_up, ws.unscale, ws.one_minus, grad, hess)


cdef inline bint one_stretch(const fl_call* c, const fl_operand* op, T tag) noexcept nogil:
    # Whether rows follow each other in memory.
    return (op.data != NULL and adjacent(op, tag) and op.ndim == 1
            and op.stride[0] == c.classes * <Py_ssize_t>sizeof(T))


cdef inline void part_near(const fl_call* c, const fl_operand* op, Py_ssize_t row,
                           Py_ssize_t step, Py_ssize_t steps, bint writing, T tag) noexcept nogil:
    cdef Py_ssize_t last = op.shape[op.ndim - 1], stride = op.stride[op.ndim - 1]
    cdef Py_ssize_t half = steps // 2 if c.order else steps
    cdef Py_ssize_t take, end = min(row + LANES, c.size)
    if stride < op.step:
        while row < end and not writing:  # where pieces are written, none is read
            take = min(end - row, last - row % last)
            fl_prefetch_pieces(fl_row(op, row) + step * op.step, stride * take, op.step, steps)
            row += take
    elif one_stretch(c, op, tag):
        step, steps = (step + half, steps - half) if writing else (step, half)
        fl_prefetch_pieces(fl_row(op, row) + step * LANES * sizeof(T), steps * LANES * sizeof(T),
                           0, 1)


cdef inline void next_near(const fl_call* c, const Rows* s, Py_ssize_t step, Py_ssize_t steps,
                           bint writing, T tag) noexcept nogil:
    # While rows side by side are computed, these classes' part of the next is brought near: so the
    # memory works meanwhile. (1000 classes apart take 25 instead of 33 ms.)
    cdef Py_ssize_t row = s.row + LANES
    if c.classes <= STEPS or c.ranges <= NEAR or row % c.range == 0 or row >= c.size:
        return
    part_near(c, &c.pred, row, step, steps, writing, tag)
    if c.soft:
        part_near(c, &c.target, row, step, steps, writing, tag)


cdef inline bint stretched(const fl_call* c, T tag) noexcept nogil:
    # Whether the derivatives of rows side by side are each one stretch of memory, to be streamed.
    return (c.stream and c.lanes and c.double_buffered and one_stretch(c, &c.grad, tag)
            and (c.order == 1 or one_stretch(c, &c.hess, tag)))


cdef inline bint loops_bring_near(const fl_call* c, T tag) noexcept nogil:
    # Whether the loop of exponentials brings few classes of the next rows near, as it goes: all at
    # once they wait for each other (of 65536 rows of 16 doubles, 0.84 of the time).
    return (c.lanes and c.classes <= STEPS and c.ranges > NEAR and one_stretch(c, &c.pred, tag)
            and (not c.grad.data or one_stretch(c, &c.grad, tag)))


cdef inline const char* next_rows(const fl_call* c, const fl_operand* op, const Rows* s,
                                  T tag) noexcept nogil:
    # The next rows side by side, or what is a page later, if that is further: to there the
    # processor's own prefetch goes.
    if not one_stretch(c, op, tag):
        return NULL
    return fl_row(op, s.row) + max(<Py_ssize_t>FL_PAGE, LANES * op.stride[0])


cdef inline T* beside(const fl_call* c, const Rows* s, T tag) noexcept nogil:
    # Of rows side by side: what is beside the results that are to be streamed, if there is room.
    return <T*>s.e + (c.unit if c.double_buffered else 0)


cdef inline T* lane_exponentials(const fl_call* c, const Rows* s, T tag) noexcept nogil:
    # They take the place of the logits, unless a divergence needs both.
    return <T*>s.e if c.divergence else beside(c, s, tag)


cdef const T* reduce_lanes(fl_call* c, fl_workspace* ws, Rows* s, T tag) noexcept nogil:
    # The sums of rows side by side into s; e gets exp(z - top). Returns the last block of logits.
    cdef Py_ssize_t row = s.row, n = s.n
    cdef T* e = lane_exponentials(c, s, tag)
    cdef T* block = <T*>ws.pred
    cdef T* kept = <T*>NULL if c.divergence == FL_ANY_DIVERGENCE else beside(c, s, tag)
    cdef T* u = <T*>ws.target
    cdef T* top = <T*>ws.top
    cdef Py_ssize_t step, steps, i
    cdef bint soft = (c.soft or c.spread) and not c.divergence
    cdef const T* by = cooling(c, ws, tag)
    cdef bint split = soft or by != NULL or c.order == 2
    cdef double unscale = FL_UNSCALE_f32 if sizeof(T) == 4 else FL_UNSCALE_f64
    cdef const T* z = NULL
    cdef const char* ahead = NULL
    cdef const char* into = NULL
    if loops_bring_near(c, tag):
        ahead = next_rows(c, &c.pred, s, tag)
        into = NULL if stretched(c, tag) else next_rows(c, &c.grad, s, tag)
    for i in range(LANES):
        top[i] = -<T>INFINITY
    clear(ws, split, soft, sizeof(T) == 8)
    for step from 0 <= step < c.classes by STEPS:
        steps = min(<Py_ssize_t>STEPS, c.classes - step)
        if kept:
            block = kept + step * LANES
        lane_logits(c, &c.pred, row, n, step, steps, s.y, s.label_logit, block, top)
        z = block
    for i in range(n):
        s.top[i] = top[i]
    for i in range(LANES):
        top[i] = <T>0 if top[i] == -<T>INFINITY else top[i]
    for step from 0 <= step < c.classes by STEPS:
        steps = min(<Py_ssize_t>STEPS, c.classes - step)
        if kept:
            z = kept + step * LANES
        elif c.classes > STEPS:  # else z is the one block, as it was
            lane_logits(c, &c.pred, row, n, step, steps, s.y, s.label_logit, block, <T*>NULL)
        if soft:
            target_mass(c, ws, s, 0, n, step, steps, True, u)
            distances(z, u, steps, top, ws.dot, ws.mass, NULL)
        next_near(c, s, step, steps, False, tag)
        exponentials(split, e + step * LANES, z, steps, top, by, ws.total, ws.below, ahead, into)
    for i in range(n):
        s.sum[i] = ws.total[i] * unscale
        if split:  # S - 1: what is below the maximum, and the other maxima, a whole number
            ws.below[i] *= unscale
            s.others[i] = ws.below[i] + (floor(s.sum[i] - ws.below[i] + 0.5) - 1)
        if soft:
            s.dot[i] = ws.dot[i]
            s.mass[i] = ws.mass[i]
    return z


cdef inline void rescale(fl_workspace* ws, double share, double rise, bint split, bint soft,
                         bint exact) noexcept nogil:
    # A row's maximum has risen: all that was summed is below it. `exact` as of `clear`.
    cdef Py_ssize_t i
    for i in range(LANES << exact):
        ws.total[i] *= share
    if split:
        for i in range(LANES << exact):
            ws.below[i] = ws.total[i]
    if soft:
        for i in range(LANES):
            ws.dot[i] += weighed(ws.mass[i], rise)


cdef inline const char* after_next(fl_call* c, const fl_operand* op, Py_ssize_t row,
                                   Py_ssize_t step) noexcept nogil:
    # The block after the next, or the row.
    return fl_row(op, row) + (min((step + STEPS) * LANES, c.classes) + BLOCK) * op.step


cdef const T* reduce_row(fl_call* c, fl_workspace* ws, Rows* s, Py_ssize_t j, Rows* last,
                         T tag) noexcept nogil:
    # The sums of a row into s, in one pass: the maximum is that of the blocks so far. e gets
    # exp(z - this maximum), and the maxima behind. With each block one of the rows before these is
    # written, so that memory works both ways while the arithmetic goes on. Returns the last block
    # of logits. Kullback and Leibler's divergence from probabilities is summed up too.
    cdef Py_ssize_t row = s.row + j
    cdef T* e = <T*>s.e + (j * c.unit if c.stored else 0)
    cdef T* block = <T*>ws.pred
    cdef T* u = <T*>ws.target
    cdef T* top = <T*>ws.top
    cdef T* tops = e + steps_of(c) * LANES
    cdef T* into = <T*>ws.loss
    cdef Py_ssize_t all_steps = steps_of(c), step, steps, i
    cdef bint soft = (c.soft or c.spread) and not c.divergence
    cdef bint cross_too = c.divergence == FL_KULLBACK_LEIBLER and not c.target_logits
    cdef const T* by = cooling(c, ws, tag)
    cdef bint split = soft or by != NULL or c.order == 2
    cdef bint keep = c.stored and (c.order or c.divergence)
    cdef double unscale = FL_UNSCALE_f32 if sizeof(T) == 4 else FL_UNSCALE_f64, rise
    cdef T m = -<T>INFINITY, own
    cdef const T* z = NULL
    cdef const char* ahead
    clear(ws, split, soft or cross_too, sizeof(T) == 8)
    for i in range(LANES):
        top[i] = 0
    for step from 0 <= step < all_steps by STEPS:
        steps = min(<Py_ssize_t>STEPS, all_steps - step)
        z = logits(c, &c.pred, row, 1, step, steps, &s.y[j], &s.label_logit[j], block, &own)
        write_next(c, ws, last, tag)  # meanwhile the processor finds the maximum
        if own > m:
            if m > -<T>INFINITY:
                rise = <double>own - m
                rescale(ws, fl_exp_nonpositive_f64(-rise / c.temperature),
                        rise / c.temperature if cross_too else rise, split, soft or cross_too,
                        sizeof(T) == 8)
            m = own
            for i in range(LANES):
                top[i] = m
        if keep:
            tops[step // STEPS] = m
            into = e + step * LANES
        ahead = after_next(c, &c.pred, row, step)
        exponentials(split, into, z, steps, top, by, ws.total, ws.below, ahead, NULL)
        if soft or cross_too:
            target_mass(c, ws, s, j, 1, step, steps, True, u)
            ahead = after_next(c, &c.target, row, step) if c.soft else NULL
        if soft:
            distances(z, u, steps, top, ws.dot, ws.mass, ahead)
        elif cross_too:
            cross(z, <const T*>u, steps, top, by, ws.dot, ahead)
            add_step(ws.mass, u, steps * LANES)
    s.top[j] = m
    s.sum[j] = merged(ws.total) * unscale
    if split:
        ws.below[0] = merged(ws.below) * unscale
        s.others[j] = ws.below[0] + (floor(s.sum[j] - ws.below[0] + 0.5) - 1)
    if soft or cross_too:
        s.dot[j] = merged(ws.dot)
        s.mass[j] = merged(ws.mass)
    if cross_too:
        s.dot[j] += weighed(s.mass[j], fl_log_f64(s.sum[j]))
    return z


# ---- divergences ----
# Of the target's distribution q from the row's p: a sum over the classes, of which the loss's block
# function makes each term, and its derivatives in log p, from x = log(q / p), q and p.


cdef void reduce_target(fl_call* c, fl_workspace* ws, Rows* s, Py_ssize_t j, Py_ssize_t n,
                        T tag) noexcept nogil:
    # The maximum and sum of exponentials of the rows [j, j + n) of target logits.
    cdef T* block = <T*>ws.grad
    cdef T* top = <T*>ws.top
    cdef Py_ssize_t all_steps = steps_of(c), step, steps, i
    cdef double unscale = FL_UNSCALE_f32 if sizeof(T) == 4 else FL_UNSCALE_f64
    cdef const T* by = cooling(c, ws, tag)
    cdef const T* t
    cdef T most
    clear(ws, True, False, sizeof(T) == 8)
    for i in range(LANES):
        top[i] = -<T>INFINITY
    for step from 0 <= step < all_steps by STEPS:
        steps = min(<Py_ssize_t>STEPS, all_steps - step)
        if c.lanes:
            lane_logits(c, &c.target, s.row + j, n, step, steps, NULL, NULL, block, top)
            continue
        logits(c, &c.target, s.row + j, n, step, steps, NULL, NULL, block, &most)
        for i in range(LANES if most > top[0] else 0):
            top[i] = most
    for i in range(LANES):
        top[i] = <T>0 if top[i] == -<T>INFINITY else top[i]
    for step from 0 <= step < all_steps by STEPS:
        steps = min(<Py_ssize_t>STEPS, all_steps - step)
        t = logits(c, &c.target, s.row + j, n, step, steps, NULL, NULL, block, &most)
        exponentials(False, <T*>ws.loss, t, steps, top, by, ws.total, ws.below, NULL, NULL)
    for i in range(n):
        s.target_top[j + i] = top[i]
        s.target_sum[j + i] = (ws.total[i] if c.lanes else merged(ws.total)) * unscale


cdef inline void fill(T* x, Py_ssize_t n) noexcept nogil:
    # The lanes beyond n are as the last.
    cdef Py_ssize_t lane
    cdef T same = x[n - 1]
    for lane in range(n, LANES):
        x[lane] = same


cdef void lane_constants(fl_call* c, fl_workspace* ws, const Rows* s, Py_ssize_t j, Py_ssize_t n,
                         T tag) noexcept nogil:
    # What the classes of the rows [j, j + n) have in common, a lane each.
    cdef T* top = <T*>ws.top
    cdef T* total = <T*>ws.near
    cdef T* over = <T*>ws.factor
    cdef T* target_top = <T*>ws.inverse
    cdef T* shift = <T*>ws.first
    cdef T* shift_low = <T*>ws.second
    cdef Py_ssize_t lane, i
    cdef double apart, unit = FL_UNSCALE_f32 if T is float else FL_UNSCALE_f64
    if c.divergence == FL_ANY_DIVERGENCE:
        unit /= halfway(tag)
    for lane in range(n):
        i = j + lane
        top[lane] = <T>0 if s.top[i] == -INFINITY else <T>s.top[i]
        total[lane] = <T>s.sum[i]
        over[lane] = <T>(unit / s.sum[i])
        shift_low[lane] = <T>((s.sum[i] - total[lane]) / s.sum[i])
        if c.target_logits:
            apart = fl_log_f64(s.target_sum[i]) - fl_log_f64(s.sum[i])
            target_top[lane] = <T>s.target_top[i]
            shift[lane] = <T>apart
            shift_low[lane] = <T>(apart - shift[lane])
    fill(top, n)
    fill(total, n)
    fill(over, n)
    fill(shift_low, n)
    if c.target_logits:
        fill(target_top, n)
        fill(shift, n)


cdef void write_constants(fl_call* c, fl_workspace* ws, const Rows* s, Py_ssize_t j, Py_ssize_t n,
                          T tag) noexcept nogil:
    # The same for the derivatives.
    cdef T* first = <T*>ws.first_up
    cdef T* second = <T*>ws.second_up
    cdef T* one_minus = <T*>ws.one_minus
    cdef T* scale = <T*>ws.scale
    cdef Py_ssize_t lane, i
    lane_constants(c, ws, s, j, n, tag)
    for lane in range(n):
        i = j + lane
        first[lane] = <T>s.first[i]
        second[lane] = <T>s.second[i]
        one_minus[lane] = <T>(s.others[i] / s.sum[i])
        scale[lane] = <T>(s.w[i] * c.scale / c.temperature)
    fill(first, n)
    fill(second, n)
    fill(one_minus, n)
    fill(scale, n)


cdef inline void ratios_of(bint of_logits, bint known, fl_workspace* ws, const T* e, const T* z,
                           const T* t, Py_ssize_t steps, const T* by) noexcept nogil:
    # Where the flags are constants.
    cdef T* x = <T*>ws.extra
    cdef T* p = <T*>ws.weight
    cdef const T* q = <const T*>ws.target
    if known and by != NULL:
        ratios(of_logits, x, p, e, z, t, q, steps, ws, by)
    elif known:
        ratios(of_logits, x, p, e, z, t, q, steps, ws, <const T*>NULL)
    elif by != NULL:
        ratios(of_logits, x, p, <const T*>NULL, z, t, q, steps, ws, by)
    else:
        ratios(of_logits, x, p, <const T*>NULL, z, t, q, steps, ws, <const T*>NULL)


cdef void diverged(fl_call* c, fl_workspace* ws, const Rows* s, Py_ssize_t j, Py_ssize_t n,
                   Py_ssize_t step, Py_ssize_t steps, int order, const T* z,
                   const T* e) noexcept nogil:
    # A block's terms and derivatives, into the workspace; also x (extra), q (target), p (weight).
    # z are its logits and e their exponentials, or NULL.
    cdef fl_elements b
    cdef Py_ssize_t i
    cdef T* q = <T*>ws.target
    cdef T most
    cdef const T* by = cooling(c, ws, <T>0)
    cdef const T* t = q
    if z == NULL:
        z = logits(c, &c.pred, s.row + j, n, step, steps, NULL, NULL, <T*>ws.pred, &most)
    target_mass(c, ws, s, j, n, step, steps, True, q)
    if c.target_logits:
        t = logits(c, &c.target, s.row + j, n, step, steps, NULL, NULL, <T*>ws.loss, &most)
        if e != NULL:
            ratios_of(True, True, ws, e, z, t, steps, by)
        else:
            ratios_of(True, False, ws, e, z, t, steps, by)
    elif e != NULL:
        ratios_of(False, True, ws, e, z, t, steps, by)
    else:
        ratios_of(False, False, ws, e, z, t, steps, by)
    if c.divergence == FL_ANY_DIVERGENCE:  # as p in lane_constants: all terms are multiples of both
        for i in range(steps * LANES):
            q[i] /= halfway(<T>0)
    memset(&b, 0, sizeof(b))
    b.pred = ws.extra
    b.target = q
    b.extra = ws.weight
    b.loss = ws.loss
    b.grad = ws.grad
    b.hess = ws.hess
    b.knobs = c.knobs
    b.scale = 1
    b.n = steps * LANES
    b.wide = T is double
    b.order = order
    c.block(&b)


cdef inline double settled(double* x, bint lanes, Py_ssize_t i, double less) noexcept nogil:
    # What add_up made, less a number, of lane i or of all.
    return (x[i] - less) - x[LANES + i] if lanes else fl_settled(x, less)


cdef void diverge_from_probs(fl_call* c, fl_workspace* ws, Rows* s, Py_ssize_t j, Py_ssize_t n,
                             const T* only) noexcept nogil:
    # Kullback and Leibler's divergence of the rows [j, j + n) from probabilities, and their sums:
    # of terms that are not negative.
    cdef Py_ssize_t all_steps = steps_of(c), step, steps, i
    cdef T* q = <T*>ws.target
    cdef T* over = <T*>ws.factor
    cdef const T* e = NULL
    cdef const T* z = only
    cdef const T* tops
    cdef const T* by = cooling(c, ws, <T>0)
    cdef T most
    cdef double rest, unit = FL_UNSCALE_f32 if T is float else FL_UNSCALE_f64
    clear(ws, True, False, True)
    for step from 0 <= step < all_steps by STEPS:
        steps = min(<Py_ssize_t>STEPS, all_steps - step)
        if c.stored:
            e = <const T*>s.e + (0 if c.lanes else j * c.unit)
            if not c.lanes:  # the block's exponentials are those below its own maximum
                tops = e + all_steps * LANES
                rest = (tops[step // STEPS] - s.top[j]) / c.temperature
                over[0] = <T>(unit / s.sum[j] * (fl_exp_nonpositive_f64(rest) if rest < 0 else 1))
                fill(over, 1)
            e += step * LANES
        if all_steps > STEPS:
            z = logits(c, &c.pred, s.row + j, n, step, steps, NULL, NULL, <T*>ws.pred, &most)
        target_mass(c, ws, s, j, n, step, steps, c.lanes, q)
        kl_terms(e, z, <const T*>q, steps, ws, by)
        add_exactly(<const T*>q, steps, ws.total)
    for i in range(j, j + n):  # the terms are p - q + q x
        rest = settled(ws.total, c.lanes, i - j, 1)
        s.mass[i] = 1 + rest
        s.dot[i] = settled(ws.below, c.lanes, i - j, 0) + rest


cdef void diverge(fl_call* c, fl_workspace* ws, Rows* s, Py_ssize_t j, Py_ssize_t n,
                  const T* only) noexcept nogil:
    # The divergence of the rows [j, j + n) (`dot`), the sums of their q, and for the gradient of
    # any divergence but Kullback and Leibler's the sums of its derivatives. `only` are the logits
    # if they are one block.
    cdef Py_ssize_t all_steps = steps_of(c), step, steps, i, k
    cdef const T* x = <const T*>ws.extra
    cdef T* q = <T*>ws.target
    cdef T* loss = <T*>ws.loss
    cdef T* over = <T*>ws.factor
    cdef const T* e = <const T*>s.e
    cdef const T* tops
    cdef bint plain = c.divergence == FL_KULLBACK_LEIBLER, known = c.stored and plain
    cdef int order = 0 if plain else c.order
    cdef double rest, unit = FL_UNSCALE_f32 if T is float else FL_UNSCALE_f64
    if not c.lanes:
        e += j * c.unit
    tops = e + all_steps * LANES
    for i in range(j, j + n):
        s.sum[i] = 1 if s.sum[i] == 0 else s.sum[i]
        if c.order < 2:
            s.others[i] = 0
    # Of a row that lies far from its target the plain sum is as good as one in which nothing
    # cancels (at 1/4 it was never off by more than 3.2 roundings).
    if plain and not c.target_logits and not c.lanes and (
            s.dot[j] >= s.mass[j] / 4 and s.dot[j] >= s.mass[j] * fl_log_f64(s.sum[j]) / 8):
        return
    if c.target_logits:
        reduce_target(c, ws, s, j, n, <T>0)
    lane_constants(c, ws, s, j, n, <T>0)
    if plain and not c.target_logits:
        diverge_from_probs(c, ws, s, j, n, only)
        return
    clear(ws, True, True, True)
    for step from 0 <= step < all_steps by STEPS:
        steps = min(<Py_ssize_t>STEPS, all_steps - step)
        if known and not c.lanes:  # the block's exponentials are those below its own maximum
            rest = (tops[step // STEPS] - s.top[j]) / c.temperature
            over[0] = <T>(unit / s.sum[j] * (fl_exp_nonpositive_f64(rest) if rest < 0 else 1))
            fill(over, 1)
        diverged(c, ws, s, j, n, step, steps, order,
                 only if all_steps <= STEPS else <const T*>NULL,
                 e + step * LANES if known else <const T*>NULL)
        add_up(loss, steps, ws.below)
        if not plain:
            if order > 0:
                add_up(<const T*>ws.grad, steps, ws.dot)
            if order > 1:
                add_up(<const T*>ws.hess, steps, ws.mass)
        else:
            for k in range(steps * LANES):
                loss[k] = weighed(q[k], x[k])
            add_up(loss, steps, ws.dot)
    for i in range(j, j + n):
        k = i - j
        s.dot[i] = settled(ws.below, c.lanes, k, 0)
        s.mass[i] = 1
        if not plain:
            s.dot[i] *= halfway(<T>0)
            s.first[i] = settled(ws.dot, c.lanes, k, 0) * halfway(<T>0)
            s.second[i] = settled(ws.mass, c.lanes, k, 0) * halfway(<T>0)
        else:
            # The two logarithms of sums are wrong by d in all: sum q exp(-x) is exp(d), not 1, and
            # the sum of the terms too large by exp(d) - 1 - d.
            rest = s.dot[i] - settled(ws.dot, c.lanes, k, 0)
            s.dot[i] -= fl_minus_log1p_f64(rest)
            s.dot[i] = 0 if s.dot[i] < 0 else s.dot[i]


cdef void judge(fl_call* c, Py_ssize_t n, Rows* s, bint summed, T tag) noexcept nogil:
    # From the sums of n rows, their losses and the derivatives `first` and `second`.
    cdef fl_elements b
    cdef Py_ssize_t i
    cdef double ahead, log_sum = 0, low, part, rest
    for i in range(n):  # all but the label -inf: there is nothing to share out
        s.sum[i] = 1 if s.sum[i] == 0 else s.sum[i]
        s.over[i] = 1 / s.sum[i]
    if c.soft or c.spread:
        for i in range(n):
            if c.divergence:
                s.loss[i] = s.dot[i]
            else:
                log_sum = fl_log1p_f64(s.others[i])
                s.loss[i] = s.dot[i] / c.temperature + s.mass[i] * log_sum
            if s.top[i] == -INFINITY:
                s.loss[i] = s.mass[i] = NAN
            if c.divergence != FL_ANY_DIVERGENCE:
                s.first[i] = s.mass[i]
                s.second[i] = 0
            if c.z_loss != 0:  # a multiple of (m + log S)^2
                log_sum += s.top[i] / c.temperature
                s.second[i] = 2 * c.z_loss * s.mass[i]
                s.first[i] += s.second[i] * log_sum
                s.loss[i] += 0.5 * s.second[i] * log_sum * log_sum
        return
    # How far the highest is ahead of the label: of floats in double no digit is lost, of doubles it
    # is in two parts.
    for i in range(n):
        ahead = s.top[i] - s.label_logit[i]
        part = ahead - s.top[i]
        low = (s.top[i] - (ahead - part)) - (s.label_logit[i] + part)
        s.ahead[i] = NAN if s.label_logit[i] == INFINITY else ahead
        s.ahead_low[i] = low if T is double and low == low else 0  # beyond the finite numbers
    for i in range(n if c.temperature != 1 else 0):  # apart: a division takes its time
        part = s.ahead[i] / c.temperature
        low = part * c.temperature
        rest = (s.ahead[i] - low) - fl_product_low_f64(part, c.temperature, low)
        rest += s.ahead_low[i]
        s.ahead[i] = part
        s.ahead_low[i] = rest / c.temperature if T is double and rest == rest else 0
    memset(&b, 0, sizeof(b))
    b.pred = s.ahead
    b.target = s.ahead_low
    b.extra = s.sum
    b.loss = s.loss
    b.grad = s.first
    b.hess = s.second
    b.knobs = c.knobs
    b.scale = 1
    b.n = n
    b.wide = True
    b.brief = T is float
    b.silent = c.silent
    b.summed = summed
    b.order = c.order
    c.block(&b)


cdef inline void factors(fl_call* c, fl_workspace* ws, const Rows* s, Py_ssize_t j, Py_ssize_t n,
                         double share, T tag) noexcept nogil:
    # What the exponentials of n rows are multiplied by, a lane each; `share` is exp(their maximum -
    # the row's).
    if T is float:
        fl_factors_f32(
            n, c.order == 2, &s.w[j], &s.first[j], &s.second[j], &s.over[j], &s.others[j], c.scale,
            1 / c.temperature, share, <float*>ws.near, <float*>ws.factor, <float*>ws.inverse,
            <float*>ws.first, <float*>ws.second, <float*>ws.first_up, <float*>ws.second_up,
            <float*>ws.unscale, <float*>ws.one_minus, <float*>ws.scale)
    else:
        fl_factors_f64(
            n, c.order == 2, &s.w[j], &s.first[j], &s.second[j], &s.over[j], &s.others[j], c.scale,
            1 / c.temperature, share, ws.near, ws.factor, ws.inverse, ws.first, ws.second,
            ws.first_up, ws.second_up, ws.unscale, ws.one_minus, ws.scale)


cdef inline void write_block(fl_call* c, fl_workspace* ws, const Rows* s, Py_ssize_t j,
                             Py_ssize_t n, Py_ssize_t step, Py_ssize_t steps, const T* e,
                             T* grad, T* hess) noexcept nogil:
    # Gradients and Hessians of a block, but for the labels' own.
    cdef T* u = <T*>ws.target
    cdef T* scale = <T*>ws.scale
    cdef Py_ssize_t lane
    if c.divergence == FL_ANY_DIVERGENCE:
        diverged(c, ws, s, j, n, step, steps, c.order, <const T*>NULL, <const T*>NULL)
        spread_out(c.order == 2, <const T*>ws.weight, steps, ws, <T>(1 / c.temperature), grad,
                   hess)
        return
    if c.order == 1 and c.soft and not (
            c.lanes or c.spread or c.target_logits or c.extra.data) and adjacent(&c.target, <T>0):
        difference(e, <const T*>fl_row(&c.target, s.row + j) + step * LANES,
                   min(steps * LANES, c.classes - step * LANES), ws, grad)
        return
    if c.lanes:
        if c.order == 2:
            scaled(True, True, e, steps, <const T*>NULL, ws, grad, hess)
        else:
            scaled(True, False, e, steps, <const T*>NULL, ws, grad, hess)
    elif c.order == 2:
        scaled(False, True, e, steps, <const T*>NULL, ws, grad, hess)
    else:
        scaled(False, False, e, steps, <const T*>NULL, ws, grad, hess)
    if c.soft or c.spread:
        target_mass(c, ws, s, j, n, step, steps, False, u)
        for lane in range(n, LANES):
            scale[lane] = scale[0]
        less(grad, u, steps, scale)


cdef inline void stream_lanes(const fl_call* c, const fl_operand* op, fl_seam* seam, const T* src,
                              const Rows* s, T* block) noexcept nogil:
    # One of them, by way of a block.
    if T is float:
        fl_from_columns_f32(<char*>block, src, c.classes * sizeof(T), s.n, c.classes)
    else:
        fl_from_columns_f64(<char*>block, src, c.classes * sizeof(T), s.n, c.classes)
    fl_stream_on(seam, fl_row(op, s.row), <char*>block, s.n * c.classes * sizeof(T))


cdef inline T* third(const fl_call* c, void* first, T tag) noexcept nogil:
    # With Hessians there is room for a third matrix of a group's, and for a line before it.
    return <T*>first + 2 * c.unit + 64 // sizeof(T)


cdef void write_lanes(fl_call* c, fl_workspace* ws, Rows* s, T tag) noexcept nogil:
    cdef const T* e = lane_exponentials(c, s, tag)
    cdef T* grad = <T*>ws.grad
    cdef T* hess = <T*>ws.hess
    cdef T* first = <T*>ws.first
    cdef T* second = <T*>ws.second
    cdef char* lines = <char*>(<T*>s.e + c.unit * (1 + c.double_buffered * c.order)) + 64
    cdef Py_ssize_t step, steps, at, span = STEPS, cols, i, k, lane
    cdef T[LANES] labels
    cdef bint all_at_once = (c.classes <= STEPS and c.order == 1
                             and not (c.soft or c.spread or c.divergence))
    cdef bint streams = stretched(c, tag)
    cdef bint whole = streams or c.order == 1 and c.divergence != FL_ANY_DIVERGENCE
    if whole:  # of all classes, in the place of the logits
        span = max(<Py_ssize_t>1, c.classes)
        if c.order == 1:
            grad = beside(c, s, tag)
        else:
            hess = beside(c, s, tag)
            grad = third(c, s.e, tag)
    if c.divergence == FL_ANY_DIVERGENCE:
        write_constants(c, ws, s, 0, s.n, tag)
    else:
        factors(c, ws, s, 0, s.n, 1, tag)
    for at from 0 <= at < c.classes by span:
        cols = min(span, c.classes - at)
        if all_at_once:
            as_lanes(labels, s.y, s.n)
            scaled(True, False, e, cols, <const T*>labels, ws, grad, hess)
        for step from 0 <= step < (0 if all_at_once else cols) by STEPS:
            steps = min(<Py_ssize_t>STEPS, cols - step)
            next_near(c, s, at + step, steps, True, tag)
            write_block(c, ws, s, 0, s.n, at + step, steps, e + (at + step) * LANES,
                        grad + step * LANES, hess + step * LANES if whole else hess)
        for lane in range(0 if c.soft or c.spread or all_at_once else s.n):
            k = s.y[lane] - at
            if 0 <= k < cols:
                grad[k * LANES + lane] = 0 - first[lane]
                if c.order == 2:
                    hess[k * LANES + lane] = second[lane]
        for step from 0 <= step < (cols if c.softcap != 0 else 0) by STEPS:
            uncap(c, s.row, s.n, at + step, min(<Py_ssize_t>STEPS, cols - step), <T*>ws.extra,
                  grad + step * LANES, hess + step * LANES)
        for lane in range(s.n if s.skips else 0):
            if s.w[lane] == 0:
                for i in range(cols):
                    grad[i * LANES + lane] = 0
                for i in range(cols if c.order == 2 else 0):
                    hess[i * LANES + lane] = 0
        if streams:  # the exponentials are done with, then the gradients
            stream_lanes(c, &c.grad, &ws.seams[0], grad, s, <T*>s.e)
            if c.order == 2:
                stream_lanes(c, &c.hess, &ws.seams[1], hess, s, grad)
            continue
        if c.grad.data:
            store_lanes(c, &c.grad, grad, s.row, s.n, at, cols, lines)
        if c.hess.data:
            store_lanes(c, &c.hess, hess, s.row, s.n, at, cols, lines + 128 * c.classes)


cdef inline void write_out(fl_call* c, const fl_operand* op, fl_seam* seam, Py_ssize_t row,
                           Py_ssize_t col, Py_ssize_t cols, T* block) noexcept nogil:
    cdef char* dst
    if not op.data:
        return
    dst = fl_row(op, row) + col * op.step
    if c.stream and adjacent(op, <T>0):
        fl_stream_on(seam, dst, <char*>block, cols * sizeof(T))
    else:
        store(dst, block, op.step, cols, op.code, c.stream)


cdef inline void stream_end(fl_call* c, fl_workspace* ws, T tag) noexcept nogil:
    if c.stream:
        fl_close_seam(&ws.seams[0], <char*>(ws + 1) if c.lanes else <char*>ws.grad)
        fl_close_seam(&ws.seams[1], <char*>third(c, ws + 1, tag) if c.lanes else <char*>ws.hess)
        fl_stream_fence()


cdef bint write_next(fl_call* c, fl_workspace* ws, Rows* s, T tag) noexcept nogil:
    # The next block of rows one after the other; False when there is none left.
    cdef T* grad = <T*>ws.grad
    cdef T* hess = <T*>ws.hess
    cdef T* top = <T*>ws.scale
    cdef Py_ssize_t all_steps = steps_of(c), step = s.step, j = s.j, steps, col, cols, k, lane
    cdef const T* e
    cdef T most
    cdef double share = 1, own
    cdef bint direct
    if j >= s.n:
        return False
    steps = min(<Py_ssize_t>STEPS, all_steps - step)
    col = step * LANES
    cols = min(steps * LANES, c.classes - col)
    k = s.y[j] - col
    # A whole block of a gradient that nothing else is made from goes where it belongs.
    direct = (c.order == 1 and not (c.stream or c.soft or c.spread or c.softcap != 0)
              and s.w[j] != 0 and cols == steps * LANES and adjacent(&c.grad, tag))
    if direct:
        grad = <T*>(fl_row(&c.grad, s.row + j) + col * sizeof(T))
    if s.w[j] == 0:
        memset(grad, 0, sizeof(T) * BLOCK)
        memset(hess, 0, sizeof(T) * BLOCK)
    elif c.divergence == FL_ANY_DIVERGENCE:
        write_constants(c, ws, s, j, 1, tag)
        write_block(c, ws, s, j, 1, step, steps, <const T*>NULL, grad, hess)
    else:
        if c.stored:
            e = <const T*>s.e + j * c.unit
            own = e[all_steps * LANES + step // STEPS]
            share = 1 if own == s.top[j] else fl_exp_nonpositive_f64(
                (own - s.top[j]) / c.temperature)
            e += col
        else:
            for lane in range(LANES):
                top[lane] = <T>0 if s.top[j] == -INFINITY else <T>s.top[j]
            e = logits(c, &c.pred, s.row + j, 1, step, steps, &s.y[j], &s.label_logit[j],
                       <T*>ws.pred, &most)
            exponentials(False, <T*>ws.loss, e, steps, top, cooling(c, ws, tag), ws.total, ws.below,
                         NULL, NULL)
            e = <const T*>ws.loss
        factors(c, ws, s, j, 1, share, tag)
        write_block(c, ws, s, j, 1, step, steps, e, grad, hess)
        if not c.soft and not c.spread and 0 <= k < cols:
            grad[k] = 0 - (<T*>ws.first)[0]
            hess[k] = (<T*>ws.second)[0]
        if c.softcap != 0:
            uncap(c, s.row + j, 1, step, steps, <T*>ws.extra, grad, hess)  # pred may be in use
    if not direct:
        write_out(c, &c.grad, &ws.seams[0], s.row + j, col, cols, grad)
    write_out(c, &c.hess, &ws.seams[1], s.row + j, col, cols, hess)
    s.step += STEPS
    if s.step >= all_steps:
        s.step = 0
        s.j += 1
    return True


cdef void rows(fl_call* c, Py_ssize_t index, fl_workspace* ws, T tag) noexcept nogil:
    cdef Py_ssize_t begin = index * c.range, end = min(c.size, begin + c.range), at, j
    cdef bint writes = c.grad.data != NULL or c.hess.data != NULL, summed
    cdef bint uniform = not (c.loss.data or c.weight.data or c.mask.data or c.extra.data)
    cdef T[LANES] loss
    cdef const T* z
    cdef Rows[2] both
    cdef Rows* s = &both[0]
    cdef Rows* last = &both[1]
    cdef fl_mode own = fl_enter(True)
    cdef Sum partial
    partial.high = partial.low = 0
    both[0].e = both[1].e = ws + 1
    memset(ws.seams, 0, sizeof(ws.seams))
    if c.double_buffered and not c.lanes:
        both[1].e = <T*>both[0].e + c.group * c.unit
    s.n = s.j = 0
    for at from begin <= at < end by c.group:
        s, last = last, s
        s.row = at
        s.n = min(c.group, end - at)
        bring_near(c, at, s.n, c.classes <= STEPS, not stretched(c, tag),
                   loops_bring_near(c, tag), tag)
        s.skips = row_weights(s.w, s.y, c, at, s.n, tag)
        if c.class_mask.data and c.spread:
            count_kept(c, ws, s, tag)
        if c.lanes:
            z = reduce_lanes(c, ws, s, tag)
            if c.divergence:
                diverge(c, ws, s, 0, s.n, z)
        else:
            for j in range(s.n):
                if s.w[j] != 0:
                    z = reduce_row(c, ws, s, j, last, tag)
                    if c.divergence:
                        diverge(c, ws, s, j, 1, z)
            while write_next(c, ws, last, tag):
                pass
        for j in range(s.n if s.skips else 0):
            if s.w[j] == 0:  # whatever is there: finite, and not used
                s.top[j] = s.label_logit[j] = s.dot[j] = s.mass[j] = s.others[j] = 0
                s.sum[j] = 1
        summed = uniform and not s.skips
        judge(c, s.n, s, summed, tag)
        for j in range(0 if summed or c.silent else s.n):
            s.loss[j] = 0 if s.w[j] == 0 else s.loss[j] * s.w[j]
        if not c.silent:
            add(&partial, total(s.loss, s.n))
        if c.loss.data:
            for j in range(s.n):
                loss[j] = <T>s.loss[j]
            scatter(&c.loss, loss, at, s.n, False)
        s.step = 0
        s.j = 0 if writes else s.n
        if c.lanes and writes:
            write_lanes(c, ws, s, tag)
        elif not c.double_buffered:
            while write_next(c, ws, s, tag):
                pass
    if not c.lanes:
        while write_next(c, ws, s, tag):
            pass
    fl_leave(own)
    stream_end(c, ws, tag)
    c.partial[index] = value(&partial)


# ---- few rows of very many classes ----
# Threads share a row: it is cut into tiles of columns, always the same. First each tile's maximum
# and sum are found, then, once all are known, its gradient is written; whoever writes a tile merges
# the sums of all, in their order.


cdef fl_call tile_of(const fl_call* c, Py_ssize_t tile) noexcept nogil:
    # The same call of one tile's classes.
    cdef fl_call own = c[0]
    cdef Py_ssize_t col = tile * TILE
    own.stored = 0
    own.classes = min(<Py_ssize_t>TILE, c.classes - col)
    own.pred.data += col * own.pred.step
    own.grad.data += col * own.grad.step if own.grad.data else 0
    own.hess.data += col * own.hess.step if own.hess.data else 0
    return own


cdef void tile_sums(fl_call* c, Py_ssize_t index, fl_workspace* ws, T tag) noexcept nogil:
    cdef Py_ssize_t tile = index % c.tiles
    cdef fl_call own = tile_of(c, tile)
    cdef double* found = c.sums + 4 * index
    cdef Rows s, none
    cdef fl_mode mode = fl_enter(True)
    s.row = index // c.tiles
    s.e = ws + 1
    s.n = 1
    none.n = none.j = 0
    row_weights(s.w, s.y, c, s.row, 1, tag)
    s.y[0] -= tile * TILE
    s.others[0] = 0
    if s.w[0] != 0:
        reduce_row(&own, ws, &s, 0, &none, tag)
        found[0] = s.top[0]
        found[1] = s.sum[0]
        found[2] = s.others[0]
        if 0 <= s.y[0] < own.classes:
            found[3] = s.label_logit[0]
    fl_leave(mode)


cdef void merge_tiles(const fl_call* c, const double* found, Rows* s) noexcept nogil:
    # A row's maximum and sums, from those of its tiles. `others` leaves out one maximum.
    cdef Py_ssize_t tile, highest = 0
    cdef double part
    for tile in range(1, c.tiles):
        if found[4 * tile] > found[4 * highest]:
            highest = tile
    s.top[0] = found[4 * highest]
    s.sum[0] = s.others[0] = 0
    for tile in range(c.tiles):
        part = found[4 * tile] - s.top[0]
        part = fl_exp_nonpositive_f64(part / c.temperature) if part < 0 else 1
        s.sum[0] += part * found[4 * tile + 1]
        s.others[0] += found[4 * tile + 2] if tile == highest else part * found[4 * tile + 1]
    s.label_logit[0] = found[4 * (s.y[0] // TILE) + 3]


cdef void tiles(fl_call* c, Py_ssize_t index, fl_workspace* ws, T tag) noexcept nogil:
    cdef Py_ssize_t tile = index % c.tiles
    cdef fl_call own = tile_of(c, tile)
    cdef Rows s
    cdef T loss
    cdef fl_mode mode = fl_enter(True)
    s.row = index // c.tiles
    s.e = ws + 1
    s.n = 1
    s.j = s.step = 0
    memset(ws.seams, 0, sizeof(ws.seams))
    row_weights(s.w, s.y, c, s.row, 1, tag)
    if s.w[0] == 0:
        s.top[0] = s.label_logit[0] = s.others[0] = 0
        s.sum[0] = 1
    else:
        merge_tiles(c, c.sums + 4 * (index - tile), &s)
    judge(c, 1, &s, False, tag)
    s.loss[0] = 0 if s.w[0] == 0 else s.loss[0] * s.w[0]
    c.partial[index] = s.loss[0] if tile == 0 else 0
    loss = <T>s.loss[0]
    if c.loss.data and tile == 0:
        scatter(&c.loss, &loss, s.row, 1, False)
    s.y[0] -= tile * TILE
    while (c.grad.data != NULL or c.hess.data != NULL) and write_next(&own, ws, &s, tag):
        pass
    fl_leave(mode)
    stream_end(c, ws, tag)
