/* Floats of 16 bits, from and to float and double: float16 (IEEE 754 binary16) and bfloat16, the
 * upper half of a float. Rounded once, to nearest even; subnormal numbers count in full in every
 * floating-point mode; a nan stays one, and becomes quiet in float16.
 */
#ifndef FASTLOSS_HALF_H
#define FASTLOSS_HALF_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>
#if defined(__AVX2__)
#include <immintrin.h>
#endif
#include "vecmath.h"

typedef uint16_t __attribute__((aligned(1), may_alias)) fl_half;
typedef uint32_t __attribute__((may_alias)) fl_float_bits;
enum { FL_HALVES = 1024 }; /* at a time, where they do not lie as they should: a block */

/* One of two without a branch, so that the loops are of vectors. */
#define FL_CHOOSE(cond, a, b) ((b) ^ (((a) ^ (b)) & -(uint32_t)(cond)))

FL_INLINE uint32_t fl_float_of_f16(uint32_t h) {
    uint32_t a = h & 0x7fff, normal = (a << 13) + 0x38000000, bits;
    float tiny = (float)(int32_t)a * 0x1p-24f; /* a subnormal's value is no subnormal float */
    memcpy(&bits, &tiny, 4);
    bits = FL_CHOOSE((int32_t)a < 0x400, bits, normal);
    bits += 0x38000000 & -(uint32_t)((int32_t)a > 0x7bff);  /* inf and nan */
    bits |= 0x400000 & -(uint32_t)((int32_t)a > 0x7c00);
    return bits | (h & 0x8000) << 16;
}

FL_INLINE uint32_t fl_f16_of_float(uint32_t u) {
    uint32_t a = u & 0x7fffffff, sign = u >> 16 & 0x8000, bits;
    uint32_t nan = 0x7e00 | (a >> 13 & 0x3ff);
    uint32_t most = FL_CHOOSE((int32_t)a < 0x47800000, a, 0x47800000);
    uint32_t normal = (most - 0x38000000 + 0xfff + (most >> 13 & 1)) >> 13;
    float magic; /* of 1/2 + x the last bit is the smallest subnormal number */
    memcpy(&magic, &a, 4);
    magic += 0.5f;
    memcpy(&bits, &magic, 4);
    bits = FL_CHOOSE((int32_t)a < 0x38800000, bits - 0x3f000000, normal);
    return FL_CHOOSE((int32_t)a > 0x7f800000, nan, bits) | sign;
}

FL_INLINE uint32_t fl_bf16_of_float(uint32_t u) {
    uint32_t rounded = (u + 0x7fff + (u >> 16 & 1)) >> 16;
    return FL_CHOOSE((int32_t)(u & 0x7fffffff) > 0x7f800000, u >> 16 | 0x40, rounded);
}

/* Of a double; a float between would round twice. `bits` of a fraction, exponents of `bias`. */
FL_INLINE uint32_t fl_half_of_double(double x, int bits, int bias) {
    uint64_t u, a, lost = 52 - (uint64_t)bits, least = (uint64_t)(1023 - bias) << 52;
    uint64_t infinite = (uint64_t)(2 * bias + 1) << bits, sign, normal, tiny, nan;
    uint64_t magic_bits = (uint64_t)(1023 + 1 - bias - bits + 52) << 52;
    double magic;
    memcpy(&u, &x, 8);
    sign = u >> 48 & 0x8000;
    a = u & ~(UINT64_C(1) << 63);
    normal = (a - least + ((UINT64_C(1) << (lost - 1)) - 1) + (a >> lost & 1)) >> lost;
    normal = normal < infinite ? normal : infinite;
    memcpy(&magic, &magic_bits, 8);
    magic += fabs(x);
    memcpy(&tiny, &magic, 8);
    normal = a < least + (UINT64_C(1) << 52) ? tiny - magic_bits : normal;
    nan = infinite | UINT64_C(1) << (bits - 1) | (a >> lost & ((UINT64_C(1) << bits) - 1));
    normal = a > UINT64_C(0x7ff) << 52 ? nan : normal;
    return (uint32_t)(normal | sign);
}

/* Loops over n of them. gcc vectorises the plain ones, to 2 to 3 times the time of those below.
 * What is loaded a block later is brought near. */
static __attribute__((noinline, unused)) void fl_from_f16(float *restrict dst,
                                                          const fl_half *restrict src,
                                                          ptrdiff_t n) {
    fl_float_bits *restrict to = (fl_float_bits *)dst;
    ptrdiff_t i = 0;
#if defined(__AVX512F__)
    for (; i + 16 <= n; i += 16) {
        __builtin_prefetch(src + i + FL_HALVES);
        _mm512_storeu_ps(dst + i, _mm512_cvtph_ps(_mm256_loadu_si256((const void *)(src + i))));
    }
#elif defined(__AVX2__)
    for (; i + 8 <= n; i += 8) {
        __builtin_prefetch(src + i + FL_HALVES);
        _mm256_storeu_ps(dst + i, _mm256_cvtph_ps(_mm_loadu_si128((const void *)(src + i))));
    }
#endif
    for (; i < n; ++i)
        to[i] = fl_float_of_f16(src[i]);
}

static __attribute__((noinline, unused)) void fl_from_bf16(float *restrict dst,
                                                           const fl_half *restrict src,
                                                           ptrdiff_t n) {
    fl_float_bits *restrict to = (fl_float_bits *)dst;
    ptrdiff_t i = 0;
#if defined(__AVX512F__)
    for (; i + 16 <= n; i += 16) {
        __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)(src + i)));
        __builtin_prefetch(src + i + FL_HALVES);
        _mm512_storeu_si512((void *)(to + i), _mm512_slli_epi32(wide, 16));
    }
#elif defined(__AVX2__)
    for (; i + 8 <= n; i += 8) {
        __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)(src + i)));
        __builtin_prefetch(src + i + FL_HALVES);
        _mm256_storeu_si256((void *)(to + i), _mm256_slli_epi32(wide, 16));
    }
#endif
    for (; i < n; ++i)
        to[i] = (uint32_t)src[i] << 16;
}

static __attribute__((noinline, unused)) void fl_to_f16_plain(fl_half *restrict dst,
                                                              const float *restrict src,
                                                              ptrdiff_t n) {
    const fl_float_bits *restrict from = (const fl_float_bits *)src;
    for (ptrdiff_t i = 0; i < n; ++i)
        dst[i] = (uint16_t)fl_f16_of_float(from[i]);
}

static __attribute__((noinline, unused)) void fl_to_bf16_plain(fl_half *restrict dst,
                                                               const float *restrict src,
                                                               ptrdiff_t n) {
    const fl_float_bits *restrict from = (const fl_float_bits *)src;
    for (ptrdiff_t i = 0; i < n; ++i)
        dst[i] = (uint16_t)fl_bf16_of_float(from[i]);
}

/* `put` whole lines from element i on. */
#if defined(__AVX512F__)
#define FL_PUT _mm512_storeu_si512
#define FL_PUT_PAST _mm512_stream_si512
#define FL_TO_F16(put)                                                                             \
    for (; i + 32 <= n; i += 32) {                                                                 \
        __m256i a = _mm512_cvtps_ph(_mm512_loadu_ps(src + i), 0);                                  \
        __m256i b = _mm512_cvtps_ph(_mm512_loadu_ps(src + i + 16), 0);                             \
        put((void *)(dst + i), _mm512_inserti64x4(_mm512_castsi256_si512(a), b, 1));               \
    }
/* The upper halves side by side, then in order. A nan ends it: what rounds could make it none. */
#define FL_TO_BF16(put)                                                                            \
    const __m512i below = _mm512_set1_epi32(0x7fff), last = _mm512_set1_epi32(0x10000);            \
    const __m512i one = _mm512_set1_epi32(1);                                                      \
    short places[32];                                                                              \
    for (int k = 0; k < 32; ++k)                                                                   \
        places[k] = (short)(2 * (k % 16) + k / 16);                                                \
    const __m512i order = _mm512_loadu_si512((const void *)places);                                \
    for (; i + 32 <= n; i += 32) {                                                                 \
        __m512 x = _mm512_loadu_ps(src + i), y = _mm512_loadu_ps(src + i + 16);                    \
        __m512i u = _mm512_castps_si512(x), v = _mm512_castps_si512(y);                            \
        __m512i a = _mm512_add_epi32(u, below), b = _mm512_add_epi32(v, below);                    \
        if (_mm512_cmp_ps_mask(x, y, _CMP_UNORD_Q))                                                \
            break;                                                                                 \
        a = _mm512_mask_add_epi32(a, _mm512_test_epi32_mask(u, last), a, one);                     \
        b = _mm512_mask_add_epi32(b, _mm512_test_epi32_mask(v, last), b, one);                     \
        a = _mm512_mask_blend_epi16(0xaaaaaaaa, _mm512_srli_epi32(a, 16), b);                      \
        put((void *)(dst + i), _mm512_permutexvar_epi16(order, a));                                \
    }
#elif defined(__AVX2__)
#define FL_PUT _mm256_storeu_si256
#define FL_PUT_PAST _mm256_stream_si256
FL_INLINE __m256i fl_two_f16(const float *src) {
    __m128i a = _mm256_cvtps_ph(_mm256_loadu_ps(src), 0);
    __m128i b = _mm256_cvtps_ph(_mm256_loadu_ps(src + 8), 0);
    return _mm256_inserti128_si256(_mm256_castsi128_si256(a), b, 1);
}

FL_INLINE __m256i fl_upper_half(__m256 x) {
    __m256i u = _mm256_castps_si256(x), below = _mm256_set1_epi32(0x7fff);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
    return _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(u, below), odd), 16);
}

FL_INLINE __m256i fl_two_bf16(__m256 x, __m256 y) {
    __m256i pairs = _mm256_packus_epi32(fl_upper_half(x), fl_upper_half(y));
    return _mm256_permute4x64_epi64(pairs, 0xd8);
}

/* Two stores a turn: a line of which half was stored past the cache is slow to fill. */
#define FL_TO_F16(put)                                                                             \
    for (; i + 32 <= n; i += 32) {                                                                 \
        put((void *)(dst + i), fl_two_f16(src + i));                                               \
        put((void *)(dst + i + 16), fl_two_f16(src + i + 16));                                     \
    }
/* A nan ends it: what rounds could make it none. */
#define FL_TO_BF16(put)                                                                            \
    for (; i + 32 <= n; i += 32) {                                                                 \
        __m256 x = _mm256_loadu_ps(src + i), y = _mm256_loadu_ps(src + i + 8);                     \
        __m256 z = _mm256_loadu_ps(src + i + 16), w = _mm256_loadu_ps(src + i + 24);               \
        __m256 nan = _mm256_or_ps(_mm256_cmp_ps(x, y, _CMP_UNORD_Q),                               \
                                  _mm256_cmp_ps(z, w, _CMP_UNORD_Q));                              \
        if (_mm256_movemask_ps(nan))                                                               \
            break;                                                                                 \
        put((void *)(dst + i), fl_two_bf16(x, y));                                                 \
        put((void *)(dst + i + 16), fl_two_bf16(z, w));                                            \
    }
#endif
#if defined(FL_PUT)
/* Whole lines, past the cache if `stream` (then dst is the beginning of one); returns how many. */
#define FL_DEFINE_LINES(NAME, TO)                                                                  \
    FL_INLINE ptrdiff_t NAME(fl_half *dst, const float *src, ptrdiff_t n, int stream) {            \
        ptrdiff_t i = 0;                                                                           \
        if (stream) {                                                                              \
            TO(FL_PUT_PAST)                                                                        \
        } else {                                                                                   \
            TO(FL_PUT)                                                                             \
        }                                                                                          \
        return i;                                                                                  \
    }
FL_DEFINE_LINES(fl_to_f16_lines, FL_TO_F16)
FL_DEFINE_LINES(fl_to_bf16_lines, FL_TO_BF16)
#else
#define fl_to_f16_lines(dst, src, n, stream) ((void)(stream), (ptrdiff_t)0)
#define fl_to_bf16_lines(dst, src, n, stream) ((void)(stream), (ptrdiff_t)0)
#endif

/* At the ends, less than a line each, 32 are done elsewhere and some of them copied: one by one they
 * would take a quarter of a block's time. */
#define FL_DEFINE_TO(NAME)                                                                         \
    FL_INLINE void NAME##_some(fl_half *dst, const float *src, ptrdiff_t begin, ptrdiff_t end) {   \
        fl_half line[32];                                                                          \
        if (NAME##_lines(line, src, 32, 0) < 32)                                                   \
            NAME##_plain(line, src, 32);                                                           \
        memcpy(dst + begin, line + begin, (size_t)(end - begin) * 2);                              \
    }                                                                                              \
    static __attribute__((noinline, unused)) void NAME(fl_half *dst, const float *src,             \
                                                       ptrdiff_t n, int stream) {                  \
        ptrdiff_t i = stream && n >= 64 ? (ptrdiff_t)((-(uintptr_t)dst & 63) / 2) : 0;             \
        if (i)                                                                                     \
            NAME##_some(dst, src, 0, i);                                                           \
        i += NAME##_lines(dst + i, src + i, n - i, stream && n >= 64 && !((uintptr_t)dst & 1));    \
        if (n >= 32 && n - i < 32)                                                                 \
            NAME##_some(dst + n - 32, src + n - 32, 32 - (n - i), 32);                             \
        else                                                                                       \
            NAME##_plain(dst + i, src + i, n - i);                                                 \
    }
FL_DEFINE_TO(fl_to_f16)
FL_DEFINE_TO(fl_to_bf16)

FL_INLINE void fl_from_half_f32(int brain, float *dst, const fl_half *src, ptrdiff_t n) {
    if (brain)
        fl_from_bf16(dst, src, n);
    else
        fl_from_f16(dst, src, n);
}

FL_INLINE void fl_from_half_f64(int brain, double *dst, const fl_half *src, ptrdiff_t n) {
    float part[256];
    for (ptrdiff_t i = 0; i < n; i += 256) {
        ptrdiff_t m = n - i < 256 ? n - i : 256;
        fl_from_half_f32(brain, part, src + i, m);
        for (ptrdiff_t k = 0; k < m; ++k)
            dst[i + k] = part[k];
    }
}

FL_INLINE void fl_to_half_f32(int brain, fl_half *dst, const float *src, ptrdiff_t n, int stream) {
    if (brain)
        fl_to_bf16(dst, src, n, stream);
    else
        fl_to_f16(dst, src, n, stream);
}

FL_INLINE void fl_to_half_f64(int brain, fl_half *dst, const double *src, ptrdiff_t n,
                              int stream) {
    (void)stream;
    for (ptrdiff_t i = 0; i < n; ++i)
        dst[i] = (uint16_t)(brain ? fl_half_of_double(src[i], 7, 127)
                                  : fl_half_of_double(src[i], 10, 15));
}

#endif
