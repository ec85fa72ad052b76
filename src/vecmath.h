/* Elementary functions that gcc and clang vectorise by themselves: no branches, no tables, no libm.
 *
 * Every function is `static inline`, holds to the same sequence of IEEE operations at every vector
 * width (the build forbids contraction, so a multiply-add is where FL_FMA says and nowhere else),
 * lets nan through and is within 1 ulp on the stated domain (log, log1p and expm1: 1.25; exp_times:
 * 1.15, 1.5 where there is no fused multiply-add).
 * The polynomials are minimax in relative error, found by a Remez exchange: `python ci/minimax.py`
 * prints them.
 */
#ifndef FASTLOSS_VECMATH_H
#define FASTLOSS_VECMATH_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define FL_INLINE static inline __attribute__((always_inline, unused))
/* Of a loop that does so little that counting takes a third of its time. */
#if defined(__clang__)
#define FL_UNROLLED /* clang does by itself */
#else
#define FL_UNROLLED _Pragma("GCC unroll 4")
#endif
/* Of one in every loop over a block, whose copies are an eighth slower too. */
#if defined(__clang__)
#define FL_ROLLED _Pragma("clang loop unroll(disable)")
#else
#define FL_ROLLED _Pragma("GCC unroll 1")
#endif

/* Where the target has no fused multiply-add, fma() is a library call, 58 times slower. */
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
#define FL_FMAF(a, b, c) __builtin_fmaf(a, b, c)
#define FL_FMA(a, b, c) __builtin_fma(a, b, c)
#else
#define FL_FMAF(a, b, c) ((a) * (b) + (c))
#define FL_FMA(a, b, c) ((a) * (b) + (c))
#endif
#define FL_FMA_f32 FL_FMAF
#define FL_FMA_f64 FL_FMA

/* exp(r) - 1 for abs(r) <= log(2) / 2. The polynomial's even and odd halves go side by side: the
 * processor looks ahead too short a way to find the next vector's work. */
FL_INLINE float fl_exp_rest_f32(float r) {
    float r2 = r * r;
    float even = 0.00138146177907026834f, odd = 0.00836871703327805474f;
    even = FL_FMAF(even, r2, 0.0416683877289201003f);
    odd = FL_FMAF(odd, r2, 0.16666520630583014f);
    even = FL_FMAF(even, r2, 0.499999934489174929f);
    return FL_FMAF(FL_FMAF(odd, r, even), r2, r);
}

FL_INLINE double fl_exp_rest_f64(double r) {
    double r2 = r * r, even = 2.7630247838214363193e-7, odd = 2.5000185829692976914e-8;
    even = FL_FMA(even, r2, 0.000024801493100114354073);
    odd = FL_FMA(odd, r2, 2.7557585988446178521e-6);
    even = FL_FMA(even, r2, 0.0013888888943629427703);
    odd = FL_FMA(odd, r2, 0.00019841269506999064567);
    even = FL_FMA(even, r2, 0.041666666666530158293);
    odd = FL_FMA(odd, r2, 0.0083333333334942748444);
    even = FL_FMA(even, r2, 0.50000000000000106278);
    odd = FL_FMA(odd, r2, 0.16666666666666412796);
    return FL_FMA(FL_FMA(odd, r, even), r2, r);
}

/* exp(x) = 2^n (1 + p) for x <= 0: p, and n in the low bits of *n. */
FL_INLINE float fl_exp_parts_f32(float x, uint32_t *n) {
    const float magic = 12582912.0f; /* 1.5 2^23: adding it rounds to an integer, in the low bits */
    float t = FL_FMAF(x, 1.44269504f, magic), k = t - magic;
    float r = FL_FMAF(k, -9.0580006145e-06f, FL_FMAF(k, -6.9313812256e-01f, x));
    memcpy(n, &t, sizeof t);
    return fl_exp_rest_f32(r);
}

FL_INLINE double fl_exp_parts_f64(double x, uint64_t *n) {
    const double magic = 6755399441055744.0; /* 1.5 2^52 */
    double t = FL_FMA(x, 1.4426950408889634, magic), k = t - magic;
    double r = FL_FMA(k, -1.90821492927058770002e-10, FL_FMA(k, -6.93147180369123816490e-01, x));
    memcpy(n, &t, sizeof t);
    return fl_exp_rest_f64(r);
}

/* exp(x) 2^64 (2^128 for double) for x <= 0: never subnormal, so that 2^n is one product, and 0
 * only where exp(x) rounds to 0. Times FL_UNSCALE it is exp(x). */
#define FL_UNSCALE_f32 0x1p-64f
#define FL_UNSCALE_f64 0x1p-128
FL_INLINE float fl_exp_scaled_f32(float x) {
    uint32_t n;
    float p = fl_exp_parts_f32(x, &n), t;
    n = (n << 23) + ((uint32_t)(127 + 64) << 23);
    memcpy(&t, &n, sizeof t);
    p = FL_FMAF(p, t, t);
    return x < -104.0f ? 0.0f : p;
}

FL_INLINE double fl_exp_scaled_f64(double x) {
    uint64_t n;
    double p = fl_exp_parts_f64(x, &n), t;
    n = (n << 52) + ((uint64_t)(1023 + 128) << 52);
    memcpy(&t, &n, sizeof t);
    p = FL_FMA(p, t, t);
    return x < -745.5 ? 0.0 : p;
}

/* exp(x) - 1 for x <= 0. */
FL_INLINE float fl_expm1_nonpositive_f32(float x) {
    uint32_t n;
    float p = fl_exp_parts_f32(x, &n), t;
    n = (n << 23) + ((uint32_t)127 << 23);
    memcpy(&t, &n, sizeof t);
    p = FL_FMAF(p, t, t - 1.0f);
    return x < -20.0f ? -1.0f : p;
}

FL_INLINE double fl_expm1_nonpositive_f64(double x) {
    uint64_t n;
    double p = fl_exp_parts_f64(x, &n), t;
    n = (n << 52) + ((uint64_t)1023 << 52);
    memcpy(&t, &n, sizeof t);
    p = FL_FMA(p, t, t - 1.0);
    return x < -40.0 ? -1.0 : p;
}

/* The square root of FL_UNSCALE. With u = exp(x), a product that may be large times u is right also
 * where u alone is no normal number if it is taken of v = u / FL_HALFWAY, and unscaled then. */
#define FL_HALFWAY_f32 0x1p-32f
#define FL_HALFWAY_f64 0x1p-64

/* exp(x) for x <= 0. */
FL_INLINE float fl_exp_nonpositive_f32(float x) {
    return fl_exp_scaled_f32(x) * FL_UNSCALE_f32;
}

FL_INLINE double fl_exp_nonpositive_f64(double x) {
    return fl_exp_scaled_f64(x) * FL_UNSCALE_f64;
}

/* y exp(x + low) 2^-down for any x, right also where exp(x) alone overflows or underflows: y is first
 * brought near 1 and 2^n applied in two factors. `low` is what the rounding of x lost; down is a whole
 * number, at most 64 (128) of either sign. With y = 0 it is 0. */
FL_INLINE float fl_exp_times_f32(float y, float x, float low, float down) {
    const float magic = 12582912.0f;
    float by = fabsf(y) < 1.0f ? 100.0f : -100.0f;
    float w = y * (fabsf(y) < 1.0f ? 0x1p100f : 0x1p-100f);
    x = x < -300.0f ? -300.0f : x; /* beyond, all is 0 or inf */
    x = x > 300.0f ? 300.0f : x;
    float t = FL_FMAF(x, 1.44269504f, magic), n = t - magic;
    /* log(2) in two parts, of which n times the first is exact without multiply-add too. */
    float r = FL_FMAF(n, 2.12194440e-4f, FL_FMAF(n, -0.693359375f, x)) + low;
    float p = fl_exp_rest_f32(r);
    n -= by + down;
    n = n < -252.0f ? -252.0f : n;
    n = n > 252.0f ? 252.0f : n;
    float first = FL_FMAF(n, 0.5f, magic), second = n - (first - magic) + magic;
    uint32_t bits;
    memcpy(&bits, &first, sizeof bits);
    bits = (bits << 23) + ((uint32_t)127 << 23);
    memcpy(&first, &bits, sizeof bits);
    memcpy(&bits, &second, sizeof bits);
    bits = (bits << 23) + ((uint32_t)127 << 23);
    memcpy(&second, &bits, sizeof bits);
    w *= first;
    return (fabsf(w) < INFINITY ? FL_FMAF(p, w, w) : w * (1.0f + p)) * second;
}

FL_INLINE double fl_exp_times_f64(double y, double x, double low, double down) {
    const double magic = 6755399441055744.0;
    double by = fabs(y) < 1.0 ? 800.0 : -800.0, w = y * (fabs(y) < 1.0 ? 0x1p800 : 0x1p-800);
    x = x < -1700.0 ? -1700.0 : x;
    x = x > 1700.0 ? 1700.0 : x;
    double t = FL_FMA(x, 1.4426950408889634, magic), n = t - magic;
    double r = FL_FMA(n, -1.90821492927058770002e-10, FL_FMA(n, -6.93147180369123816490e-01, x));
    double p = fl_exp_rest_f64(r + low);
    n -= by + down;
    n = n < -2000.0 ? -2000.0 : n;
    n = n > 2000.0 ? 2000.0 : n;
    double first = FL_FMA(n, 0.5, magic), second = n - (first - magic) + magic;
    uint64_t bits;
    memcpy(&bits, &first, sizeof bits);
    bits = (bits << 52) + ((uint64_t)1023 << 52);
    memcpy(&first, &bits, sizeof bits);
    memcpy(&bits, &second, sizeof bits);
    bits = (bits << 52) + ((uint64_t)1023 << 52);
    memcpy(&second, &bits, sizeof bits);
    w *= first;
    return (fabs(w) < INFINITY ? FL_FMA(p, w, w) : w * (1.0 + p)) * second;
}

/* The same bits where nothing leaves the range of numbers: abs(x) <= FL_MODERATE, y 0 or between
 * 2^-32 and 2^32; a quarter of the work. */
#define FL_MODERATE 20
FL_INLINE float fl_exp_times_moderate_f32(float y, float x, float low) {
    const float magic = 12582912.0f;
    float t = FL_FMAF(x, 1.44269504f, magic), n = t - magic;
    float r = FL_FMAF(n, 2.12194440e-4f, FL_FMAF(n, -0.693359375f, x));
    uint32_t bits;
    if (!(__builtin_constant_p(low) && low == 0)) /* the compiler may not drop an addition of 0 */
        r += low;
    memcpy(&bits, &t, sizeof bits);
    bits = (bits << 23) + ((uint32_t)127 << 23);
    memcpy(&t, &bits, sizeof t);
    y *= t;
    return FL_FMAF(fl_exp_rest_f32(r), y, y);
}

FL_INLINE double fl_exp_times_moderate_f64(double y, double x, double low) {
    const double magic = 6755399441055744.0;
    double t = FL_FMA(x, 1.4426950408889634, magic), n = t - magic;
    double r = FL_FMA(n, -1.90821492927058770002e-10, FL_FMA(n, -6.93147180369123816490e-01, x));
    uint64_t bits;
    if (!(__builtin_constant_p(low) && low == 0))
        r += low;
    memcpy(&bits, &t, sizeof bits);
    bits = (bits << 52) + ((uint64_t)1023 << 52);
    memcpy(&t, &bits, sizeof t);
    y *= t;
    return FL_FMA(fl_exp_rest_f64(r), y, y);
}

/* Whether n pairs x, y are in that range, y of both signs if `either`; or, without y, n numbers x. nan
 * is not. Numbers without a sign are in the order of their bits. */
#define FL_DEFINE_MODERATE(T, S, U, MASK)                                                          \
    static __attribute__((noinline, unused)) int fl_moderate_##S(const T *x, const T *y,           \
                                                                 ptrdiff_t n, int either) {        \
        const T limits[3] = {FL_MODERATE, (T)0x1p32, (T)0x1p-32};                                  \
        U limit[3], a, b, most_x = 0, most_y = 0, least_y = (U)-1; /* of y - 1: 0 is the largest */ \
        U mask = either ? MASK : (U)-1;                                                            \
        memcpy(limit, limits, sizeof limit);                                                       \
        FL_UNROLLED for (ptrdiff_t i = 0; i < n; ++i) {                                            \
            memcpy(&a, x + i, sizeof a);                                                           \
            a &= MASK;                                                                             \
            most_x = a > most_x ? a : most_x;                                                      \
        }                                                                                          \
        FL_UNROLLED for (ptrdiff_t i = 0; y && i < n; ++i) {                                       \
            memcpy(&b, y + i, sizeof b);                                                           \
            b &= mask;                                                                             \
            most_y = b > most_y ? b : most_y;                                                      \
            --b;                                                                                   \
            least_y = b < least_y ? b : least_y;                                                   \
        }                                                                                          \
        return (most_x <= limit[0]) & (most_y <= limit[1]) & (least_y >= limit[2] - 1);            \
    }
FL_DEFINE_MODERATE(float, f32, uint32_t, 0x7fffffffu)
FL_DEFINE_MODERATE(double, f64, uint64_t, 0x7fffffffffffffffu)

/* exp(x) for any x; 1.05 ulp. */
FL_INLINE float fl_exp_f32(float x) { return fl_exp_times_f32(1.0f, x, 0.0f, 0.0f); }
FL_INLINE double fl_exp_f64(double x) { return fl_exp_times_f64(1.0, x, 0.0, 0.0); }

/* by times the R / z of 2 atanh(s) = 2 s + s R, z = s^2, s in [0, 1/3]. */
FL_INLINE float fl_atanh_rest_f32(float z, float by) {
    float q = 0.280244645749052903f * by;
    q = FL_FMAF(q, z, 0.279991396294260814f * by);
    q = FL_FMAF(q, z, 0.400216991705101281f * by);
    return FL_FMAF(q, z, 0.666664131310907492f * by);
}

FL_INLINE double fl_atanh_rest_f64(double z, double by) {
    double odd = 0.170186296611808656 * by, even = 0.083400700090064636913 * by, z2 = z * z;
    odd = FL_FMA(odd, z2, 0.12106094073891260459 * by);
    even = FL_FMA(even, z2, 0.133009725008245301 * by);
    odd = FL_FMA(odd, z2, 0.15386560015221940999 * by);
    even = FL_FMA(even, z2, 0.18181743920004432421 * by);
    odd = FL_FMA(odd, z2, 0.22222223969894530723 * by);
    even = FL_FMA(even, z2, 0.28571428547850684502 * by);
    odd = FL_FMA(odd, z2, 0.40000000000157275482 * by);
    even = FL_FMA(even, z2, 0.66666666666666303673 * by);
    return FL_FMA(odd, z, even);
}

/* log(1 + u) / FL_HALFWAY for u in [0, 1] and v = u / FL_HALFWAY: u - s (u - R), s = u / (2 + u). */
FL_INLINE float fl_log1p_scaled_f32(float u, float v) {
    float s = u / (2.0f + u), z = s * s;
    return FL_FMAF(-s, FL_FMAF(-z, fl_atanh_rest_f32(z, 1 / FL_HALFWAY_f32), v), v);
}

FL_INLINE double fl_log1p_scaled_f64(double u, double v) {
    double s = u / (2.0 + u), z = s * s;
    return FL_FMA(-s, FL_FMA(-z, fl_atanh_rest_f64(z, 1 / FL_HALFWAY_f64), v), v);
}

/* log(1 + u) for u in [0, 1]. */
FL_INLINE float fl_log1p_unit_f32(float u) {
    return fl_log1p_scaled_f32(u, u / FL_HALFWAY_f32) * FL_HALFWAY_f32;
}

FL_INLINE double fl_log1p_unit_f64(double u) {
    return fl_log1p_scaled_f64(u, u / FL_HALFWAY_f64) * FL_HALFWAY_f64;
}

/* m + c = 2^k (1 + f + c'), 2^k the power of two next to m, for normal m > 0 and c what rounding m
 * lost: f, k and c', what rounding f lost. */
FL_INLINE float fl_log_parts_f32(float m, float *c, float *k) {
    const uint32_t sqrt_half = 0x3f3504f3u;
    uint32_t bits, low, scale;
    float f, by;
    memcpy(&bits, &m, sizeof bits);
    bits -= sqrt_half;
    low = (bits & 0x007fffffu) + sqrt_half;
    memcpy(&f, &low, sizeof f);
    *k = (float)((int32_t)bits >> 23);
    f -= 1.0f;
    if (!(__builtin_constant_p(*c) && *c == 0)) { /* the compiler may not drop 0 times a number */
        scale = (0x3f800000u - (bits & 0x7f800000u)) & 0x7f800000u; /* 2^-k, 0 for the largest k */
        memcpy(&by, &scale, sizeof by);
        float d = *c * by, sum = f + d;
        *c = d - (sum - f);
        f = sum;
    }
    return f;
}

FL_INLINE double fl_log_parts_f64(double m, double *c, double *k) {
    const uint64_t sqrt_half = 0x3fe6a09e00000000u, one = 0x3ff0000000000000u;
    uint64_t bits, low, high, scale;
    double f, by;
    memcpy(&bits, &m, sizeof bits);
    bits += one - sqrt_half;
    low = (bits & 0x000fffffffffffffu) + sqrt_half;
    scale = 0x7fe0000000000000u - (bits & 0x7ff0000000000000u);
    high = (bits >> 52) | 0x4330000000000000u; /* 2^52 + biased exponent, as a double's bits */
    memcpy(&f, &low, sizeof f);
    memcpy(&by, &scale, sizeof by);
    memcpy(k, &high, sizeof *k);
    f -= 1.0;
    *k -= 4503599627370496.0 + 1023.0;
    if (!(__builtin_constant_p(*c) && *c == 0)) {
        double d = *c * by, sum = f + d;
        *c = d - (sum - f);
        f = sum;
    }
    return f;
}

/* log(m + c), as k log 2 + log1p(f). What the sums lose, where the two cancel, is added last; what that
 * loses is `low`. */
/* log1p(f) = f + f^2 q(f), without a division, which took half the time: f^2 q(f) + more. */
FL_INLINE float fl_log_rest_f32(float f, float more) {
    float f2 = f * f;
    float even = -0.0762093269312132682f, odd = 0.129042522198379012f;
    even = FL_FMAF(even, f2, -0.132432331455116093f);
    odd = FL_FMAF(odd, f2, 0.141818749163116934f);
    even = FL_FMAF(even, f2, -0.166090623883713443f);
    odd = FL_FMAF(odd, f2, 0.200019706146054577f);
    even = FL_FMAF(even, f2, -0.250015835192106443f);
    odd = FL_FMAF(odd, f2, 0.333333257519452178f);
    even = FL_FMAF(even, f2, -0.499999883382436203f);
    return FL_FMAF(FL_FMAF(odd, f, even), f2, more);
}

FL_INLINE float fl_log_pair_f32(float m, float c, float *low) {
    float k, f = fl_log_parts_f32(m, &c, &k);
    float rest = fl_log_rest_f32(f, k * 9.0580006145e-06f);
    float exact = k * 6.9313812256e-01f, sum = exact + f;
    float tail = (f - (sum - exact)) + (rest + c), high = sum + tail;
    *low = tail - (high - sum);
    return high;
}

FL_INLINE double fl_log_pair_f64(double m, double c, double *low) {
    double k, f = fl_log_parts_f64(m, &c, &k);
    double s = f / (2.0 + f), z = s * s, z2 = z * z;
    double even = 0.14796080435936603374, odd = 0.15314038097200747314;
    even = FL_FMA(even, z2, 0.18183564789021632335);
    odd = FL_FMA(odd, z2, 0.22222198564732247781);
    even = FL_FMA(even, z2, 0.28571428742465702127);
    odd = FL_FMA(odd, z2, 0.39999999999414345556);
    even = FL_FMA(even, z2, 0.66666666666667344597);
    double q = FL_FMA(odd, z, even);
    double rest = FL_FMA(-s, FL_FMA(-z, q, f), k * 1.90821492927058770002e-10);
    double exact = k * 6.93147180369123816490e-01, sum = exact + f;
    double tail = (f - (sum - exact)) + (rest + c), high = sum + tail;
    *low = tail - (high - sum);
    return high;
}

FL_INLINE float fl_log_sum_f32(float m, float c) {
    float low;
    return fl_log_pair_f32(m, c, &low);
}

FL_INLINE double fl_log_sum_f64(double m, double c) {
    double low;
    return fl_log_pair_f64(m, c, &low);
}

/* log(m) - y for normal m > 0; 1.5 ulp of the larger of both. */
FL_INLINE float fl_log_less_f32(float m, float y) {
    float none = 0.0f, k, f = fl_log_parts_f32(m, &none, &k);
    return FL_FMAF(k, 6.9313812256e-01f, f + fl_log_rest_f32(f, k * 9.0580006145e-06f)) - y;
}

FL_INLINE double fl_log_less_f64(double m, double y) { return fl_log_sum_f64(m, 0.0) - y; }

/* log(x) for x = 0 or x normal and positive; inf and nan as they are, nan for negative x. */
FL_INLINE float fl_log_f32(float x) {
    float y = fl_log_sum_f32(x, 0.0f);
    y = x > 0.0f ? y : (x == 0.0f ? -INFINITY : NAN);
    return x < INFINITY ? y : x;
}

FL_INLINE double fl_log_f64(double x) {
    double y = fl_log_sum_f64(x, 0.0);
    y = x > 0.0 ? y : (x == 0.0 ? -INFINITY : NAN);
    return x < INFINITY ? y : x;
}

/* log(1 + x) for x >= -1; inf and nan as they are, nan for x < -1. Where m - 1 is rounded, it is
 * too large for that to matter. */
FL_INLINE float fl_log1p_f32(float x) {
    float m = 1.0f + x, y = fl_log_sum_f32(m, x - (m - 1.0f));
    y = x > -1.0f ? y : (x == -1.0f ? -INFINITY : NAN);
    return x < INFINITY ? y : x;
}

FL_INLINE double fl_log1p_f64(double x) {
    double m = 1.0 + x, y = fl_log_sum_f64(m, x - (m - 1.0));
    y = x > -1.0 ? y : (x == -1.0 ? -INFINITY : NAN);
    return x < INFINITY ? y : x;
}

/* x - log(m + c) for m + c = 1 + x > 0: in [-1/2, 1) f - log1p(f) = s (f - R) of f = x itself. */
FL_INLINE float fl_minus_log_f32(float x, float m, float c) {
    float k, f = fl_log_parts_f32(m, &c, &k);
    int near = (x < 1.0f) & (x >= -0.5f);
    f = near ? x : f;
    float s = f / (2.0f + f), z = s * s, rest = s * FL_FMAF(-z, fl_atanh_rest_f32(z, 1.0f), f);
    float y = ((x - k * 6.9313812256e-01f) - f) + (rest - FL_FMAF(k, 9.0580006145e-06f, c));
    y = near ? rest : y;
    return x < INFINITY ? y : x;
}

FL_INLINE double fl_minus_log_f64(double x, double m, double c) {
    double k, f = fl_log_parts_f64(m, &c, &k);
    int near = (x < 1.0) & (x >= -0.5);
    f = near ? x : f;
    double s = f / (2.0 + f), z = s * s, rest = s * FL_FMA(-z, fl_atanh_rest_f64(z, 1.0), f);
    double y = ((x - k * 6.93147180369123816490e-01) - f)
               + (rest - FL_FMA(k, 1.90821492927058770002e-10, c));
    y = near ? rest : y;
    return x < INFINITY ? y : x;
}

/* x - log(1 + x) for x > -1. */
FL_INLINE float fl_minus_log1p_f32(float x) {
    float m = 1.0f + x;
    return fl_minus_log_f32(x, m, x - (m - 1.0f));
}

FL_INLINE double fl_minus_log1p_f64(double x) {
    double m = 1.0 + x;
    return fl_minus_log_f64(x, m, x - (m - 1.0));
}

/* exp(-x) - 1 + x for abs(x) <= 1; 2.1 ulp. */
FL_INLINE float fl_exp_excess_f32(float x) {
    float q = -2.80628026e-6f;
    q = FL_FMAF(q, x, 2.53585122e-5f);
    q = FL_FMAF(q, x, -1.98381020e-4f);
    q = FL_FMAF(q, x, 1.38853969e-3f);
    q = FL_FMAF(q, x, -8.33333968e-3f);
    q = FL_FMAF(q, x, 4.16667366e-2f);
    q = FL_FMAF(q, x, -0.166666666f);
    return FL_FMAF(q, x, 0.499999998f) * x * x;
}

FL_INLINE double fl_exp_excess_f64(double x) {
    double q = -7.7461785930188274892e-13;
    q = FL_FMA(q, x, 1.1639194124150522395e-11);
    q = FL_FMA(q, x, -1.6057679623801637746e-10);
    q = FL_FMA(q, x, 2.0874435575864274724e-9);
    q = FL_FMA(q, x, -2.5052117695907823572e-8);
    q = FL_FMA(q, x, 2.755733506893372671e-7);
    q = FL_FMA(q, x, -2.7557319191381816996e-6);
    q = FL_FMA(q, x, 0.000024801587246096816904);
    q = FL_FMA(q, x, -0.00019841269841324197917);
    q = FL_FMA(q, x, 0.0013888888888981404452);
    q = FL_FMA(q, x, -0.0083333333333332993552);
    q = FL_FMA(q, x, 0.041666666666666088346);
    q = FL_FMA(q, x, -0.16666666666666666701);
    return FL_FMA(q, x, 0.5000000000000000059) * x * x;
}

/* For rows of floats, in double: 2^-40 of a result is far more than is written. */

/* exp(x) for x <= 0, 0 below -700. */
FL_INLINE double fl_exp_brief(double x) {
    const double magic = 6755399441055744.0; /* 1.5 2^52 */
    double t = FL_FMA(x, 1.4426950408889634, magic), r = FL_FMA(t - magic, -0.6931471805599453, x);
    double even = 0.00002488080790341205042, odd = 2.7493205345610540678e-6, r2 = r * r;
    even = FL_FMA(even, r2, 0.0013888811149088608069);
    odd = FL_FMA(odd, r2, 0.0001984153875876624248);
    even = FL_FMA(even, r2, 0.041666666962215236919);
    odd = FL_FMA(odd, r2, 0.0083333330953325051365);
    even = FL_FMA(even, r2, 0.49999999999664344434);
    odd = FL_FMA(odd, r2, 0.16666666667264654017);
    uint64_t n;
    memcpy(&n, &t, sizeof n);
    n = (n << 52) + ((uint64_t)1023 << 52);
    memcpy(&t, &n, sizeof t);
    double p = FL_FMA(FL_FMA(odd, r, even), r2, r);
    return x < -700.0 ? 0.0 : FL_FMA(p, t, t);
}

/* log(m + c) for normal m > 0, c what rounding m lost; nan for nan. */
FL_INLINE double fl_log_brief(double m, double c) {
    double k, f = fl_log_parts_f64(m, &c, &k);
    double even = -0.085437982579338155376, odd = 0.043750336275549408778, f2 = f * f;
    even = FL_FMA(even, f2, -0.082946172195375850413);
    odd = FL_FMA(odd, f2, 0.087309162242747869634);
    even = FL_FMA(even, f2, -0.099901189909556921531);
    odd = FL_FMA(odd, f2, 0.089549995831704118893);
    even = FL_FMA(even, f2, -0.12500906144124724059);
    odd = FL_FMA(odd, f2, 0.11119445310701222384);
    even = FL_FMA(even, f2, -0.16666637716836950865);
    odd = FL_FMA(odd, f2, 0.14285456358668309371);
    even = FL_FMA(even, f2, -0.25000000348243370767);
    odd = FL_FMA(odd, f2, 0.20000003753501496657);
    even = FL_FMA(even, f2, -0.49999999998959832347);
    odd = FL_FMA(odd, f2, 0.33333333314322352809);
    double rest = FL_FMA(FL_FMA(odd, f, even), f2, f);
    return m == m ? FL_FMA(k, 0.6931471805599453, rest) : m;
}

/* log(cosh(x)) for abs(x) <= 1. */
FL_INLINE float fl_log_cosh_unit_f32(float x) {
    float z = x * x, z2 = z * z;
    float even = 0.0000865694387495977283f, odd = -0.000556220755190532698f;
    even = FL_FMAF(even, z2, 0.00207734096627599119f);
    odd = FL_FMAF(odd, z2, -0.00671043445785710576f);
    even = FL_FMAF(even, z2, 0.022216574027924219f);
    odd = FL_FMAF(odd, z2, -0.0833329924124194373f);
    even = FL_FMAF(even, z2, 0.4999999966135225f);
    return z * FL_FMAF(odd, z, even);
}

FL_INLINE double fl_log_cosh_unit_f64(double x) {
    double z = x * x, z2 = z * z;
    double even = 7.2002950179680900288e-9, odd = -7.3097503734508850013e-8;
    even = FL_FMA(even, z2, 3.7697289996474802209e-7);
    odd = FL_FMA(odd, z2, -1.3750114451394584618e-6);
    even = FL_FMA(even, z2, 4.1899318304994650636e-6);
    odd = FL_FMA(odd, z2, -0.000011825400505779598502);
    even = FL_FMA(even, z2, 0.000032720596619065495966);
    odd = FL_FMA(odd, z2, -0.000090970515094453159911);
    even = FL_FMA(even, z2, 0.000256576127644866605);
    odd = FL_FMA(odd, z2, -0.00073860224782436643803);
    even = FL_FMA(even, z2, 0.002186948778647666421);
    odd = FL_FMA(odd, z2, -0.0067460317412684904169);
    even = FL_FMA(even, z2, 0.022222222222063315284);
    odd = FL_FMA(odd, z2, -0.083333333333331236795);
    even = FL_FMA(even, z2, 0.4999999999999999954);
    return z * FL_FMA(odd, z, even);
}

/* tanh(x + low) and its derivative over FL_UNSCALE, 1 - tanh^2 without the cancellation; 2.6, 4.1 ulp. */
#define FL_DEFINE_TANH(T, S)                                                                       \
    FL_INLINE T fl_tanh_##S(T x, T low, T *slope) {                                                \
        T twice = -2 * (T)fabs(x), by = 2 * (x < 0 ? -low : low);                                  \
        T e = fl_exp_scaled_##S(twice), less = fl_expm1_nonpositive_##S(twice);                    \
        less -= by * (e * FL_UNSCALE_##S);                                                         \
        e -= by * e;                                                                               \
        T u = e * FL_UNSCALE_##S, y = -less / (2 + less);                                          \
        *slope = 4 * e / ((1 + u) * (1 + u));                                                      \
        return x < 0 ? -y : y;                                                                     \
    }
FL_DEFINE_TANH(float, f32)
FL_DEFINE_TANH(double, f64)

/* x / c in two parts. */
FL_INLINE float fl_divided_f32(float x, double c, float *low) {
    double exact = x / c;
    float y = (float)exact, rest = (float)(exact - y);
    *low = fabsf(rest) < INFINITY ? rest : 0.0f;
    return y;
}

FL_INLINE double fl_product_low_f64(double a, double b, double product);
FL_INLINE double fl_divided_f64(double x, double c, double *low) {
    double y = x / c, product = y * c;
    double rest = ((x - product) - fl_product_low_f64(y, c, product)) / c;
    *low = fabs(rest) < INFINITY ? rest : 0.0;
    return y;
}

/* a b - product, product being a b rounded: what the rounding lost. */
FL_INLINE float fl_product_low_f32(float a, float b, float product) {
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
    return __builtin_fmaf(a, b, -product);
#else
    return (float)((double)a * b - product);
#endif
}

FL_INLINE double fl_product_low_f64(double a, double b, double product) {
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
    return __builtin_fma(a, b, -product);
#else /* Dekker: 27 + 26 bits; right while abs(a), abs(b) < 2^996 and the product is normal */
    double ca = a * 134217729.0, cb = b * 134217729.0;
    double ah = ca - (ca - a), bh = cb - (cb - b), al = a - ah, bl = b - bh;
    return ((ah * bh - product) + ah * bl + al * bh) + al * bl;
#endif
}

#endif
