/* The loops over rows of classes: `steps` steps (16 at most) of FL_LANES independent lanes.
 *
 * In C for the sake of `restrict`: without it gcc checks for overlap at every step and keeps nothing
 * in registers, which costs a third of the time. A lane is a column of one row or one of many rows;
 * lanes are merged by the drivers (fastloss/kernels/rows.pxi), always in one order.
 */
#ifndef FASTLOSS_LANES_H
#define FASTLOSS_LANES_H

#include <stddef.h>
#if defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>
#endif
#include "vecmath.h"

/* The outputs of a block are no inputs of it. gcc would check, and above ten pairs of pointers leave
 * the loop scalar without a word. */
#if defined(__clang__)
#define FL_INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define FL_INDEPENDENT _Pragma("GCC ivdep")
#endif

enum { FL_LANES = 64, FL_BLOCK = 16 * FL_LANES };
#define FL_TINY_f32 0x1p-126f /* the smallest normal number */
#define FL_TINY_f64 0x1p-1022
enum { FL_ADDS = 8 }; /* in one lane, before it goes to double: 16 equal terms were 9 ulp off */

/* Where streamed blocks of results are to meet, and how many bytes of the line there are still to be
 * written; they are right before the block that the results are made in. */
typedef struct {
    char *at;
    size_t bytes;
} fl_seam;

/* What a thread works in: a block of each operand, and the lanes of a unit of rows. Room for
 * doubles; aligned, since vectors that straddle two cache lines cost another third of the time. */
typedef struct {
    __attribute__((aligned(64))) double pred[FL_BLOCK], target[FL_BLOCK], extra[FL_BLOCK];
    double weight[FL_BLOCK], loss[FL_BLOCK];
    double before_grad[8], grad[FL_BLOCK], before_hess[8], hess[FL_BLOCK]; /* the last line before */
    double top[FL_LANES], near[FL_LANES], factor[FL_LANES], inverse[FL_LANES], first[FL_LANES];
    double second[FL_LANES], first_up[FL_LANES], second_up[FL_LANES], unscale[FL_LANES];
    double one_minus[FL_LANES], scale[FL_LANES];
    double total[2 * FL_LANES], below[2 * FL_LANES], dot[2 * FL_LANES], mass[2 * FL_LANES];
    double by[2]; /* 1 / temperature, in two parts */
    fl_seam seams[2]; /* of gradient and Hessian */
    __attribute__((aligned(64))) double before[8]; /* the last line before what follows: */
} fl_workspace; /* the exponentials of a group of rows */

/* A group of rows of classes, and what is known of each. Aligned: a vector read across two that were
 * just written waits for both. */
typedef struct {
    __attribute__((aligned(64))) int64_t y[FL_LANES];
    double w[FL_LANES], label_logit[FL_LANES], top[FL_LANES], sum[FL_LANES], others[FL_LANES];
    double over[FL_LANES], dot[FL_LANES], mass[FL_LANES]; /* over: 1 / sum */
    double ahead[FL_LANES], ahead_low[FL_LANES], loss[FL_LANES], first[FL_LANES], second[FL_LANES];
    double target_top[FL_LANES], target_sum[FL_LANES]; /* of target logits */
    double kept[FL_LANES]; /* classes, with a class mask and smoothing */
    ptrdiff_t row, n, j, step; /* the rows [row, row + n), and how far they are written */
    int skips; /* whether one of them weighs 0 */
    void *e;
} fl_rows;

/* total[l] += lane[l], compensated (Kahan) where T is double itself: the sum of 50,000 equal terms
 * was 6 ulp off. The compensation is behind the total. */
#define FL_FLUSH(T, total, lane)                                                                   \
    do {                                                                                           \
        if (sizeof(T) == sizeof(double)) {                                                         \
            double x = (double)lane[l] - total[FL_LANES + l], sum = total[l] + x;                  \
            total[FL_LANES + l] = (sum - total[l]) - x;                                            \
            total[l] = sum;                                                                        \
        } else {                                                                                   \
            total[l] += lane[l];                                                                   \
        }                                                                                          \
    } while (0)

#if defined(__AVX2__)
enum { FL_MASKED_LOADS = 1 };
#else
enum { FL_MASKED_LOADS = 0 };
#endif
#define FL_DEFINE_FILL(T, S)                                                                       \
    /* n < FL_LANES numbers, filled up with -inf. What memcpy stores, the next loads wait for. */  \
    FL_INLINE void fl_fill_##S(T *restrict block, const T *restrict z, ptrdiff_t n) {              \
        FL_INDEPENDENT for (int l = 0; l < FL_LANES; ++l)                                          \
            block[l] = FL_MASKED_LOADS && l < (int)n ? z[l] : -INFINITY;                           \
        if (!FL_MASKED_LOADS)                                                                      \
            memcpy(block, z, (size_t)n * sizeof(T));                                               \
    }
FL_DEFINE_FILL(float, f32)
FL_DEFINE_FILL(double, f64)

/* The last of it in a register: from one step to the next in memory a maximum takes 50 ns. */
#if defined(__AVX512F__)
#define FL_GREATEST_f32(lane) return _mm512_reduce_max_ps(_mm512_loadu_ps(lane));
#define FL_GREATEST_f64(lane)                                                                      \
    FL_FOLD_MAX(lane, 8)                                                                           \
    return _mm512_reduce_max_pd(_mm512_loadu_pd(lane));
#else
#define FL_GREATEST_f32(lane)                                                                      \
    FL_FOLD_MAX(lane, 8)                                                                           \
    FL_FOLD_MAX(lane, 4)                                                                           \
    FL_FOLD_MAX(lane, 2)                                                                           \
    return lane[0] > lane[1] ? lane[0] : lane[1];
#define FL_GREATEST_f64(lane) FL_GREATEST_f32(lane)
#endif
#define FL_FOLD_MAX(lane, half)                                                                    \
    for (int l = 0; l < half; ++l)                                                                 \
        lane[l] = lane[l] > lane[l + half] ? lane[l] : lane[l + half];

#define FL_DEFINE_TIMES(T, S)                                                                      \
    /* d / temperature for d <= 0, also -inf; high + low is 1 / temperature. */                    \
    FL_INLINE T fl_times_##S(T d, int tempered, T high, T low) {                                   \
        T rest = d * low;                                                                          \
        rest = fabs(rest) < INFINITY ? rest : 0;                                                   \
        return tempered ? FL_FMA_##S(d, high, rest) : d;                                           \
    }
FL_DEFINE_TIMES(float, f32)
FL_DEFINE_TIMES(double, f64)

#if defined(__AVX512F__)
/* fl_exp_scaled of a vector, within 1.1 ulp. A register of 512 bits holds a table of 2^(j/16)
 * (2^(j/8)), which saves half of the polynomial and a quarter of the time. From the bits of its
 * numbers is taken what shifting n = 16 k + j into the exponent adds for j. */
FL_INLINE __m512 fl_exps_f32(__m512 x) {
    const __m512i powers = _mm512_setr_epi32(
        0x5f800000, 0x5f7daac3, 0x5f7b95c2, 0x5f79c3d3, 0x5f7837f0, 0x5f76f532, 0x5f75fed7,
        0x5f75583f, 0x5f7504f3, 0x5f7508a4, 0x5f75672a, 0x5f76248c, 0x5f7744fd, 0x5f78ccdf,
        0x5f7ac0c7, 0x5f7d257d);
    const __m512 magic = _mm512_set1_ps(12582912.0f);
    __m512 t = _mm512_fmadd_ps(x, _mm512_set1_ps(23.0831206542f), magic);
    __m512 n = _mm512_sub_ps(t, magic);
    __m512 r = _mm512_fmadd_ps(n, _mm512_set1_ps(-0.0433197021484375f), x);
    r = _mm512_fmadd_ps(n, _mm512_set1_ps(-1.99663645617e-6f), r);
    __m512 q = _mm512_fmadd_ps(r, _mm512_set1_ps(0.166670577429026426f),
                               _mm512_set1_ps(0.500009776949596313f));
    q = _mm512_fmadd_ps(_mm512_mul_ps(r, r), q, r);
    __m512i bits = _mm512_castps_si512(t);
    bits = _mm512_add_epi32(_mm512_permutexvar_epi32(bits, powers), _mm512_slli_epi32(bits, 19));
    t = _mm512_castsi512_ps(bits);
    __mmask16 some = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-104.0f), _CMP_NLT_UQ);
    return _mm512_maskz_fmadd_ps(some, q, t, t);
}

FL_INLINE __m512d fl_exps_f64(__m512d x) {
    const __m512i powers = _mm512_setr_epi64(
        0x47f0000000000000, 0x47ef72b83c7d517b, 0x47ef06fe0a31b715, 0x47eebfdad5362a27,
        0x47eea09e667f3bcd, 0x47eeace5422aa0db, 0x47eee89f995ad3ad, 0x47ef5818dcfba487);
    const __m512d magic = _mm512_set1_pd(6755399441055744.0);
    __m512d t = _mm512_fmadd_pd(x, _mm512_set1_pd(11.541560327111707), magic);
    __m512d n = _mm512_sub_pd(t, magic);
    __m512d r = _mm512_fmadd_pd(n, _mm512_set1_pd(-0.08664339756069239), x);
    r = _mm512_fmadd_pd(n, _mm512_set1_pd(-9.300771387515496e-12), r);
    __m512d r2 = _mm512_mul_pd(r, r);
    __m512d even = _mm512_fmadd_pd(r2, _mm512_set1_pd(0.001388958724071312047),
                                   _mm512_set1_pd(0.041666666617508540278));
    __m512d odd = _mm512_fmadd_pd(r2, _mm512_set1_pd(0.0001984230289053062788),
                                  _mm512_set1_pd(0.0083333333218385303213));
    even = _mm512_fmadd_pd(even, r2, _mm512_set1_pd(0.50000000000000512637));
    odd = _mm512_fmadd_pd(odd, r2, _mm512_set1_pd(0.16666666666667007075));
    __m512d q = _mm512_fmadd_pd(_mm512_fmadd_pd(odd, r, even), r2, r);
    __m512i bits = _mm512_castpd_si512(t);
    bits = _mm512_add_epi64(_mm512_permutexvar_epi64(bits, powers), _mm512_slli_epi64(bits, 49));
    t = _mm512_castsi512_pd(bits);
    __mmask8 some = _mm512_cmp_pd_mask(x, _mm512_set1_pd(-745.5), _CMP_NLT_UQ);
    return _mm512_maskz_fmadd_pd(some, q, t, t);
}
#define FL_BYTES 64
#define FL_OF(name) _mm512_##name
#elif defined(__AVX2__) && defined(__FMA__)
/* fl_exp_scaled of a vector, as above by a table, of 2^(j/8); for double it would take too many steps.
 * Within 1.1 ulp and abs(x) 2^-28 of it: log(2) / 8 in one part, whose error is a twentieth of that
 * of the difference x. Both are a quarter of the time. */
FL_INLINE __m256 fl_exps_f32(__m256 x) {
    const __m256i powers = _mm256_setr_epi32(0x5f800000, 0x5f7b95c2, 0x5f7837f0, 0x5f75fed7,
                                             0x5f7504f3, 0x5f75672a, 0x5f7744fd, 0x5f7ac0c7);
    const __m256 magic = _mm256_set1_ps(12582912.0f);
    __m256 t = _mm256_fmadd_ps(x, _mm256_set1_ps(11.5415603271f), magic);
    __m256 n = _mm256_sub_ps(t, magic);
    __m256 r = _mm256_fmadd_ps(n, _mm256_set1_ps(-0.0866433975699932f), x);
    __m256 q = _mm256_fmadd_ps(r, _mm256_set1_ps(0.0416699257135912667f),
                               _mm256_set1_ps(0.166678399303328092f));
    q = _mm256_fmadd_ps(q, r, _mm256_set1_ps(0.499999998776451097f));
    q = _mm256_fmadd_ps(_mm256_mul_ps(r, r), q, r);
    __m256i bits = _mm256_castps_si256(t);
    bits = _mm256_add_epi32(_mm256_permutevar8x32_epi32(powers, bits), _mm256_slli_epi32(bits, 20));
    t = _mm256_castsi256_ps(bits);
    __m256 some = _mm256_cmp_ps(x, _mm256_set1_ps(-104.0f), _CMP_NLT_UQ);
    return _mm256_and_ps(_mm256_fmadd_ps(q, t, t), some);
}
#define FL_BYTES 32
#define FL_OF(name) _mm256_##name
#endif

/* e = exp((z - top) / temperature), scaled, which may take the place of z; `by` is 1 / temperature, in
 * two parts, or NULL. */
#define FL_DEFINE_EXPS_BY_TABLE(T, S, P)                                                           \
    enum { FL_BY_TABLE_##S = 1 };                                                                  \
    FL_INLINE void fl_exponential_##S(T *e, const T *z, const T *restrict top, const T *by) {      \
        T x[FL_LANES];                                                                             \
        for (int l = 0; l < FL_LANES; ++l)                                                         \
            x[l] = fl_times_##S(z[l] - top[l], by != NULL, by ? by[0] : 1, by ? by[1] : 0);        \
        for (int l = 0; l < FL_LANES; l += FL_BYTES / (int)sizeof(T))                              \
            FL_OF(storeu_##P)(e + l, fl_exps_##S(FL_OF(loadu_##P)(x + l)));                        \
    }
#define FL_DEFINE_EXPS(T, S)                                                                       \
    enum { FL_BY_TABLE_##S = 0 };                                                                  \
    FL_INLINE void fl_exponential_##S(T *e, const T *z, const T *restrict top, const T *by) {      \
        FL_INDEPENDENT for (int l = 0; l < FL_LANES; ++l)                                          \
            e[l] = fl_exp_scaled_##S(                                                              \
                fl_times_##S(z[l] - top[l], by != NULL, by ? by[0] : 1, by ? by[1] : 0));          \
    }
#if defined(FL_OF)
FL_DEFINE_EXPS_BY_TABLE(float, f32, ps)
#else
FL_DEFINE_EXPS(float, f32)
#endif
#if defined(__AVX512F__)
FL_DEFINE_EXPS_BY_TABLE(double, f64, pd)
#else
FL_DEFINE_EXPS(double, f64)
#endif

#define FL_DEFINE_LANES(T, S)                                                                      \
    FL_INLINE void fl_highest_##S(const T *restrict z, ptrdiff_t steps, T *restrict top) {         \
        T lane[FL_LANES];                                                                          \
        memcpy(lane, top, sizeof lane);                                                            \
        for (ptrdiff_t i = 0; i < steps; ++i, z += FL_LANES)                                       \
            for (int l = 0; l < FL_LANES; ++l)                                                     \
                lane[l] = z[l] > lane[l] ? z[l] : lane[l];                                         \
        memcpy(top, lane, sizeof lane);                                                            \
    }                                                                                              \
    FL_INLINE T fl_greatest_##S(T *restrict lane) {                                                \
        FL_FOLD_MAX(lane, 32)                                                                      \
        FL_FOLD_MAX(lane, 16)                                                                      \
        FL_GREATEST_##S(lane)                                                                      \
    }                                                                                              \
    FL_INLINE T fl_highest_of_all_##S(const T *restrict z, ptrdiff_t steps) {                      \
        T lane[FL_LANES];                                                                          \
        for (int l = 0; l < FL_LANES; ++l)                                                         \
            lane[l] = -INFINITY;                                                                   \
        fl_highest_##S(z, steps, lane);                                                            \
        return fl_greatest_##S(lane);                                                              \
    }                                                                                              \
    /* The same of n numbers, which it copies to whole steps, filled up with -inf. */              \
    FL_INLINE T fl_copy_highest_##S(T *restrict block, const T *restrict z, ptrdiff_t n) {         \
        T lane[FL_LANES];                                                                          \
        for (int l = 0; l < FL_LANES; ++l)                                                         \
            lane[l] = -INFINITY;                                                                   \
        for (; n >= FL_LANES; n -= FL_LANES, z += FL_LANES, block += FL_LANES)                     \
            for (int l = 0; l < FL_LANES; ++l) {                                                   \
                block[l] = z[l];                                                                   \
                lane[l] = z[l] > lane[l] ? z[l] : lane[l];                                         \
            }                                                                                      \
        if (n > 0) {                                                                               \
            fl_fill_##S(block, z, n);                                                              \
            for (int l = 0; l < FL_LANES; ++l)                                                     \
                lane[l] = block[l] > lane[l] ? block[l] : lane[l];                                 \
        }                                                                                          \
        return fl_greatest_##S(lane);                                                              \
    }                                                                                              \
    /* Step i of memory that is soon read, if any, is brought near, to the L2 cache, while the loops \
     * below compute: the processor's own prefetch stops at the end of a page. */                  \
    FL_INLINE void fl_near_##S(const char *ahead, ptrdiff_t i) {                                   \
        if (ahead)                                                                                 \
            for (size_t b = 0; b < FL_LANES * sizeof(T); b += 64)                                  \
                __builtin_prefetch(ahead + (size_t)i * FL_LANES * sizeof(T) + b, 0, 2);            \
    }                                                                                              \
    /* e = exp(z - top), scaled by 1 / FL_UNSCALE, and its sum; `below` sums the e < 1 alone, in   \
     * the same unit. (`lower += x < ... ? x : 0`                                                  \
     * would become a branch, and the loop scalar: 5 times as slow.) `by` is 1 / temperature, in   \
     * two parts, or NULL. `ahead` is soon read, `into` written. */                                \
    FL_INLINE void fl_exponentials_##S(int split, T *e, const T *z, ptrdiff_t steps,               \
                                       const T *restrict top, const T *by,                         \
                                       double *restrict total, double *restrict below,             \
                                       const char *ahead, const char *into) {                      \
        for (ptrdiff_t i = 0; i < steps;) {                                                        \
            T lane[FL_LANES] = {0}, lower[FL_LANES] = {0};                                         \
            ptrdiff_t end = i + FL_ADDS < steps ? i + FL_ADDS : steps;                             \
            for (; i < end; ++i, z += FL_LANES, e += FL_LANES) {                                   \
                fl_near_##S(ahead, i), fl_near_##S(into, i);                                       \
                fl_exponential_##S(e, z, top, by);                                                 \
                for (int l = 0; l < FL_LANES; ++l) {                                               \
                    lane[l] += e[l];                                                               \
                    T under = e[l] < 1 / FL_UNSCALE_##S ? e[l] : 0;                                \
                    if (split)                                                                     \
                        lower[l] += under;                                                         \
                }                                                                                  \
            }                                                                                      \
            for (int l = 0; l < FL_LANES; ++l)                                                     \
                FL_FLUSH(T, total, lane);                                                          \
            if (split)                                                                             \
                for (int l = 0; l < FL_LANES; ++l)                                                 \
                    FL_FLUSH(T, below, lower);                                                     \
        }                                                                                          \
    }                                                                                              \
    /* sum u (top - z) and sum u; where u is 0 so is the product, also for z = -inf. */            \
    FL_INLINE void fl_distances_##S(const T *restrict z, const T *restrict u, ptrdiff_t steps,     \
                                    const T *restrict top, double *restrict dot,                   \
                                    double *restrict mass, const char *ahead) {                    \
        for (ptrdiff_t i = 0; i < steps;) {                                                        \
            T lane[FL_LANES] = {0}, lane_u[FL_LANES] = {0};                                        \
            ptrdiff_t end = i + FL_ADDS < steps ? i + FL_ADDS : steps;                             \
            for (; i < end; ++i, z += FL_LANES, u += FL_LANES) {                                   \
                fl_near_##S(ahead, i);                                                             \
                for (int l = 0; l < FL_LANES; ++l) {                                               \
                    lane_u[l] += u[l];                                                             \
                    lane[l] += u[l] == 0 ? 0 : u[l] * (top[l] - z[l]);                             \
                }                                                                                  \
            }                                                                                      \
            for (int l = 0; l < FL_LANES; ++l) {                                                   \
                dot[l] += lane[l];                                                                 \
                mass[l] += lane_u[l];                                                              \
            }                                                                                      \
        }                                                                                          \
    }                                                                                              \
    /* total += lane, which may be inf. */                                                         \
    FL_INLINE void fl_flush_##S(const T *restrict lane, double *restrict total) {                  \
        for (int l = 0; l < FL_LANES; ++l)                                                         \
            FL_FLUSH(T, total, lane);                                                              \
        for (int l = 0; l < FL_LANES && sizeof(T) == sizeof(double); ++l) {                        \
            double lost = total[FL_LANES + l];                                                     \
            total[FL_LANES + l] = fabs(lost) < INFINITY ? lost : 0;                                \
        }                                                                                          \
    }                                                                                              \
    /* total += x, which may be inf. */                                                            \
    FL_INLINE void fl_add_up_##S(const T *restrict x, ptrdiff_t steps, double *restrict total) {   \
        for (ptrdiff_t i = 0; i < steps;) {                                                        \
            T lane[FL_LANES] = {0};                                                                \
            ptrdiff_t end = i + FL_ADDS < steps ? i + FL_ADDS : steps;                             \
            for (; i < end; ++i, x += FL_LANES)                                                    \
                for (int l = 0; l < FL_LANES; ++l)                                                 \
                    lane[l] += x[l];                                                               \
            fl_flush_##S(lane, total);                                                             \
        }                                                                                          \
    }                                                                                              \
    /* total += x, with all the digits: what an addition loses is behind the total. */             \
    FL_INLINE void fl_add_exactly_##S(const T *restrict x, ptrdiff_t steps,                        \
                                      double *restrict total) {                                    \
        for (ptrdiff_t i = 0; i < steps; ++i, x += FL_LANES)                                       \
            for (int l = 0; l < FL_LANES; ++l) {                                                   \
                double sum = total[l] + x[l], v = sum - total[l];                                  \
                total[FL_LANES + l] -= (total[l] - (sum - v)) + (x[l] - v);                        \
                total[l] = sum;                                                                    \
            }                                                                                      \
    }                                                                                              \
    /* z becomes cap tanh(z / cap). */                                                             \
    FL_INLINE void fl_cap_##S(T *restrict z, ptrdiff_t n, double cap) {                            \
        for (ptrdiff_t i = 0; i < n; ++i) {                                                        \
            T low, slope, x = fl_divided_##S(z[i], cap, &low);                                     \
            z[i] = (T)cap * fl_tanh_##S(x, low, &slope);                                           \
        }                                                                                          \
    }                                                                                              \
    /* From the derivatives in cap tanh(z / cap) those in z. What has none, has none, whatever z. The\
     * slope alone may be no normal number: what it is made larger by is taken off last. */        \
    FL_INLINE void fl_uncap_##S(int hessian, const T *restrict z, ptrdiff_t n, double cap,         \
                                T *restrict g, T *restrict h) {                                    \
        T by = (T)(-2 / cap);                                                                      \
        for (ptrdiff_t i = 0; i < n; ++i) {                                                        \
            T low, up, x = fl_divided_##S(z[i], cap, &low), bend = by * fl_tanh_##S(x, low, &up);  \
            T first = g[i], second = hessian ? h[i] : 0, slope = up * FL_UNSCALE_##S;              \
            int large = fabs(first) > 1 / FL_HALFWAY_##S;                                          \
            T down = large ? 1 : FL_UNSCALE_##S, own = (large ? first * FL_UNSCALE_##S : first) * up;\
            T part = fabs(bend) > 1 ? own * (bend * down) : own * bend * down;                     \
            if (hessian)                                                                           \
                h[i] = first == 0 && second == 0 ? second : second * slope * slope + part;         \
            g[i] = first == 0 ? first : own * down;                                                \
        }                                                                                          \
    }                                                                                              \
    /* q = exp(t - top) times over. */                                                             \
    FL_INLINE void fl_shares_##S(T *restrict q, const T *restrict t, ptrdiff_t steps,              \
                                 const T *restrict top, const T *restrict over, const T *by) {     \
        for (ptrdiff_t i = 0; i < steps; ++i, t += FL_LANES, q += FL_LANES) {                      \
            fl_exponential_##S(q, t, top, by);                                                     \
            for (int l = 0; l < FL_LANES; ++l)                                                     \
                q[l] *= over[l];                                                                   \
        }                                                                                          \
    }                                                                                              \
    /* Of rows side by side and their classes y: z[y], whose place -inf takes, and the highest of the \
     * others. To compare all of a few is faster than to store here and there, which the next loads \
     * wait for. */                                                                                \
    FL_INLINE void fl_take_out_##S(T *restrict z, ptrdiff_t classes, const T *restrict y,          \
                                   T *restrict own, T *restrict top) {                             \
        for (ptrdiff_t k = 0; k < classes; ++k, z += FL_LANES)                                     \
            for (int l = 0; l < FL_LANES; ++l) {                                                   \
                T here = z[l], kept = own[l], highest = top[l];                                    \
                int is = y[l] == (T)k;                                                             \
                T other = is ? -INFINITY : here;                                                   \
                own[l] = is ? here : kept;                                                         \
                z[l] = other;                                                                      \
                top[l] = other > highest ? other : highest;                                        \
            }                                                                                      \
    }                                                                                              \
    /* e near factor - u scale of a row's n classes. */                                            \
    FL_INLINE void fl_difference_##S(const T *restrict e, const T *restrict u, ptrdiff_t n, T near, \
                                     T factor, T scale, T *restrict g) {                           \
        for (ptrdiff_t i = 0; i < n; ++i)                                                          \
            g[i] = e[i] * near * factor - u[i] * scale;                                            \
    }                                                                                              \
    /* g -= u times scale. */                                                                      \
    FL_INLINE void fl_less_##S(T *restrict g, const T *restrict u, ptrdiff_t steps,                \
                               const T *restrict scale) {                                          \
        for (ptrdiff_t i = 0; i < steps; ++i, g += FL_LANES, u += FL_LANES)                        \
            for (int l = 0; l < FL_LANES; ++l)                                                     \
                g[l] -= u[l] * scale[l];                                                           \
    }                                                                                              \
    /* What a divergence's derivatives g and h in log p make of those in the logits: g - p G, and  \
     * (1 - p) m - p (m - p H) with m = g + h - p G. The greatest p's 1 - p is given. p, g and h   \
     * are divided by FL_HALFWAY, so that no partial product is subnormal. */                      \
    FL_INLINE void fl_spread_##S(int hessian, const T *restrict p, ptrdiff_t steps,                \
                                 const T *restrict over, const T *restrict all_g,                  \
                                 const T *restrict all_h, const T *restrict one_minus,             \
                                 const T *restrict scale, T slope, T *restrict g, T *restrict h) { \
        for (ptrdiff_t i = 0; i < steps; ++i, p += FL_LANES, g += FL_LANES, h += FL_LANES)         \
            for (int l = 0; l < FL_LANES; ++l) {                                                   \
                T of = g[l] - p[l] * all_g[l], m = h[l] + of, known = one_minus[l];                \
                T share = p[l] * FL_HALFWAY_##S;                                                   \
                T rest = p[l] == 1 / FL_UNSCALE_##S * over[l] ? known : 1 - share;                 \
                g[l] = of * (FL_HALFWAY_##S * scale[l]);                                           \
                if (hessian)                                                                       \
                    h[l] = (rest * m - share * (m - p[l] * all_h[l])) * slope                      \
                           * (FL_HALFWAY_##S * scale[l]);                                          \
            }                                                                                      \
    }                                                                                              \
    /* log(share) - y + low, -inf where there is no share. */                                      \
    FL_INLINE T fl_log_ratio_##S(T share, T y, T low) {                                            \
        T log = fl_log_sum_##S(share, 0);                                                          \
        log = share < INFINITY ? log : share;                                                      \
        log = share < 0 ? NAN : (log - y) + low;                                                   \
        return fabs(share) < FL_TINY_##S ? -INFINITY : log;                                        \
    }                                                                                              \
    /* The sum over the classes of q (log(q) + (top - z) / temperature), the divergence of the shares \
     * q from p = exp(z - top) / sum less sum(q) log(sum). */                                      \
    FL_INLINE void fl_cross_##S(const T *restrict z, const T *restrict q, ptrdiff_t steps,         \
                                const T *restrict top, const T *by, double *restrict total,        \
                                const char *ahead) {                                               \
        T high = by ? by[0] : 1, fine = by ? by[1] : 0;                                            \
        for (ptrdiff_t i = 0; i < steps;) {                                                        \
            T lane[FL_LANES] = {0};                                                                \
            ptrdiff_t end = i + FL_ADDS < steps ? i + FL_ADDS : steps;                             \
            for (; i < end; ++i, z += FL_LANES, q += FL_LANES) {                                   \
                fl_near_##S(ahead, i);                                                             \
                for (int l = 0; l < FL_LANES; ++l) {                                               \
                    T y = fl_times_##S(z[l] - top[l], by != NULL, high, fine);                     \
                    T term = q[l] * fl_log_less_##S(q[l], y);                                      \
                    lane[l] += q[l] < FL_TINY_##S ? 0 : term;                                      \
                }                                                                                  \
            }                                                                                      \
            fl_flush_##S(lane, total);                                                             \
        }                                                                                          \
    }                                                                                              \
    /* The sum over the classes of p - q + q x = q (exp(-x) - 1 + x), x = log(q / p): none of these \
     * terms is negative. q is given, the rest is as in fl_ratios. */                              \
    FL_INLINE void fl_kl_terms_##S(const T *restrict e, const T *restrict z,                       \
                                   const T *restrict q, ptrdiff_t steps, const T *restrict top,    \
                                   const T *restrict sum, const T *restrict over,                  \
                                   const T *restrict sum_low, const T *by,                         \
                                   double *restrict total) {                                       \
        T high = by ? by[0] : 1, fine = by ? by[1] : 0;                                            \
        for (ptrdiff_t i = 0; i < steps;) {                                                        \
            T lane[FL_LANES] = {0};                                                                \
            ptrdiff_t end = i + FL_ADDS < steps ? i + FL_ADDS : steps;                             \
            for (; i < end; ++i, z += FL_LANES, q += FL_LANES, e += e ? FL_LANES : 0)              \
                for (int l = 0; l < FL_LANES; ++l) {                                               \
                    T y = fl_times_##S(z[l] - top[l], by != NULL, high, fine);                     \
                    T share = q[l] * sum[l], p = (e ? e[l] : fl_exp_scaled_##S(y)) * over[l];      \
                    T x = (fl_log_sum_##S(share, 0) - y) + sum_low[l];                             \
                    T close = q[l] * fl_exp_excess_##S(x), apart = (p - q[l]) + q[l] * x;          \
                    lane[l] += share < FL_TINY_##S ? p : fabs(x) < 1 ? close : apart;              \
                }                                                                                  \
            fl_flush_##S(lane, total);                                                             \
        }                                                                                          \
    }                                                                                              \
    /* p and x = log(q / p), p = exp(z - top) / sum being the prediction and q the target. Of target\
     * logits t, shift is the logarithm of the target's sum over the prediction's, in two parts;   \
     * else shift_low is what `sum` loses by rounding. Where there is no q, x is -inf. e is        \
     * exp(z - top) if that is known, or NULL. */                                                  \
    FL_INLINE void fl_ratios_##S(int of_logits, T *restrict x, T *restrict p, const T *restrict e, \
                                 const T *restrict z,                                              \
                                 const T *restrict t, const T *restrict q, ptrdiff_t steps,        \
                                 const T *restrict top, const T *restrict sum,                     \
                                 const T *restrict over, const T *restrict t_top,                  \
                                 const T *restrict shift, const T *restrict shift_low,             \
                                 const T *by) {                                                    \
        T high = by ? by[0] : 1, fine = by ? by[1] : 0;                                            \
        for (ptrdiff_t i = 0; i < steps; ++i, z += FL_LANES, q += FL_LANES, p += FL_LANES,         \
                       x += FL_LANES, t += FL_LANES, e += e ? FL_LANES : 0)                        \
            for (int l = 0; l < FL_LANES; ++l) {                                                   \
                T d = z[l] - top[l], y = fl_times_##S(d, by != NULL, high, fine), share = q[l];    \
                p[l] = (e ? e[l] : fl_exp_scaled_##S(y)) * over[l];                                \
                if (of_logits) { /* the difference of two differences, without their rounding */   \
                    T a = t[l] - t_top[l], va = a - t[l], vd = d - z[l];                           \
                    T low = (t[l] - (a - va)) - (t_top[l] + va);                                   \
                    low -= (z[l] - (d - vd)) - (top[l] + vd);                                      \
                    T apart = a - d;                                                               \
                    va = apart - a;                                                                \
                    low += (a - (apart - va)) - (d + va);                                          \
                    low = by ? low * high + apart * fine : low;                                    \
                    low = fabs(low) < INFINITY ? low : 0; /* beyond the finite numbers */          \
                    T log_ratio = ((by ? apart * high : apart) - shift[l]) + (low - shift_low[l]); \
                    x[l] = fabs(share) < FL_TINY_##S ? -INFINITY : log_ratio;                      \
                } else                                                                             \
                    x[l] = fl_log_ratio_##S(share * sum[l], y, shift_low[l]);                      \
            }                                                                                      \
    }                                                                                              \
    /* What e is multiplied by, from n rows' sums and derivatives. The unscaling is a factor of its \
     * own, so that no partial product is subnormal unless the gradient is, and none overflows where\
     * the Hessian does not. `slope` is the logits' derivative, 1 / temperature. */                \
    FL_INLINE void fl_factors_##S(                                                                 \
        ptrdiff_t n, int hessian, const double *restrict w, const double *restrict df,             \
        const double *restrict ddf, const double *restrict over, const double *restrict others,    \
        double by, double slope, double share, T *restrict near, T *restrict factor, T *restrict inverse,        \
        T *restrict first, T *restrict second, T *restrict first_up, T *restrict second_up,        \
        T *restrict unscale, T *restrict one_minus, T *restrict scale) {                           \
        for (ptrdiff_t l = 0; l < n; ++l) {                                                        \
            double weight = w[l] * by * slope, f = df[l] * weight * (over[l] * share);             \
            int large = fabs(f) > 1;                                                               \
            near[l] = (T)(FL_UNSCALE_##S * (large ? f : 1));                                       \
            factor[l] = (T)(large ? 1 : f);                                                        \
            first[l] = (T)(df[l] * weight);                                                        \
            scale[l] = (T)weight;                                                                  \
        }                                                                                          \
        if (hessian)                                                                               \
            for (ptrdiff_t l = 0; l < n; ++l) {                                                    \
                double q = over[l] * share, weight = w[l] * by * slope * slope;                    \
                double f = df[l] * weight, ff = ddf[l] * weight, most = 1 / FL_UNSCALE_##S;        \
                int large = (fabs(f) > most) | (fabs(ff) > most);                                  \
                double up = large ? FL_HALFWAY_##S : 1 / FL_HALFWAY_##S;                           \
                inverse[l] = (T)q;                                                                 \
                second[l] = (T)ff;                                                                 \
                first_up[l] = (T)(f * up);                                                         \
                second_up[l] = (T)(ff * up);                                                       \
                unscale[l] = (T)(large ? 1 : FL_UNSCALE_##S);                                      \
                one_minus[l] = (T)(share == 1 ? others[l] * q : 1 - q);                            \
            }                                                                                      \
    }                                                                                              \
    /* Of a loss f(d): f' q, and q (f' (1 - q) + f'' q) with q = e / S; 1 - q of the greatest is   \
     * given, since it would cancel. The factors are of a lane, or (`apart` 0) of all. With labels \
     * y, the gradient of class y is that of its loss alone, -f'. One may take the place of e. */  \
    FL_INLINE void fl_scaled_##S(int apart, int hessian, const T *e, ptrdiff_t steps,              \
                                 const T *restrict y, const T *restrict first,                     \
                                 const T *restrict near, const T *restrict factor,                 \
                                 const T *restrict inverse, const T *restrict first_up,            \
                                 const T *restrict second_up, const T *restrict unscale,           \
                                 const T *restrict one_minus, T *grad, T *hess) {                  \
        for (ptrdiff_t i = 0; i < steps; ++i, e += FL_LANES, grad += FL_LANES, hess += FL_LANES)   \
            FL_INDEPENDENT for (int l = 0; l < FL_LANES; ++l) {                                    \
                int k = apart ? l : 0;                                                             \
                T up = e[l] * FL_HALFWAY_##S * inverse[k], q = up * FL_HALFWAY_##S;                \
                T known = one_minus[k], rest = e[l] == 1 / FL_UNSCALE_##S ? known : 1 - q;         \
                T of = e[l] * near[k] * factor[k], label = y ? 0 - first[l] : of;                  \
                grad[l] = y && y[l] == (T)i ? label : of;                                          \
                if (hessian)                                                                       \
                    hess[l] = up * (first_up[k] * rest + second_up[k] * q) * unscale[k];           \
            }                                                                                      \
    }                                                                                              \
    /* What fl_exponentials sums, of a block that may be higher than `top`, and the sum of e (top - z)\
     * (`dot`); no e is kept. Returns the block's maximum: if that is above top, all of it is wrong.\
     * The sums of each FL_ADDS steps are in a part of their own, for fl_add_part. */              \
    FL_INLINE T fl_part_sums_##S(int split, int dot, const T *restrict z, ptrdiff_t steps, T top,  \
                                 T *restrict part, const char *ahead) {                            \
        T most[FL_LANES], e[FL_LANES], tops[FL_LANES];                                             \
        for (int l = 0; l < FL_LANES; ++l)                                                         \
            most[l] = -INFINITY, tops[l] = top;                                                    \
        for (ptrdiff_t i = 0; i < steps; part += 3 * FL_LANES) {                                   \
            T lane[FL_LANES] = {0}, lower[FL_LANES] = {0}, far[FL_LANES] = {0};                    \
            ptrdiff_t end = i + FL_ADDS < steps ? i + FL_ADDS : steps;                             \
            for (; i < end; ++i, z += FL_LANES) {                                                  \
                fl_near_##S(ahead, i);                                                             \
                if (FL_BY_TABLE_##S)                                                               \
                    fl_exponential_##S(e, z, tops, NULL);                                          \
                for (int l = 0; l < FL_LANES; ++l) {                                               \
                    T x = FL_BY_TABLE_##S ? e[l] : fl_exp_scaled_##S(z[l] - top);                  \
                    most[l] = z[l] > most[l] ? z[l] : most[l];                                     \
                    lane[l] += x;                                                                  \
                    if (split)                                                                     \
                        e[l] = x;                                                                  \
                }                                                                                  \
                /* Apart, or the selects become branches. */                                       \
                for (int l = 0; split && l < FL_LANES; ++l) {                                      \
                    T x = e[l], d = z[l] - top, under = x < 1 / FL_UNSCALE_##S ? x : 0;            \
                    lower[l] += under;                                                             \
                    d = d < -1000 ? -1000 : d; /* 0 times inf is nan */                            \
                    if (dot)                                                                       \
                        far[l] -= x * d;                                                           \
                }                                                                                  \
            }                                                                                      \
            memcpy(part, lane, sizeof lane);                                                       \
            memcpy(part + FL_LANES, lower, split ? sizeof lower : 0);                              \
            memcpy(part + 2 * FL_LANES, far, dot ? sizeof far : 0);                                \
        }                                                                                          \
        return fl_greatest_##S(most);                                                              \
    }                                                                                              \
    FL_INLINE void fl_add_part_##S(const T *restrict lane, double *restrict total) {               \
        for (int l = 0; l < FL_LANES; ++l)                                                         \
            FL_FLUSH(T, total, lane);                                                              \
    }                                                                                              \
    /* Of rows side by side the highest so far and its class, of equals the first. */              \
    FL_INLINE void fl_argmax_##S(const T *restrict z, ptrdiff_t steps, T *restrict top,            \
                                 T *restrict at) {                                                 \
        for (ptrdiff_t i = 0; i < steps; ++i, z += FL_LANES) {                                     \
            for (int l = 0; l < FL_LANES; ++l) {                                                   \
                T here = z[l], other = at[l];                                                      \
                at[l] = here > top[l] ? (T)i : other;                                              \
            }                                                                                      \
            for (int l = 0; l < FL_LANES; ++l) { /* apart, or the selects become branches */       \
                T here = z[l], highest = top[l];                                                   \
                top[l] = here > highest ? here : highest;                                          \
            }                                                                                      \
        }                                                                                          \
    }                                                                                              \
    /* The highest below another, `last`, or equal to it at a later class than its own. */         \
    FL_INLINE void fl_next_##S(const T *restrict z, ptrdiff_t steps, const T *restrict last,       \
                               const T *restrict last_at, T *restrict top, T *restrict at) {       \
        for (ptrdiff_t i = 0; i < steps; ++i, z += FL_LANES)                                       \
            for (int l = 0; l < FL_LANES; ++l) {                                                   \
                T here = z[l], highest = top[l], other = at[l];                                    \
                int after = (here < last[l]) | ((here == last[l]) & ((T)i > last_at[l]));          \
                int better = after & ((here > highest) | (other < 0));                             \
                top[l] = better ? here : highest;                                                  \
                at[l] = better ? (T)i : other;                                                     \
            }                                                                                      \
    }                                                                                              \
    /* How many are above a bound; which lanes have a nan. */                                      \
    FL_INLINE void fl_above_##S(const T *restrict z, ptrdiff_t steps, const T *restrict bound,     \
                                T *restrict count) {                                               \
        for (ptrdiff_t i = 0; i < steps; ++i, z += FL_LANES)                                       \
            for (int l = 0; l < FL_LANES; ++l) {                                                   \
                T n = count[l];                                                                    \
                count[l] = z[l] > bound[l] ? n + 1 : n;                                            \
            }                                                                                      \
    }                                                                                              \
    FL_INLINE void fl_nans_##S(const T *restrict z, ptrdiff_t steps, T *restrict odd,              \
                               const char *ahead) {                                                \
        for (ptrdiff_t i = 0; i < steps; ++i, z += FL_LANES) {                                     \
            fl_near_##S(ahead, i);                                                                 \
            for (int l = 0; l < FL_LANES; ++l) {                                                   \
                T known = odd[l];                                                                  \
                odd[l] = z[l] != z[l] ? 1 : known;                                                 \
            }                                                                                      \
        }                                                                                          \
    }                                                                                              \
    /* Of one row: how many are above a bound, and where the first is that equals x, or -1. */     \
    FL_INLINE ptrdiff_t fl_all_above_##S(const T *restrict z, ptrdiff_t steps, T x) {              \
        T bound[FL_LANES], count[FL_LANES] = {0};                                                  \
        int all = 0; /* floats would be added one after the other */                               \
        for (int l = 0; l < FL_LANES; ++l)                                                         \
            bound[l] = x;                                                                          \
        fl_above_##S(z, steps, bound, count);                                                      \
        for (int l = 0; l < FL_LANES; ++l)                                                         \
            all += (int)count[l];                                                                  \
        return all;                                                                                \
    }                                                                                              \
    FL_INLINE ptrdiff_t fl_find_##S(const T *restrict z, ptrdiff_t steps, T x) {                   \
        for (ptrdiff_t i = 0; i < steps * FL_LANES; i += FL_LANES) {                               \
            int here = 0;                                                                          \
            for (int l = 0; l < FL_LANES; ++l)                                                     \
                here |= z[i + l] == x;                                                             \
            for (int l = 0; here && l < FL_LANES; ++l)                                             \
                if (z[i + l] == x)                                                                 \
                    return i + l;                                                                  \
        }                                                                                          \
        return -1;                                                                                 \
    }
/* The sum of FL_LANES totals, and of what is behind each, less a number. */
#define FL_FOLD(half)                                                                              \
    for (int l = 0; l < half; ++l) {                                                               \
        double a = x[l], b = x[l + half], sum = a + b, v = sum - a;                                \
        double lost = x[FL_LANES + l] + (x[FL_LANES + l + half] - ((a - (sum - v)) + (b - v)));    \
        x[FL_LANES + l] = fabs(lost) < INFINITY ? lost : 0; /* beyond the finite numbers */        \
        x[l] = sum;                                                                                \
    }
FL_INLINE double fl_settled(double *restrict x, double less) {
    FL_FOLD(32) FL_FOLD(16) FL_FOLD(8) FL_FOLD(4) FL_FOLD(2) FL_FOLD(1)
    return (x[0] - less) - x[FL_LANES]; /* the difference is exact where it is small */
}

FL_DEFINE_LANES(float, f32)
FL_DEFINE_LANES(double, f64)

/* Of n <= FL_LANES losses m + log(1 + x), of which the sum alone counts: the same sum in fewer, m and x
 * of FL_LOGS. (1 + x) (1 + y) = 1 + (x + y + x y), in which nothing is lost where x and y are small. */
enum { FL_LOGS = 8 };
#define FL_JOIN(half)                                                                              \
    for (int l = 0; l < half; ++l) {                                                               \
        double a = x[l], b = x[l + half];                                                          \
        x[l] = FL_FMA(a, b, a + b);                                                                \
        m[l] += m[l + half];                                                                       \
    }
FL_INLINE void fl_join(double *restrict m, double *restrict x, ptrdiff_t n) {
    for (ptrdiff_t l = n; l < FL_LANES; ++l)
        m[l] = x[l] = 0;
    FL_JOIN(32) FL_JOIN(16) FL_JOIN(8)
}

#endif
