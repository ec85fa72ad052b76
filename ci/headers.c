/* Every function of the headers in src over special values and over sizes around those of its blocks, in memory
 * of just the bytes it may touch, for ci/sanitize to watch. What they compute is the tests' to check; with
 * FL_SHOW the elementary functions are shown, on their domains, for ci/machines to compare two machines. */
#include <stdio.h>
#include <stdlib.h>

#include "call.h"

static const double SPECIAL[] = {
    0.0,   -0.0,   1.0,     -1.0,    0.5,      -0.5,     2.0,      -3.7,      1e-30,    -1e-30,
    20.0,  -20.0,  -104.0,  -745.5,  88.8,     709.9,    1e5,      -1e5,      4e9,      -1e19,
    1e-8,  0x1p-9, 65504.0, 65520.0, 0x1p-24,  0x1p-126, 0x1p-149, -0x1p-140, 3.4e38,   -3.4e38,
    3.5e38, 1e308, -1e308,  0x1p-1022, 0x1p-1074, -1e-310, INFINITY, -INFINITY, NAN,    -NAN};
static const ptrdiff_t SIZES[] = {0,  1,  2,  3,  4,   5,   7,   8,   9,   15,   16,  17,
                                  31, 32, 33, 63, 64,  65,  127, 128, 129, 1023, 1024};
static const int CODES[] = {FL_U8,  FL_U16, FL_U32, FL_U64, FL_I8,  FL_I16,
                            FL_I32, FL_I64, FL_F16, FL_F32, FL_F64, FL_BF16};
#define COUNT(list) (sizeof(list) / sizeof *(list))

/* So many bytes, until `give_back`. */
static char *taken[64];
static size_t n_taken;
static char *take(ptrdiff_t bytes) {
    char *memory = malloc((size_t)bytes);
    if (!memory || n_taken == COUNT(taken))
        abort();
    for (ptrdiff_t i = 0; i < bytes; ++i)
        memory[i] = (char)(i * 37 + bytes);
    return taken[n_taken++] = memory;
}

static void give_back(void) {
    while (n_taken)
        free(taken[--n_taken]);
}

/* Blocks that meet in memory, and one that does not. */
static void streams(ptrdiff_t n, ptrdiff_t at) {
    char *dst = take(at + 4 * n + 1) + at, *block = take(64 + n) + 64;
    fl_seam seam = {NULL, 0};
    for (int i = 0; i < 4; ++i)
        fl_stream_on(&seam, dst + i * n + (i == 3), block, (size_t)n);
    fl_close_seam(&seam, block);
    fl_stream(dst, block, (size_t)n);
    give_back();
}

/* Pieces of three classes, and planes of them one after the other, the first piece of each a short one. */
static void pieces(ptrdiff_t n) {
    ptrdiff_t own = FL_LANES * 8, bytes = 4 * n;
    fl_copy_pieces(take(2 * own + bytes), own, take(3 * bytes), bytes, bytes, 3, 0);
    fl_copy_pieces(take(3 * bytes), bytes, take(2 * own + bytes), own, bytes, 3, 1);
    give_back();
}

static void planes(ptrdiff_t n, ptrdiff_t at) {
    ptrdiff_t size = 4 * n, most = 4 * FL_LANES, first = (n + at) % most / 4 * 4 + 4;
    char *dst = take(at + 3 * size) + at, *src = take(64 + most + 64) + 64, *lines = take(3 * 128);
    for (ptrdiff_t r = 0, bytes = first; r < size; r += bytes, bytes = most) {
        bytes = bytes < size - r ? bytes : size - r;
        for (int k = 0; k < 3; ++k)
            fl_stream_in_plane(dst + k * size + r, src, (size_t)bytes, lines + 128 * k, dst + k * size,
                               (size_t)size, k ? lines + 128 * k + 64 : NULL,
                               k < 2 ? lines + 128 * k + 192 : NULL);
    }
    give_back();
}

static volatile double seen;
#define SEE(x) (seen = (double)(x))

#define DEFINE_NUMBERS(T, S)                                                                       \
    /* Some of the special values. */                                                              \
    static T *some_##S(ptrdiff_t n) {                                                              \
        T *x = (T *)take(n * (ptrdiff_t)sizeof(T));                                                \
        for (ptrdiff_t i = 0; i < n; ++i)                                                          \
            x[i] = (T)SPECIAL[(size_t)(i * 7 + n) % COUNT(SPECIAL)];                               \
        return x;                                                                                  \
    }                                                                                              \
    static void numbers_##S(double first, double second) {                                         \
        T x = (T)first, y = (T)second, low;                                                        \
        SEE(fl_exp_scaled_##S(x)), SEE(fl_exp_nonpositive_##S(x)), SEE(fl_exp_##S(x));             \
        SEE(fl_expm1_nonpositive_##S(x)), SEE(fl_exp_excess_##S(x)), SEE(fl_log_cosh_unit_##S(x)); \
        SEE(fl_exp_times_##S(y, x, y, 64)), SEE(fl_exp_times_moderate_##S(y, x, y));               \
        SEE(fl_log_##S(x)), SEE(fl_log1p_##S(x)), SEE(fl_minus_log1p_##S(x));                      \
        SEE(fl_log1p_unit_##S(x)), SEE(fl_log1p_scaled_##S(x, y)), SEE(fl_log_less_##S(x, y));     \
        SEE(fl_log_pair_##S(x, y, &low)), SEE(low), SEE(fl_log_sum_##S(x, y));                     \
        SEE(fl_tanh_##S(x, y, &low)), SEE(low), SEE(fl_divided_##S(x, y, &low)), SEE(low);         \
        SEE(fl_product_low_##S(x, y, x * y)), SEE(fl_log_ratio_##S(x, y, x));                      \
        SEE(fl_times_##S(x, 1, y, y)), SEE(fl_times_##S(x, 0, y, y));                              \
    }                                                                                              \
    FL_INLINE void at_##S(T z, T y, T a, const double *k, T *l, T *g, T *h) {                      \
        *l = (z - y) * a, *g = z * (T)k[0], *h = fl_exp_##S(y);                                    \
    }                                                                                              \
    FL_INLINE void moderate_##S(T z, T y, T a, const double *k, T *l, T *g, T *h) {                \
        *l = fl_exp_times_moderate_##S(y, z, 0), *g = a, *h = (T)k[0];                             \
    }
DEFINE_NUMBERS(float, f32)
DEFINE_NUMBERS(double, f64)

/* A block as fl_elements describes it, by each of the loops over it. */
#define DEFINE_ELEMENTS(T, S)                                                                      \
    static void elements_##S(ptrdiff_t n, int order, int options) {                                \
        ptrdiff_t size = sizeof(T), whole = (n + FL_LANES - 1) / FL_LANES * FL_LANES * size;       \
        int at = options & 1 ? 4 : 0;                                                              \
        double sum[FL_LANES] = {0}, knobs[FL_MAX_KNOBS] = {2};                                     \
        fl_call c = {.low = 0, .high = options & 2 ? 1 : INFINITY, .open = options & 4};           \
        fl_elements b = {.knobs = knobs, .scale = 0.5, .n = n, .order = order};                    \
        c.ends_only = options & 8;                                                                 \
        b.wide = size == 8, b.ahead = options & 1, b.stream = options & 16;                        \
        b.first = !(options & 1), b.last = !(options & 2) || n < FL_BLOCK;                         \
        b.checks = options & 32 ? &c : NULL;                                                       \
        for (int how = 0; how < 3; ++how, give_back()) {                                           \
            b.silent = how == 2 && order > 0, b.sum = b.silent ? NULL : sum;                       \
            b.pred = some_##S(n), b.target = some_##S(n), b.extra = some_##S(n);                   \
            b.weight = options & 64 ? some_##S(n) : NULL;                                          \
            b.loss = take(whole), b.grad = take(64 + whole) + 64, b.hess = take(64 + whole) + 64;  \
            for (int r = 0; r <= order && options & 128; ++r) /* the line before is a block's too */ \
                b.to[r] = take(64 + at + n * size) + 64 + at;                                      \
            if (how == 0)                                                                          \
                FL_MAP(&b, at_f32, at_f64);                                                        \
            else if (how == 1)                                                                     \
                FL_MAP_MODERATE(&b, 1, moderate_f32, moderate_f64, at_f32, at_f64);                \
            else                                                                                   \
                FL_MAP_LOG(&b, at_f32, at_f64);                                                    \
        }                                                                                          \
        SEE(sum[0]), SEE(c.bad);                                                                   \
    }
DEFINE_ELEMENTS(float, f32)
DEFINE_ELEMENTS(double, f64)

/* Loads and stores of n elements of a code, `step` bytes apart, `at` bytes off their alignment. */
static char *place(ptrdiff_t n, ptrdiff_t step, ptrdiff_t size, ptrdiff_t at) {
    ptrdiff_t span = n ? (n - 1) * (step < 0 ? -step : step) + size : 0;
    return take(at + span) + at + (step < 0 && n ? span - size : 0);
}

static void memory(ptrdiff_t n, int code, ptrdiff_t step, ptrdiff_t at) {
    ptrdiff_t size = code & 15 ? code & 15 : 16;
    int floating = code & 32, own = code == FL_F32 || code == FL_F64;
    step *= size;
    for (int swap = 0; swap <= (size > 1 && code != FL_BF16); ++swap, give_back()) {
        int as = code + (swap ? FL_SWAPPED : own && at ? FL_UNALIGNED : 0);
        char *src = place(n, step, size, at);
        fl_load_f32((float *)take(4 * n), src, step, n, as);
        fl_load_f64((double *)take(8 * n), src, step, n, as);
        if (!floating)
            fl_load_i64((int64_t *)take(8 * n), src, step, n, as);
        for (int stream = 0; floating && step && stream < 2; ++stream) {
            fl_store_f32(place(n, step, size, at), some_f32(n), step, n, as, stream);
            fl_store_f64(place(n, step, size, at), some_f64(n), step, n, as, stream);
        }
    }
}

#define DEFINE_LANES(T, S)                                                                         \
    static void columns_##S(ptrdiff_t rows, ptrdiff_t cols, ptrdiff_t gap) {                       \
        ptrdiff_t size = sizeof(T), stride = (cols + gap) * size;                                  \
        ptrdiff_t wide = (cols - 1) * FL_LANES + rows, bytes = (rows - 1) * stride + cols * size;  \
        fl_to_columns_##S(some_##S(wide), take(bytes), stride, rows, cols);                        \
        fl_from_columns_##S(take(bytes), some_##S(wide), stride, rows, cols);                      \
        give_back();                                                                               \
    }                                                                                              \
    static void sizes_##S(ptrdiff_t n) {                                                           \
        ptrdiff_t whole = (n + FL_LANES - 1) / FL_LANES * FL_LANES, lanes = n < 64 ? n : 64;       \
        T *z = some_##S(n), *g = some_##S(n), *h = some_##S(n);                                    \
        double *d[6], sum[FL_LANES] = {0};                                                         \
        T *f[10];                                                                                  \
        SEE(fl_moderate_##S(z, g, n, n % 2)), SEE(fl_moderate_##S(z, NULL, n, 0));                 \
        SEE(fl_copy_highest_##S(some_##S(whole), z, n));                                           \
        fl_add_step_##S(sum, (T *)memcpy(take(whole * (ptrdiff_t)sizeof(T)), z, (size_t)n * sizeof(T)), n); \
        fl_uncap_##S(1, z, n, 3, g, h), fl_cap_##S(z, n, 3);                                       \
        fl_difference_##S(z, h, n, 2, 3, 4, g);                                                    \
        for (int i = 0; i < 6; ++i)                                                                \
            d[i] = some_f64(lanes);                                                                \
        for (int i = 0; i < 10; ++i)                                                               \
            f[i] = some_##S(lanes);                                                                \
        fl_factors_##S(lanes, 1, d[0], d[1], d[2], d[3], d[4], 2, 0.5, 1, f[0], f[1], f[2], f[3],  \
                       f[4], f[5], f[6], f[7], f[8], f[9]);                                        \
        fl_prefetch((char *)z, n, 0), fl_prefetch((char *)z, n, 1), fl_stream_fence();             \
        give_back();                                                                               \
    }                                                                                              \
    /* `steps` steps of lanes. */                                                                  \
    static void lanes_##S(ptrdiff_t steps, int options) {                                          \
        ptrdiff_t n = steps * FL_LANES;                                                            \
        T *x = some_##S(n), *y = some_##S(n), *g = some_##S(n), *h = some_##S(n), *l[9];           \
        T *by = options & 1 ? some_##S(2) : NULL, *e = options & 2 ? some_##S(n) : NULL;           \
        double *total = some_f64(2 * FL_LANES), *below = some_f64(2 * FL_LANES);                   \
        char *ahead = options & 4 ? (char *)x : NULL;                                              \
        for (int i = 0; i < 9; ++i)                                                                \
            l[i] = some_##S(FL_LANES);                                                             \
        fl_highest_##S(x, steps, l[0]), SEE(fl_highest_of_all_##S(x, steps));                      \
        fl_exponentials_##S(options & 2, g, x, steps, l[0], by, total, below, ahead, ahead);       \
        fl_distances_##S(x, y, steps, l[0], total, below, ahead);                                  \
        fl_add_up_##S(x, steps, total), fl_add_exactly_##S(x, steps, total);                       \
        fl_shares_##S(h, x, steps, l[0], l[1], by);                                                \
        for (int i = 0; i < FL_LANES; ++i)                                                         \
            l[2][i] = (T)(i % (steps + 1));                                                        \
        fl_take_out_##S(x, steps, l[2], l[1], l[0]);                                               \
        fl_less_##S(g, x, steps, l[1]);                                                            \
        fl_spread_##S(options & 1, x, steps, l[0], l[1], l[2], l[3], l[4], 2, g, h);               \
        fl_cross_##S(x, y, steps, l[0], by, total, ahead);                                         \
        fl_kl_terms_##S(e, x, y, steps, l[0], l[1], l[2], l[3], by, total);                        \
        fl_ratios_##S(options & 4, g, h, e, x, y, y, steps, l[0], l[1], l[2], l[3], l[4], l[5], by); \
        fl_scaled_##S(options & 1, options & 2, x, steps, options & 4 ? l[2] : NULL, l[7], l[0],    \
                      l[1], l[2], l[3], l[4], l[5], l[6], g, h);                                    \
        SEE(fl_settled(total, 1));                                                                 \
        give_back();                                                                               \
    }
DEFINE_LANES(float, f32)
DEFINE_LANES(double, f64)

/* name, stated error in ulp, bytes of a number, number. */
#define SHOW(name, ulp, T, value) printf("%s %g %d %a\n", name, ulp, (int)sizeof(T), (double)(value))
#define DEFINE_SHOW(T, S)                                                                          \
    static void show_##S(T x) {                                                                    \
        T low;                                                                                     \
        SHOW("exp_" #S, 1.05, T, fl_exp_##S(x));                                                   \
        SHOW("exp_times_" #S, 1.5, T, fl_exp_times_##S((T)1.3, x, 0, 0));                          \
        SHOW("log1p_" #S, 1.25, T, fl_log1p_##S(x));                                               \
        if (isnormal(x) || x == 0)                                                                 \
            SHOW("log_" #S, 1.25, T, fl_log_##S(x));                                               \
        if (!(x <= -1))                                                                            \
            SHOW("minus_log1p_" #S, 1.25, T, fl_minus_log1p_##S(x));                               \
        SHOW("tanh_" #S, 2.6, T, fl_tanh_##S(x, 0, &low));                                         \
        SHOW("tanh'_" #S, 4.1, T, low * FL_UNSCALE_##S);                                           \
        if (!(x > 0))                                                                              \
            SHOW("expm1_" #S, 1.25, T, fl_expm1_nonpositive_##S(x));                               \
        if (x >= -1 && x <= 1) {                                                                   \
            SHOW("exp_excess_" #S, 2.1, T, fl_exp_excess_##S(x));                                  \
            SHOW("log_cosh_" #S, 1.25, T, fl_log_cosh_unit_##S(x));                                \
        }                                                                                          \
        if (x >= 0 && x <= 1)                                                                      \
            SHOW("log1p_unit_" #S, 1.25, T, fl_log1p_unit_##S(x));                                 \
    }
DEFINE_SHOW(float, f32)
DEFINE_SHOW(double, f64)

static void show_brief(double x) {
    SHOW("exp_brief", 4096.0, double, fl_exp_brief(-x));
    SHOW("log_brief", 4096.0, double, fl_log_brief(x, 0));
}

static void show(void) {
    for (size_t i = 0; i < COUNT(SPECIAL); ++i)
        show_f32((float)SPECIAL[i]), show_f64(SPECIAL[i]);
    for (double x = 1e-6; x < 1000; x *= 1.01)
        show_f32((float)x), show_f64(x), show_f32((float)-x), show_f64(-x), show_brief(x);
}

static void brief(double x) {
    SEE(fl_exp_brief(x)), SEE(fl_log_brief(x, 0));
}

static void rows(void) {
    ptrdiff_t shape[3] = {2, 3, 4}, stride[3] = {-96, 32, -8};
    fl_operand op = {take(192) + 96 + 24, 1, 8, shape, stride, 3, FL_F64};
    for (ptrdiff_t row = 0; row < 24; ++row)
        SEE(*(fl_half *)fl_row(&op, row));
    op.ndim = 0;
    SEE(*fl_row(&op, 0));
    give_back();
}

int main(void) {
#ifdef FL_SHOW
    show();
#endif
    rows();
    for (size_t i = 0; i < COUNT(SPECIAL); ++i)
        brief(SPECIAL[i]);
    for (size_t i = 0; i < COUNT(SPECIAL); ++i)
        for (size_t j = 0; j < COUNT(SPECIAL); ++j)
            numbers_f32(SPECIAL[i], SPECIAL[j]), numbers_f64(SPECIAL[i], SPECIAL[j]);
    for (size_t s = 0; s < COUNT(SIZES); ++s) {
        ptrdiff_t n = SIZES[s];
        sizes_f32(n), sizes_f64(n);
        for (ptrdiff_t at = 0; at < 64; at += 9)
            streams(n, at);
        for (int options = 0; options < 768; ++options)
            elements_f32(n, options % 3, options / 3), elements_f64(n, options % 3, options / 3);
        for (size_t k = 0; k < COUNT(CODES); ++k)
            for (ptrdiff_t step = -2; step <= 3; ++step)
                memory(n, CODES[k], step, 0), memory(n, CODES[k], step, 1);
        for (ptrdiff_t cols = 1; n && n <= FL_LANES && cols < 20; ++cols)
            for (ptrdiff_t gap = 0; gap < 2; ++gap)
                columns_f32(n, cols, gap), columns_f64(n, cols, gap);
        if (n <= FL_LANES) {
            fl_join(some_f64(FL_LANES), some_f64(FL_LANES), n);
            pieces(n);
        }
        for (ptrdiff_t at = 0; n >= 32 && at < 64; at += 12)
            planes(n, at);
        for (int options = 0; n <= 17 && options < 8; ++options)
            lanes_f32(n, options), lanes_f64(n, options);
    }
    return 0;
}
