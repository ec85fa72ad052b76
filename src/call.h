/* What a call hands to a kernel: the operands where they lie, the options, the totals.
 *
 * Flat positions count in C order over the call's shape, whatever an operand's memory looks like:
 * an operand is rows of `cols` elements `step` bytes apart, row r at `fl_row`. The outer axes
 * are merged where memory allows, so contiguous data has at most one.
 */
#ifndef FASTLOSS_CALL_H
#define FASTLOSS_CALL_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>
#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif
#include "half.h"
#include "lanes.h"
#include "vecmath.h"

/* An operand's element type: bytes + 16 (0 unsigned, 1 signed, 2 floating, 3 bfloat16) + 64 if
 * byte-swapped; + 128 for floats and doubles that C may not read where they lie, but copied. */
enum { FL_U8 = 1, FL_U16 = 2, FL_U32 = 4, FL_U64 = 8, FL_I8 = 17, FL_I16 = 18, FL_I32 = 20,
       FL_I64 = 24, FL_F16 = 34, FL_F32 = 36, FL_F64 = 40, FL_BF16 = 50, FL_SWAPPED = 64,
       FL_UNALIGNED = 128 };

typedef struct {
    char *data; /* NULL: absent */
    ptrdiff_t cols, step;
    const ptrdiff_t *shape, *stride; /* of the outer axes */
    int ndim, code;
} fl_operand;

/* One contiguous block of elementwise work: what a loss's function sees. It is done in steps, each of
 * which is finished (fl_settle_*, where it is not plain) while the memory brings the next. */
typedef struct {
    const void *pred, *target, *extra;
    void *loss, *grad, *hess; /* the results, with room for whole steps */
    const void *weight;       /* multiplies the results, or NULL */
    double *sum;              /* the losses are added to these FL_LANES; NULL if silent */
    char *to[3];              /* where loss, gradient and Hessian are stored at once, or NULL */
    const double *knobs;
    double scale; /* of gradient and Hessian */
    ptrdiff_t n;
    int wide, order; /* double rather than float; 0 loss, 1 and gradient, 2 and Hessian */
    int silent;      /* no loss is asked for */
    int brief;       /* double, but of floats: what is written has no more digits */
    int summed;      /* of the losses only the sum is asked for: it may be of other numbers */
    int ahead;       /* bring the next block near: the arrays come from memory */
    int stream;      /* store gradient and Hessian past the cache */
    int first, last; /* of the blocks that follow each other in `to` */
    struct fl_call *checks; /* whose targets have a domain, or NULL */
} fl_elements;

typedef void (*fl_block)(fl_elements *);
enum { FL_MAX_KNOBS = 4, FL_STEP = 4 * FL_LANES, FL_PAGE = 4096 };
/* A divergence is a sum over the classes of what its block makes of x = log(q / p), q and p; that of
 * Kullback and Leibler has the gradient of cross-entropy, which is faster. */
enum { FL_KULLBACK_LEIBLER = 1, FL_ANY_DIVERGENCE = 2 };

typedef struct fl_call {
    fl_operand pred, target, extra, weight, mask, loss, grad, hess, class_mask;
    fl_block block;
    double knobs[FL_MAX_KNOBS], extra_value, scale, smoothing, temperature, z_loss, softcap;
    double low, high;
    int64_t ignored;
    ptrdiff_t size, classes, range, ranges; /* in elements or rows */
    ptrdiff_t group, unit;                  /* rows at a time, elements of exponentials of each */
    ptrdiff_t tiles;                        /* of a row, which threads share; 0: it is not cut */
    double *sums; /* of each tile: the maximum, the sum, that of all but one, the label's logit */
    double *partial;                        /* per range: the sum of its losses or weights */
    int order, silent, stream, bounded, ends_only, open, has_ignored, soft, lanes, stored;
    int double_buffered;
    int form; /* of rows of terms */
    int spread; /* of rows: labels are treated as the probabilities they stand for */
    int divergence, target_logits; /* of rows: the targets are distributions, given by logits */
    const fl_operand *scores;      /* of rows: what is asked for, by FL_LOGPROB and those after it */
    ptrdiff_t topk;                /* how many of the highest classes */
    _Atomic int bad; /* set by a range that met a target out of its domain */
} fl_call;

/* What the terms of a row are (the driver `terms`); the names in fastloss/_gate.pyx are in this
 * order. */
enum { FL_TERMS, FL_MEANS, FL_DIVERGENCE, FL_MARGINS, FL_RIVAL, FL_LISTS };

/* The results of the driver `scores`, in the order of SCORES in fastloss/_gate.pyx: floats, 64-bit
 * integers, a boolean, and of the highest classes a row each. */
enum { FL_LOGPROB, FL_LOSS, FL_LSE, FL_ENTROPY, FL_MARGIN, FL_CONFIDENCE, FL_ARGMAX, FL_RANK, FL_CORRECT,
       FL_TOPK, FL_TOPK_LOGPROB, FL_SCORES };

/* What an instruction set's module exports: its drivers, for float and double. A driver does one
 * range, in a workspace of the calling thread's. */
typedef void (*fl_driver)(fl_call *, ptrdiff_t range, fl_workspace *);
typedef struct {
    fl_driver elementwise[2], rows[2], terms[2], weigh[2], tile_sums[2], tiles[2],
        scores[2];
} fl_drivers;

/* A kernel runs in the standard floating-point mode, whatever its thread's: round to nearest, no
 * traps, subnormal numbers count in full. Where exponentials make many of those (FL_MAP_FLUSHED, the
 * rows) they are flushed to 0 instead: x86 processors may take 150 cycles for each, which made
 * confident samples 15 times as slow. */
#if defined(__SSE2__)
typedef unsigned fl_mode;
FL_INLINE fl_mode fl_enter(int flush) {
    fl_mode own = _mm_getcsr(), mode = flush ? 0x9f80 : 0x1f80;
    if ((own & ~0x3fu) != mode) /* the flags of what happened are no mode; to set it takes its time */
        _mm_setcsr(mode);
    return own;
}

FL_INLINE void fl_leave(fl_mode own) {
    if (_mm_getcsr() != own)
        _mm_setcsr(own);
}
#else
#include <fenv.h>
typedef fenv_t fl_mode;
FL_INLINE fl_mode fl_enter(int flush) {
    fl_mode own;
    (void)flush;
    fegetenv(&own);
    fesetenv(FE_DFL_ENV);
    return own;
}

FL_INLINE void fl_leave(fl_mode own) { fesetenv(&own); }
#endif

FL_INLINE void fl_run(fl_driver driver, fl_call *call, ptrdiff_t range, fl_workspace *ws) {
    fl_mode own = fl_enter(0);
    driver(call, range, ws);
    fl_leave(own);
}

FL_INLINE char *fl_row(const fl_operand *op, ptrdiff_t row) {
    char *p = op->data;
    for (int d = op->ndim - 1; d > 0; --d) {
        p += (row % op->shape[d]) * op->stride[d];
        row /= op->shape[d];
    }
    return op->ndim ? p + row * op->stride[0] : p;
}

/* Loads of `n` elements `step` bytes apart, of any code, into a contiguous T. */
#define FL_SWAP1(x) (x)
#define FL_SWAP2(x) __builtin_bswap16(x)
#define FL_SWAP4(x) __builtin_bswap32(x)
#define FL_SWAP8(x) __builtin_bswap64(x)
#define FL_LOAD_CASE(CODE, T, S, U, SWAP, CAST)                                                    \
    case CODE:                                                                                     \
        for (ptrdiff_t i = 0; i < n; ++i) {                                                        \
            U raw;                                                                                 \
            S value;                                                                               \
            memcpy(&raw, src + i * step, sizeof raw);                                              \
            raw = SWAP(raw);                                                                       \
            memcpy(&value, &raw, sizeof raw);                                                      \
            dst[i] = CAST(T, value);                                                               \
        }                                                                                          \
        break;
#define FL_LOAD_CASES(CODE, T, S, U, B, CAST)                                                      \
    FL_LOAD_CASE(CODE, T, S, U, FL_SWAP1, CAST)                                                    \
    FL_LOAD_CASE(CODE + FL_SWAPPED, T, S, U, FL_SWAP##B, CAST)
#define FL_CAST(T, x) ((T)(x))
#define FL_CAST_SATURATE(T, x) ((x) > INT64_MAX ? INT64_MAX : (T)(x)) /* never a negative label */
/* Loads of 16-bit floats go by way of what lies together, in its own byte order. */
#define FL_DEFINE_LOAD_HALF(S, T)                                                                  \
    static __attribute__((noinline, unused)) void fl_load_half_##S(                                \
        T *restrict dst, const char *src, ptrdiff_t step, ptrdiff_t n, int code) {                 \
        fl_half raw[FL_HALVES];                                                                    \
        if (step == 2 && !(code & FL_SWAPPED)) {                                                   \
            fl_from_half_##S(code == FL_BF16, dst, (const fl_half *)src, n);                       \
            return;                                                                                \
        }                                                                                          \
        for (ptrdiff_t i = 0, m; i < n; i += m, src += m * step) {                                 \
            m = n - i < FL_HALVES ? n - i : FL_HALVES;                                             \
            for (ptrdiff_t k = 0; k < m; ++k)                                                      \
                raw[k] = *(const fl_half *)(src + k * step);                                       \
            for (ptrdiff_t k = 0; k < (code & FL_SWAPPED ? m : 0); ++k)                            \
                raw[k] = __builtin_bswap16(raw[k]);                                                \
            fl_from_half_##S((code & ~FL_SWAPPED) == FL_BF16, dst + i, raw, m);                    \
        }                                                                                          \
    }
FL_DEFINE_LOAD_HALF(f32, float)
FL_DEFINE_LOAD_HALF(f64, double)
#define FL_LOAD_HALF(S)                                                                            \
    case FL_F16:                                                                                   \
    case FL_BF16:                                                                                  \
    case FL_F16 + FL_SWAPPED:                                                                      \
        fl_load_half_##S(dst, src, step, n, code);                                                 \
        break;
#define FL_NO_HALF
#define FL_DEFINE_LOAD(NAME, T, OWN, CAST_U64, HALF)                                               \
    static __attribute__((unused)) void NAME(T *restrict dst, const char *src, ptrdiff_t step,     \
                                             ptrdiff_t n, int code) {                              \
        if (code == OWN && step == sizeof(T)) {                                                    \
            memcpy(dst, src, (size_t)n * sizeof(T));                                               \
            return;                                                                                \
        }                                                                                          \
        switch (code & ~FL_UNALIGNED) {                                                            \
            FL_LOAD_CASE(FL_U8, T, uint8_t, uint8_t, FL_SWAP1, FL_CAST)                            \
            FL_LOAD_CASE(FL_I8, T, int8_t, uint8_t, FL_SWAP1, FL_CAST)                             \
            FL_LOAD_CASES(FL_U16, T, uint16_t, uint16_t, 2, FL_CAST)                               \
            FL_LOAD_CASES(FL_U32, T, uint32_t, uint32_t, 4, FL_CAST)                               \
            FL_LOAD_CASES(FL_U64, T, uint64_t, uint64_t, 8, CAST_U64)                              \
            FL_LOAD_CASES(FL_I16, T, int16_t, uint16_t, 2, FL_CAST)                                \
            FL_LOAD_CASES(FL_I32, T, int32_t, uint32_t, 4, FL_CAST)                                \
            FL_LOAD_CASES(FL_I64, T, int64_t, uint64_t, 8, FL_CAST)                                \
            FL_LOAD_CASES(FL_F32, T, float, uint32_t, 4, FL_CAST)                                  \
            FL_LOAD_CASES(FL_F64, T, double, uint64_t, 8, FL_CAST)                                 \
            HALF                                                                                   \
        }                                                                                          \
    }
FL_DEFINE_LOAD(fl_load_f32, float, FL_F32, FL_CAST, FL_LOAD_HALF(f32))
FL_DEFINE_LOAD(fl_load_f64, double, FL_F64, FL_CAST, FL_LOAD_HALF(f64))
FL_DEFINE_LOAD(fl_load_i64, int64_t, FL_I64, FL_CAST_SATURATE, FL_NO_HALF)

FL_INLINE void fl_stream_line(char *dst, const char *src) {
#if defined(__AVX512F__)
    _mm512_stream_si512((void *)dst, _mm512_loadu_si512((const void *)src));
#elif defined(__AVX__)
    __m256i a = _mm256_loadu_si256((const __m256i *)src);
    __m256i b = _mm256_loadu_si256((const __m256i *)(src + 32));
    _mm256_stream_si256((__m256i *)dst, a);
    _mm256_stream_si256((__m256i *)(dst + 32), b);
#elif defined(__SSE2__)
    for (int i = 0; i < 64; i += 16)
        _mm_stream_si128((__m128i *)(dst + i), _mm_loadu_si128((const __m128i *)(src + i)));
#else
    memcpy(dst, src, 64);
#endif
}

/* Copies past the cache: the lines are not read before they are written. The ends of a block
 * that share a line with a neighbour are copied plainly. */
static __attribute__((unused)) void fl_stream(char *dst, const char *src, size_t bytes) {
#if defined(__SSE2__)
    size_t head = (size_t)(-(uintptr_t)dst) & 63;
    head = head < bytes ? head : bytes;
    memcpy(dst, src, head);
    dst += head, src += head, bytes -= head;
    for (; bytes >= 64; dst += 64, src += 64, bytes -= 64)
        fl_stream_line(dst, src);
#endif
    memcpy(dst, src, bytes);
}

/* The bytes left at a seam; `block` is that which they are before. */
FL_INLINE void fl_close_seam(fl_seam *seam, const char *block) {
    if (seam->bytes)
        memcpy(seam->at - seam->bytes, block - seam->bytes, seam->bytes);
    seam->bytes = 0;
}

/* Streams a block, which shares its lines with the one before if it follows that in memory: a line
 * written in two parts, plainly, is read before, and 8100 x 4032 took 1.25 times as long. There is
 * room for 64 bytes before the block. */
static __attribute__((unused)) void fl_stream_on(fl_seam *seam, char *dst, char *block,
                                                 size_t bytes) {
    if (dst != seam->at)
        fl_close_seam(seam, block);
    char *begin = dst - seam->bytes, *end = dst + bytes;
    size_t rest = (uintptr_t)end & 63, all = (size_t)(end - begin);
    rest = rest < all ? rest : all;
    fl_stream(begin, block - seam->bytes, all - rest);
    memmove(block - 64, block + bytes - 64, 64);
    seam->at = end;
    seam->bytes = rest;
}

typedef int32_t fl_line __attribute__((vector_size(64)));
/* Streams a piece of a class's results, whole numbers of 4 bytes, the last line of which waits in `line`
 * for what follows in memory, unless it is the `last`. A line that begins before the `first` is not
 * ours. On both sides of `src` there are 64 bytes to read. (Plain stores of parts of lines took a
 * fifth of the time; and where a line is put together in memory, its load waits for all stores before.) */
FL_INLINE void fl_stream_piece(char *dst, const char *src, size_t bytes, char *line, int first,
                               int last) {
    size_t before = (uintptr_t)dst & 63, head = -before & 63, rest;
    if (before && (first || bytes < head)) {
        head = head < bytes ? head : bytes;
        memcpy(dst - before, line, first ? 0 : before);
        memcpy(dst, src, head);
    } else if (before) {
        const fl_line place = {0, 4, 8, 12, 16, 20, 24, 28, 32, 36, 40, 44, 48, 52, 56, 60};
        fl_line own, held, begun = place < (int)before;
        memcpy(&own, src - before, 64);
        memcpy(&held, line, 64);
        own = (held & begun) | (own & ~begun);
        fl_stream_line(dst - before, (const char *)&own);
    }
    rest = (bytes - head) & 63;
    for (size_t b = head; b < bytes - rest; b += 64)
        fl_stream_line(dst + b, src + b);
    if (rest && last)
        memcpy(dst + bytes - rest, src + bytes - rest, rest);
    else if (rest)
        memcpy(line, src + bytes - rest, 64);
}

/* The same where the classes' planes follow each other: a line that two of them share is put together in
 * `edge`, that with the plane before, or `next_edge`; NULL, where there is none. (Written in two parts,
 * gradients in planes of 7 x 7 floats took 1.3 times as long.) */
FL_INLINE void fl_put_in_line(char *line, const char *src, size_t at, size_t bytes) {
    const fl_line place = {0, 4, 8, 12, 16, 20, 24, 28, 32, 36, 40, 44, 48, 52, 56, 60};
    fl_line held, own, within = (place >= (int)at) & (place < (int)(at + bytes));
    memcpy(&held, line, 64);
    memcpy(&own, src - at, 64);
    held = (own & within) | (held & ~within);
    memcpy(line, &held, 64);
}
FL_INLINE void fl_stream_in_plane(char *dst, const char *src, size_t bytes, char *line, char *plane,
                                  size_t size, char *edge, char *next_edge) {
    char *stop = dst + bytes, *end = plane + size;
    char *low = plane + (-(uintptr_t)plane & 63), *high = end - ((uintptr_t)end & 63);
    size_t head = dst < low ? (size_t)((stop < low ? stop : low) - dst) : 0;
    size_t tail, between, begin = (size_t)(dst - plane);
    if (head && edge) {
        fl_put_in_line(edge, src, (uintptr_t)dst & 63, head);
        if (stop == end)
            fl_stream_line(low - 64, edge);
    } else
        memcpy(dst, src, head);
    dst += head, src += head;
    tail = stop > high ? (size_t)(stop - (dst > high ? dst : high)) : 0;
    between = (size_t)(stop - dst) - tail;
    if (between)
        fl_stream_piece(dst, src, between, line, 0, 0);
    src += between;
    if (tail && next_edge) {
        fl_put_in_line(next_edge, src, (uintptr_t)(stop - tail) & 63, tail);
        if (stop == end && begin >= (-(uintptr_t)end & 63)) /* else the next class's head comes last */
            fl_stream_line(high, next_edge);
    } else
        memcpy(stop - tail, src, tail);
}

enum { FL_SOON = 16 }; /* classes ahead, each elsewhere in memory, which no processor foresees */
/* Bytes, at most a few lines of them, that are soon read or written. */
FL_INLINE void fl_prefetch(const char *at, ptrdiff_t bytes, int write) {
    bytes += (uintptr_t)at & 63;
    for (ptrdiff_t b = 0; b < bytes && b < 1024; b += 64)
        if (write)
            __builtin_prefetch(at + b, 1);
        else
            __builtin_prefetch(at + b, 0);
}

/* The same of `count` pieces, to the L2 cache. */
FL_INLINE void fl_prefetch_pieces(const char *at, ptrdiff_t bytes, ptrdiff_t step, ptrdiff_t count) {
    for (ptrdiff_t i = 0; i < count; ++i, at += step)
        for (ptrdiff_t b = 0; b < bytes + ((intptr_t)at & 63); b += 64)
            __builtin_prefetch(at + b, 0, 2);
}

/* Bytes a page later, which are brought to the L2 cache: the processor's own prefetch stops at the end
 * of a page. */
FL_INLINE void fl_prefetch_page(const char *at, ptrdiff_t bytes, int write) {
    for (ptrdiff_t b = FL_PAGE; b < bytes + FL_PAGE; b += 64)
        if (write)
            __builtin_prefetch(at + b, 1, 2);
        else
            __builtin_prefetch(at + b, 0, 2);
}

FL_INLINE void fl_stream_fence(void) {
#if defined(__SSE2__)
    _mm_sfence();
#endif
}

#define FL_STORE_CASE(CODE, S, U, SWAP)                                                            \
    case CODE:                                                                                     \
        for (ptrdiff_t i = 0; i < n; ++i) {                                                        \
            S value = (S)src[i];                                                                   \
            U raw;                                                                                 \
            memcpy(&raw, &value, sizeof raw);                                                      \
            raw = SWAP(raw);                                                                       \
            memcpy(dst + i * step, &raw, sizeof raw);                                              \
        }                                                                                          \
        break;
#define FL_DEFINE_STORE_HALF(S, T)                                                                 \
    static __attribute__((noinline, unused)) void fl_store_half_##S(                               \
        char *dst, const T *restrict src, ptrdiff_t step, ptrdiff_t n, int code, int stream) {     \
        fl_half raw[FL_HALVES];                                                                    \
        int brain = (code & ~FL_SWAPPED) == FL_BF16;                                               \
        if (step == 2 && !(code & FL_SWAPPED)) {                                                   \
            fl_to_half_##S(brain, (fl_half *)dst, src, n, stream);                                 \
            return;                                                                                \
        }                                                                                          \
        for (ptrdiff_t i = 0, m; i < n; i += m, dst += m * step) {                                 \
            m = n - i < FL_HALVES ? n - i : FL_HALVES;                                             \
            fl_to_half_##S(brain, raw, src + i, m, 0);                                             \
            for (ptrdiff_t k = 0; k < (code & FL_SWAPPED ? m : 0); ++k)                            \
                raw[k] = __builtin_bswap16(raw[k]);                                                \
            for (ptrdiff_t k = 0; k < m; ++k)                                                      \
                *(fl_half *)(dst + k * step) = raw[k];                                             \
        }                                                                                          \
    }
FL_DEFINE_STORE_HALF(f32, float)
FL_DEFINE_STORE_HALF(f64, double)
#define FL_DEFINE_STORE(NAME, S, T, OWN)                                                           \
    static __attribute__((unused)) void NAME(char *restrict dst, const T *restrict src,            \
                                             ptrdiff_t step, ptrdiff_t n, int code, int stream) {  \
        if (code == OWN && step == sizeof(T)) {                                                    \
            if (stream)                                                                            \
                fl_stream(dst, (const char *)src, (size_t)n * sizeof(T));                          \
            else                                                                                   \
                memcpy(dst, src, (size_t)n * sizeof(T));                                           \
            return;                                                                                \
        }                                                                                          \
        switch (code & ~FL_UNALIGNED) {                                                            \
            FL_STORE_CASE(FL_F32, float, uint32_t, FL_SWAP1)                                       \
            FL_STORE_CASE(FL_F64, double, uint64_t, FL_SWAP1)                                      \
            FL_STORE_CASE(FL_F32 + FL_SWAPPED, float, uint32_t, FL_SWAP4)                          \
            FL_STORE_CASE(FL_F64 + FL_SWAPPED, double, uint64_t, FL_SWAP8)                         \
            case FL_F16:                                                                           \
            case FL_BF16:                                                                          \
            case FL_F16 + FL_SWAPPED:                                                              \
                fl_store_half_##S(dst, src, step, n, code, stream);                                \
        }                                                                                          \
    }
FL_DEFINE_STORE(fl_store_f32, f32, float, FL_F32)
FL_DEFINE_STORE(fl_store_f64, f64, double, FL_F64)

/* Copies `count` pieces, each `dst_step` and `src_step` bytes after the other, of at most FL_LANES rows:
 * in vectors, of which the last goes back over what was done (by memcpy, 1000 classes in planes of 7 x 7
 * took 1.3 times as long). `write`: it is the destination that no processor foresees, or the source. */
#define FL_COPY_BY(V)                                                                              \
    if (bytes >= V) {                                                                              \
        for (ptrdiff_t b = 0; b + V <= bytes; b += V)                                              \
            memcpy(dst + b, src + b, V);                                                           \
        memcpy(dst + bytes - V, src + bytes - V, V);                                               \
        continue;                                                                                  \
    }
FL_INLINE void fl_copy_pieces(char *restrict dst, ptrdiff_t dst_step, const char *restrict src,
                              ptrdiff_t src_step, ptrdiff_t bytes, ptrdiff_t count, int write) {
    for (ptrdiff_t i = 0; i < count; ++i, dst += dst_step, src += src_step) {
        if (write)
            fl_prefetch(dst + FL_SOON * dst_step, bytes, 1);
        else
            fl_prefetch(src + FL_SOON * src_step, bytes, 0);
        if (bytes == FL_LANES * 4) { /* a constant: unrolled */
            for (int b = 0; b < FL_LANES * 4; b += 64)
                memcpy(dst + b, src + b, 64);
            continue;
        }
        FL_COPY_BY(64)
        FL_COPY_BY(32)
        FL_COPY_BY(16)
        FL_COPY_BY(8)
        FL_COPY_BY(4)
    }
}

/* Which of n <= 64 labels are among `count` classes, a bit each. */
FL_INLINE uint64_t fl_among(const int64_t *y, ptrdiff_t n, ptrdiff_t begin, ptrdiff_t count) {
    uint64_t among = 0;
    for (ptrdiff_t i = 0; i < n; ++i)
        among |= (uint64_t)((uint64_t)(y[i] - begin) < (uint64_t)count) << i;
    return among;
}

FL_INLINE int fl_lowest(uint64_t bits) { return __builtin_ctzll(bits); }

/* rows x cols, a row `stride` bytes after the other, to columns FL_LANES elements apart; and back.
 * Square tiles in registers: element by element it would take three times as long. */
#if defined(__SSE2__)
/* Tiles of a row's columns from c on; the last goes back over some that were done. */
#define FL_TILES(c, cols, SIDE, TILE)                                                              \
    do {                                                                                           \
        for (; c + SIDE <= cols; c += SIDE)                                                        \
            TILE;                                                                                  \
        if (c < cols) {                                                                            \
            c = cols - SIDE;                                                                       \
            TILE;                                                                                  \
        }                                                                                          \
    } while (0)
#define FL_DEFINE_TRANSPOSE(T, SUFFIX, LOAD, STORE, V, SIDE, TRANSPOSE)                            \
    FL_INLINE void fl_tile_to_columns_##SUFFIX##_##SIDE(T *restrict dst, const char *src,          \
                                               ptrdiff_t stride) {                                 \
        V v[SIDE];                                                                                 \
        for (int i = 0; i < SIDE; ++i)                                                             \
            v[i] = LOAD((const T *)(src + i * stride));                                            \
        TRANSPOSE(v);                                                                              \
        for (int i = 0; i < SIDE; ++i)                                                             \
            STORE(dst + i * FL_LANES, v[i]);                                                       \
    }                                                                                              \
    FL_INLINE void fl_tile_from_columns_##SUFFIX##_##SIDE(char *dst, const T *restrict src,        \
                                                 ptrdiff_t stride) {                               \
        V v[SIDE];                                                                                 \
        for (int i = 0; i < SIDE; ++i)                                                             \
            v[i] = LOAD(src + i * FL_LANES);                                                       \
        TRANSPOSE(v);                                                                              \
        for (int i = 0; i < SIDE; ++i)                                                             \
            STORE((T *)(dst + i * stride), v[i]);                                                  \
    }
/* Rows that follow each other and are too short for a tile of floats: a loop of vectors, if N is a
 * constant. */
#define FL_FEW(T, N, dst, src, TO, FROM)                                                           \
    if (cols == N && stride == N * (ptrdiff_t)sizeof(T)) {                                         \
        T *restrict into = (T *)(dst);                                                             \
        const T *restrict from = (const T *)(src);                                                 \
        for (ptrdiff_t i = 0; i < rows; ++i)                                                       \
            for (ptrdiff_t c = 0; c < N; ++c)                                                      \
                into[TO] = from[FROM];                                                             \
        return;                                                                                    \
    }
#define FL_DEFINE_COLUMNS(T, SUFFIX, WIDE, NARROW, HALF)                                           \
    static __attribute__((unused)) void fl_to_columns_##SUFFIX(                                    \
        T *restrict dst, const char *src, ptrdiff_t stride, ptrdiff_t rows, ptrdiff_t cols) {      \
        ptrdiff_t r = 0;                                                                           \
        FL_FEW(T, 2, dst, src, c * FL_LANES + i, i * 2 + c)                                        \
        FL_FEW(T, 3, dst, src, c * FL_LANES + i, i * 3 + c)                                        \
        if (cols >= NARROW)                                                                        \
            for (; r + WIDE <= rows; r += WIDE, src += WIDE * stride) {                            \
                ptrdiff_t c = 0;                                                                   \
                for (; c + WIDE <= cols; c += WIDE)                                                \
                    fl_tile_to_columns_##SUFFIX##_##WIDE(                                          \
                        dst + c * FL_LANES + r, src + c * (ptrdiff_t)sizeof(T), stride);           \
                FL_TILES(c, cols, NARROW, HALF(                                                    \
                    dst + c * FL_LANES + r, src + c * (ptrdiff_t)sizeof(T), stride));              \
            }                                                                                      \
        if (cols >= NARROW)                                                                        \
            for (; r + NARROW <= rows; r += NARROW, src += NARROW * stride) {                      \
                ptrdiff_t c = 0;                                                                   \
                FL_TILES(c, cols, NARROW, fl_tile_to_columns_##SUFFIX##_##NARROW(                  \
                    dst + c * FL_LANES + r, src + c * (ptrdiff_t)sizeof(T), stride));              \
            }                                                                                      \
        for (; r < rows; ++r, src += stride)                                                       \
            for (ptrdiff_t c = 0; c < cols; ++c)                                                   \
                memcpy(dst + c * FL_LANES + r, (const T *)src + c, sizeof(T));                     \
    }                                                                                              \
    static __attribute__((unused)) void fl_from_columns_##SUFFIX(                                  \
        char *dst, const T *restrict src, ptrdiff_t stride, ptrdiff_t rows, ptrdiff_t cols) {      \
        ptrdiff_t r = 0;                                                                           \
        FL_FEW(T, 2, dst, src, i * 2 + c, c * FL_LANES + i)                                        \
        FL_FEW(T, 3, dst, src, i * 3 + c, c * FL_LANES + i)                                        \
        if (cols >= WIDE)                                                                          \
            for (; r + WIDE <= rows; r += WIDE, dst += WIDE * stride) {                            \
                ptrdiff_t c = 0;                                                                   \
                FL_TILES(c, cols, WIDE, fl_tile_from_columns_##SUFFIX##_##WIDE(                    \
                    dst + c * (ptrdiff_t)sizeof(T), src + c * FL_LANES + r, stride));              \
            }                                                                                      \
        if (cols >= NARROW)                                                                        \
            for (; r + NARROW <= rows; r += NARROW, dst += NARROW * stride) {                      \
                ptrdiff_t c = 0;                                                                   \
                FL_TILES(c, cols, NARROW, fl_tile_from_columns_##SUFFIX##_##NARROW(                \
                    dst + c * (ptrdiff_t)sizeof(T), src + c * FL_LANES + r, stride));              \
            }                                                                                      \
        for (; r < rows; ++r, dst += stride)                                                       \
            for (ptrdiff_t c = 0; c < cols; ++c)                                                   \
                memcpy((T *)dst + c, src + c * FL_LANES + r, sizeof(T));                           \
    }
#define FL_TRANSPOSE4(v) _MM_TRANSPOSE4_PS(v[0], v[1], v[2], v[3])
#define FL_TRANSPOSE2(v)                                                                           \
    do {                                                                                           \
        __m128d low = _mm_unpacklo_pd(v[0], v[1]);                                                 \
        v[1] = _mm_unpackhi_pd(v[0], v[1]);                                                        \
        v[0] = low;                                                                                \
    } while (0)
FL_DEFINE_TRANSPOSE(float, f32, _mm_loadu_ps, _mm_storeu_ps, __m128, 4, FL_TRANSPOSE4)
FL_DEFINE_TRANSPOSE(double, f64, _mm_loadu_pd, _mm_storeu_pd, __m128d, 2, FL_TRANSPOSE2)
#if defined(__AVX__)
/* Pairs, pairs of pairs, then halves. */
#define FL_TRANSPOSE4_AVX(v)                                                                       \
    do {                                                                                           \
        __m256d a = _mm256_unpacklo_pd(v[0], v[1]), b = _mm256_unpackhi_pd(v[0], v[1]);            \
        __m256d c = _mm256_unpacklo_pd(v[2], v[3]), d = _mm256_unpackhi_pd(v[2], v[3]);            \
        v[0] = _mm256_permute2f128_pd(a, c, 0x20), v[1] = _mm256_permute2f128_pd(b, d, 0x20);      \
        v[2] = _mm256_permute2f128_pd(a, c, 0x31), v[3] = _mm256_permute2f128_pd(b, d, 0x31);      \
    } while (0)
#define FL_TRANSPOSE8_AVX(v)                                                                       \
    do {                                                                                           \
        __m256d w[8];                                                                              \
        for (int i = 0; i < 8; i += 2) {                                                           \
            w[i] = _mm256_castps_pd(_mm256_unpacklo_ps(v[i], v[i + 1]));                           \
            w[i + 1] = _mm256_castps_pd(_mm256_unpackhi_ps(v[i], v[i + 1]));                       \
        }                                                                                          \
        for (int i = 0; i < 2; ++i) {                                                              \
            __m256d low[4] = {w[i], w[i + 2], w[i + 4], w[i + 6]};                                 \
            FL_TRANSPOSE4_AVX(low);                                                                \
            for (int k = 0; k < 4; ++k)                                                            \
                v[2 * i + (k & 1) + 4 * (k >> 1)] = _mm256_castpd_ps(low[k]);                      \
        }                                                                                          \
    } while (0)
FL_DEFINE_TRANSPOSE(float, f32, _mm256_loadu_ps, _mm256_storeu_ps, __m256, 8, FL_TRANSPOSE8_AVX)
FL_DEFINE_TRANSPOSE(double, f64, _mm256_loadu_pd, _mm256_storeu_pd, __m256d, 4, FL_TRANSPOSE4_AVX)
/* What is left of eight rows (four of doubles), half as many columns: each vector has two rows' at once,
 * so that nothing crosses its halves (9 to 12 columns take two thirds of the time, 5 to 7 half). */
FL_INLINE void fl_half_tile_f32(float *restrict dst, const char *src, ptrdiff_t stride) {
    __m256 v[4], w[4];
    for (int i = 0; i < 4; ++i)
        v[i] = _mm256_insertf128_ps(
            _mm256_castps128_ps256(_mm_loadu_ps((const float *)(src + i * stride))),
            _mm_loadu_ps((const float *)(src + (i + 4) * stride)), 1);
    for (int i = 0; i < 4; i += 2) {
        w[i] = _mm256_unpacklo_ps(v[i], v[i + 1]);
        w[i + 1] = _mm256_unpackhi_ps(v[i], v[i + 1]);
    }
    for (int i = 0; i < 2; ++i) {
        __m256d a = _mm256_castps_pd(w[i]), b = _mm256_castps_pd(w[i + 2]);
        _mm256_storeu_pd((double *)(dst + 2 * i * FL_LANES), _mm256_unpacklo_pd(a, b));
        _mm256_storeu_pd((double *)(dst + (2 * i + 1) * FL_LANES), _mm256_unpackhi_pd(a, b));
    }
}
FL_INLINE void fl_half_tile_f64(double *restrict dst, const char *src, ptrdiff_t stride) {
    __m256d v[2];
    for (int i = 0; i < 2; ++i)
        v[i] = _mm256_insertf128_pd(
            _mm256_castpd128_pd256(_mm_loadu_pd((const double *)(src + i * stride))),
            _mm_loadu_pd((const double *)(src + (i + 2) * stride)), 1);
    _mm256_storeu_pd(dst, _mm256_unpacklo_pd(v[0], v[1]));
    _mm256_storeu_pd(dst + FL_LANES, _mm256_unpackhi_pd(v[0], v[1]));
}
FL_DEFINE_COLUMNS(float, f32, 8, 4, fl_half_tile_f32)
FL_DEFINE_COLUMNS(double, f64, 4, 2, fl_half_tile_f64)
#else
FL_DEFINE_COLUMNS(float, f32, 4, 4, fl_tile_to_columns_f32_4)
FL_DEFINE_COLUMNS(double, f64, 2, 2, fl_tile_to_columns_f64_2)
#endif
#else
#define FL_DEFINE_TRANSPOSE(T, SUFFIX)                                                             \
    static __attribute__((unused)) void fl_to_columns_##SUFFIX(                                    \
        T *restrict dst, const char *src, ptrdiff_t stride, ptrdiff_t rows, ptrdiff_t cols) {      \
        for (ptrdiff_t r = 0; r < rows; ++r)                                                       \
            for (ptrdiff_t c = 0; c < cols; ++c)                                                   \
                memcpy(dst + c * FL_LANES + r, (const T *)(src + r * stride) + c, sizeof(T));      \
    }                                                                                              \
    static __attribute__((unused)) void fl_from_columns_##SUFFIX(                                  \
        char *dst, const T *restrict src, ptrdiff_t stride, ptrdiff_t rows, ptrdiff_t cols) {      \
        for (ptrdiff_t r = 0; r < rows; ++r)                                                       \
            for (ptrdiff_t c = 0; c < cols; ++c)                                                   \
                memcpy((T *)(dst + r * stride) + c, src + c * FL_LANES + r, sizeof(T));            \
    }
FL_DEFINE_TRANSPOSE(float, f32)
FL_DEFINE_TRANSPOSE(double, f64)
#endif

/* Stores `bytes` of a block's results from byte `at` on. Past the cache whole lines are stored: one
 * that a step shares with the next is the next's. `first` and `last`: of the blocks in a row. */
FL_INLINE void fl_store_step(char *to, char *from, size_t at, size_t bytes, int stream, int first,
                             int last) {
    char *begin = to + at, *end = begin + bytes;
    if (!stream) {
        memcpy(begin, from + at, bytes);
        return;
    }
    if (!first)
        begin -= (uintptr_t)begin & 63;
    if (!last)
        end -= (uintptr_t)end & 63;
    fl_stream(begin, from + (begin - to), (size_t)(end - begin));
}

/* sum += FL_LANES losses, in FL_SUMS lanes. */
enum { FL_SUMS = 16 };
#define FL_ADD_LANES(sum, x, AT)                                                                   \
    ((sum) + ((AT(x) + AT((x) + FL_SUMS)) + (AT((x) + 2 * FL_SUMS) + AT((x) + 3 * FL_SUMS))))
#define FL_ITSELF(x) (double)*(x)
FL_INLINE void fl_add_lanes_f64(double *restrict sum, const double *restrict x) {
    for (int l = 0; l < FL_SUMS; ++l)
        sum[l] = FL_ADD_LANES(sum[l], x + l, FL_ITSELF);
}
/* gcc converts whole registers, the upper half by way of another. */
FL_INLINE void fl_add_lanes_f32(double *restrict sum, const float *restrict x) {
#if defined(__AVX512F__)
#define FL_DOUBLES(x) _mm512_cvtps_pd(_mm256_loadu_ps(x))
    for (int l = 0; l < FL_SUMS; l += 8)
        _mm512_storeu_pd(sum + l, FL_ADD_LANES(_mm512_loadu_pd(sum + l), x + l, FL_DOUBLES));
#elif defined(__AVX__)
#define FL_DOUBLES(x) _mm256_cvtps_pd(_mm_loadu_ps(x))
    for (int l = 0; l < FL_SUMS; l += 4)
        _mm256_storeu_pd(sum + l, FL_ADD_LANES(_mm256_loadu_pd(sum + l), x + l, FL_DOUBLES));
#else
    for (int l = 0; l < FL_SUMS; ++l)
        sum[l] = FL_ADD_LANES(sum[l], x + l, FL_ITSELF);
#endif
}
/* The same of n; behind them is room for zeros. */
#define FL_DEFINE_ADD(T, S)                                                                        \
    static __attribute__((noinline, unused)) void fl_add_step_##S(double *restrict sum,            \
                                                                  T *restrict x, ptrdiff_t n) {    \
        for (ptrdiff_t l = n; l % FL_LANES; ++l)                                                   \
            x[l] = 0;                                                                              \
        for (ptrdiff_t i = 0; i < n; i += FL_LANES)                                                \
            fl_add_lanes_##S(sum, x + i);                                                          \
    }
FL_DEFINE_ADD(float, f32)
FL_DEFINE_ADD(double, f64)

/* Is one of n targets that weigh something (w: all, if NULL) out of its domain? nan is not. */
#define FL_DEFINE_OUTSIDE(T, S, F)                                                                 \
    static __attribute__((noinline, unused)) int fl_outside_##S(                                   \
        const fl_call *c, const T *restrict y, const T *restrict w, ptrdiff_t n) {                 \
        T low = (T)c->low, high = (T)c->high;                                                      \
        int bad = 0;                                                                               \
        if (c->open)                                                                               \
            low = nextafter##F(low, (T)INFINITY);                                                  \
        if (c->ends_only)                                                                          \
            FL_UNROLLED for (ptrdiff_t i = 0; i < n; ++i)                                          \
                bad |= (y[i] != low) & (y[i] != high) & (y[i] == y[i]);                            \
        else                                                                                       \
            FL_UNROLLED for (ptrdiff_t i = 0; i < n; ++i)                                          \
                bad |= (y[i] < low) | (y[i] > high);                                               \
        if (!bad || !w)                                                                            \
            return bad;                                                                            \
        bad = 0;                                                                                   \
        for (ptrdiff_t i = 0; i < n; ++i)                                                          \
            bad |= w[i] != 0                                                                       \
                   && (y[i] < low || y[i] > high || (c->ends_only && y[i] > low && y[i] < high));  \
        return bad;                                                                                \
    }
FL_DEFINE_OUTSIDE(float, f32, f)
FL_DEFINE_OUTSIDE(double, f64, )

/* The beginning of a step of n elements, the first of them element i of the block: checks its targets,
 * and returns whether it is moderate (fl_moderate_*), if there is a way for that. What is moderate
 * need not be checked, which would take as long as half of an exponential. */
#define FL_DEFINE_BEGIN(T, S)                                                                      \
    static __attribute__((noinline, unused)) int fl_begin_##S(const fl_elements *b, ptrdiff_t i,   \
                                                              ptrdiff_t n, int moderately) {       \
        const T *z = (const T *)b->pred + i, *y = (const T *)b->target + i;                        \
        fl_call *c = b->checks;                                                                    \
        int ends = c && c->ends_only; /* which are moderate */                                     \
        int moderate = moderately && fl_moderate_##S(z, ends ? NULL : y, n, !c);                   \
        if (c && !(moderate && !ends && c->low <= 0 && c->high == INFINITY && !c->open)            \
            && fl_outside_##S(c, y, b->weight ? (const T *)b->weight + i : NULL, n))               \
            c->bad = 1;                                                                            \
        return moderate;                                                                           \
    }
FL_DEFINE_BEGIN(float, f32)
FL_DEFINE_BEGIN(double, f64)

/* The end of a step of n elements, the first of them element i of the block. */
#define FL_DEFINE_SETTLE(T, S)                                                                     \
    /* What is masked weighs 0, whatever its loss. */                                              \
    static __attribute__((noinline, unused)) void fl_weigh_##S(T *restrict x, const T *restrict w, \
                                                               double scale, ptrdiff_t n) {        \
        for (ptrdiff_t l = 0; l < n; ++l)                                                          \
            x[l] = w[l] == 0 ? 0 : x[l] * (T)(w[l] * scale); /* each alone may be out of range */  \
    }                                                                                              \
    static __attribute__((noinline, unused)) void fl_settle_##S(const fl_elements *b, ptrdiff_t i, \
                                                                ptrdiff_t n) {                     \
        size_t at = (size_t)i * sizeof(T), bytes = (size_t)n * sizeof(T);                          \
        int first = b->first && i == 0, last = b->last && i + n == b->n;                           \
        if (b->weight) {                                                                           \
            if (!b->silent)                                                                        \
                fl_weigh_##S((T *)b->loss + i, (const T *)b->weight + i, 1, n);                    \
            if (b->order > 0)                                                                      \
                fl_weigh_##S((T *)b->grad + i, (const T *)b->weight + i, b->scale, n);             \
            if (b->order > 1)                                                                      \
                fl_weigh_##S((T *)b->hess + i, (const T *)b->weight + i, b->scale, n);             \
        }                                                                                          \
        if (b->sum)                                                                                \
            fl_add_step_##S(b->sum, (T *)b->loss + i, n);                                          \
        if (b->to[0])                                                                              \
            fl_store_step(b->to[0], (char *)b->loss, at, bytes, 0, first, last);                   \
        if (b->to[1])                                                                              \
            fl_store_step(b->to[1], (char *)b->grad, at, bytes, b->stream, first, last);           \
        if (b->to[2])                                                                              \
            fl_store_step(b->to[2], (char *)b->hess, at, bytes, b->stream, first, last);           \
    }                                                                                              \
    /* FL_LANES results, from element e on, past the cache, in whole lines. */                     \
    FL_INLINE void fl_stream_lanes_##S(char *to, const T *from, ptrdiff_t e) {                     \
        char *dst = to + e * (ptrdiff_t)sizeof(T);                                                 \
        const char *src = (const char *)(from + e);                                                \
        ptrdiff_t off = (ptrdiff_t)((uintptr_t)dst & 63);                                          \
        FL_ROLLED for (ptrdiff_t k = -off; k < FL_LANES * (ptrdiff_t)sizeof(T) - off; k += 64)     \
            fl_stream_line(dst + k, src + k);                                                      \
    }                                                                                              \
    /* n elements, with zeros to the end of the lanes. */                                          \
    static __attribute__((noinline, unused)) const T *fl_padded_##S(T *step, const T *x,           \
                                                                    ptrdiff_t n) {                 \
        memset(step, 0, FL_LANES * sizeof(T));                                                     \
        return (const T *)memcpy(step, x, (size_t)n * sizeof(T));                                  \
    }
FL_DEFINE_SETTLE(float, f32)
FL_DEFINE_SETTLE(double, f64)

/* Where the loop of a slow loss is: at n elements, the first of them element e. What they all do is one
 * function: in each of their loops it was a quarter of the modules and a fifth of the build. */
#define FL_DEFINE_ADVANCE(T, S)                                                                    \
    typedef struct {                                                                               \
        const T *z, *y, *a;                                                                        \
        T *grad, *hess;                                                                            \
        ptrdiff_t e, n;                                                                            \
        int moderate, plain; /* plain: neither weighed nor stored in part */                       \
        T pad[3][FL_LANES];                                                                        \
    } fl_place_##S;                                                                                \
    /* Finishes these; whether there are more: whole lanes, or the last elements, filled up. */    \
    static __attribute__((noinline, unused)) int fl_advance_##S(const fl_elements *b,              \
                                                                fl_place_##S *p, int moderately) { \
        ptrdiff_t e = p->e, n = p->n, end = b->n;                                                  \
        int begun = moderately || b->checks;                                                       \
        for (ptrdiff_t i = e; b->sum && p->plain && i < e + n; i += FL_LANES)                      \
            fl_add_lanes_##S(b->sum, (const T *)b->loss + i);                                      \
        if (n && !p->plain)                                                                        \
            fl_settle_##S(b, e, n);                                                                \
        p->e = e += n;                                                                             \
        n = (b->sum || begun) && end - e > FL_STEP ? FL_STEP : end - e;                            \
        if (n <= 0)                                                                                \
            return 0;                                                                              \
        if (begun && e % FL_STEP == 0)                                                             \
            p->moderate = fl_begin_##S(b, e, n, moderately);                                       \
        p->z = (const T *)b->pred + e, p->y = (const T *)b->target + e;                            \
        p->a = (const T *)b->extra + e;                                                            \
        if (n < FL_LANES) {                                                                        \
            p->z = fl_padded_##S(p->pad[0], p->z, n);                                              \
            p->y = fl_padded_##S(p->pad[1], p->y, n);                                              \
            p->a = fl_padded_##S(p->pad[2], p->a, n);                                              \
        } else                                                                                     \
            n -= n % FL_LANES;                                                                     \
        p->n = n;                                                                                  \
        end -= b->stream && b->last ? FL_LANES : 0;                                                \
        p->plain = !b->weight && !b->to[0] && n >= FL_LANES && e + n <= end                        \
                   && (e || !b->stream || !b->first);                                              \
        /* To where they belong: what lies on the prediction, lies on it exactly. */               \
        int direct = p->plain && !b->stream;                                                       \
        p->grad = (T *)(direct && b->to[1] ? b->to[1] : b->grad) + e;                              \
        p->hess = (T *)(direct && b->to[2] ? b->to[2] : b->hess) + e;                              \
        return 1;                                                                                  \
    }
FL_DEFINE_ADVANCE(float, f32)
FL_DEFINE_ADVANCE(double, f64)

/* The loops over a block, one for each result asked for: `at` is a loss at one point; what is not
 * stored is not computed. The last lanes are filled up, so that all are of whole vectors. The
 * processor's own prefetch stops at the end of a page: what comes a page later is brought to the L2
 * cache meanwhile (BCE over 30 million: 1.6 times as fast). Not to L1: there, on Zen 4, lines wait for
 * its few places of misses, and the mean squared error takes 1.4 times as long. Plain results are
 * streamed at once, those of losses that wait for memory (FL_MAP) summed too: a processor looks some 300
 * instructions ahead, and in longer phases that read nothing, memory waits (the mean squared error of 30
 * million: 11.2 -> 9.0 ms on a thread, of doubles 30 -> 19). Where registers suffice their losses are not
 * written where they are only summed: stores to two places in turn took up to half of the time (Intel, in
 * the L2 cache). The loops of others are rolled: copies of them are a tenth of the modules. */
#if defined(__AVX512F__) /* has 32; with the 16 of AVX2 some take a tenth longer */
#define FL_IN_REGISTERS 1
#else
#define FL_IN_REGISTERS 0
#endif
#define FL_LOOP(at, ORDER, SILENT, to_loss)                                                        \
    FL_INDEPENDENT for (int j = 0; j < FL_LANES; ++j) {                                            \
        at(z[j], y[j], a[j], k, &l, &g, &h);                                                       \
        if (!SILENT)                                                                               \
            (to_loss)[j] = l;                                                                      \
        if (ORDER > 0)                                                                             \
            to_grad[j] = g * scale;                                                                \
        if (ORDER > 1)                                                                             \
            to_hess[j] = h * scale;                                                                \
    }
#define FL_PREFETCH_LANES(T, ahead)                                                                \
    for (size_t p = 0; (ahead) && p < FL_LANES * sizeof(T); p += 64) {                             \
        __builtin_prefetch((const char *)z + FL_PAGE + p, 0, 2);                                   \
        __builtin_prefetch((const char *)y + FL_PAGE + p, 0, 2);                                   \
    }
#define FL_STREAM_RESULTS(S, b, ORDER, plain)                                                      \
    if (ORDER > 0 && (plain) && (b)->stream) {                                                     \
        if ((b)->to[1])                                                                            \
            fl_stream_lanes_##S((b)->to[1], grad, e);                                              \
        if (ORDER > 1 && (b)->to[2])                                                               \
            fl_stream_lanes_##S((b)->to[2], hess, e);                                              \
    }
#define FL_MAP_SLOW(T, S, b, able, moderately, at, ORDER, SILENT)                                  \
    while (fl_advance_##S(b, &place, able)) {                                                      \
        const T *z = place.z, *y = place.y, *a = place.a;                                          \
        T *to_grad = place.grad, *to_hess = place.hess;                                            \
        for (ptrdiff_t e = place.e, end = e + place.n; e < end;                                    \
             e += FL_LANES, z += FL_LANES, y += FL_LANES, a += FL_LANES, to_grad += FL_LANES,      \
                       to_hess += FL_LANES) {                                                      \
            T l, g, h;                                                                             \
            FL_PREFETCH_LANES(T, (b)->ahead)                                                       \
            if ((able) && place.moderate)                                                          \
                FL_ROLLED FL_LOOP(moderately, ORDER, SILENT, loss + e)                             \
            else                                                                                   \
                FL_ROLLED FL_LOOP(at, ORDER, SILENT, loss + e)                                     \
            FL_STREAM_RESULTS(S, b, ORDER, place.plain)                                            \
        }                                                                                          \
    }
#define FL_MAP_QUICK(T, S, b, at, ORDER)                                                           \
    int plain = !(b)->weight && !(b)->to[0];                                                       \
    int summed = FL_IN_REGISTERS && (b)->summed && ((b)->sum || (b)->silent);                      \
    int ahead = (b)->ahead && (b)->stream; /* else it only costs: a loss alone, up to a quarter */ \
    ptrdiff_t begin = (b)->stream && (b)->first ? FL_LANES : 0;                                    \
    ptrdiff_t end = !plain ? 0 : (b)->stream && (b)->last ? (b)->n - FL_LANES : (b)->n;            \
    end = end - end % FL_LANES;                                                                    \
    for (ptrdiff_t i = 0, n; i < (b)->n; i += FL_STEP) {                                           \
        const T *z = (const T *)(b)->pred + i, *y = (const T *)(b)->target + i;                    \
        const T *a = (const T *)(b)->extra + i;                                                    \
        n = (b)->n - i < FL_STEP ? (b)->n - i : FL_STEP;                                           \
        if ((b)->checks)                                                                           \
            fl_begin_##S(b, i, n, 0);                                                              \
        for (ptrdiff_t e = i; e < i + n; e += FL_LANES, z += FL_LANES, y += FL_LANES,              \
                       a += FL_LANES) {                                                            \
            T pad[3][FL_LANES], l, g, h, *to_grad = grad + e, *to_hess = hess + e;                 \
            int whole = begin <= e && e < end;                                                     \
            if (whole && !(b)->stream) { /* where they belong, as above */                         \
                to_grad = (b)->to[1] ? (T *)(b)->to[1] + e : to_grad;                              \
                to_hess = (b)->to[2] ? (T *)(b)->to[2] + e : to_hess;                              \
            }                                                                                      \
            FL_PREFETCH_LANES(T, ahead)                                                            \
            if (i + n - e < FL_LANES) {                                                            \
                z = fl_padded_##S(pad[0], z, i + n - e);                                           \
                y = fl_padded_##S(pad[1], y, i + n - e);                                           \
                a = fl_padded_##S(pad[2], a, i + n - e);                                           \
            }                                                                                      \
            T own[FL_LANES], *each = FL_IN_REGISTERS ? own : loss + e;                             \
            FL_LOOP(at, ORDER, 0, each)                                                            \
            if (FL_IN_REGISTERS && !(whole && summed))                                             \
                FL_INDEPENDENT for (int j = 0; j < FL_LANES; ++j)                                  \
                    loss[e + j] = own[j];                                                          \
            if (!whole)                                                                            \
                fl_settle_##S(b, e, i + n - e < FL_LANES ? i + n - e : FL_LANES);                  \
            else if ((b)->sum)                                                                     \
                fl_add_lanes_##S((b)->sum, each);                                                  \
            FL_STREAM_RESULTS(S, b, ORDER, whole)                                                  \
        }                                                                                          \
    }
#define FL_RESULTS(T, b)                                                                           \
    T *restrict loss = (T *)(b)->loss, *restrict grad = (T *)(b)->grad;                            \
    T *restrict hess = (T *)(b)->hess, scale = (T)((b)->weight ? 1 : (b)->scale);                  \
    /* Not by memcpy: of a vector, the loops would take its elements each time. */                 \
    const double *given = (b)->knobs, k[] = {given[0], given[1], given[2], given[3]};
#define FL_MAP_QUICK_AS(T, S, b, at)                                                               \
    do {                                                                                           \
        FL_RESULTS(T, b)                                                                           \
        if ((b)->order == 0) {                                                                     \
            FL_MAP_QUICK(T, S, b, at, 0)                                                           \
        } else if ((b)->order == 1) {                                                              \
            FL_MAP_QUICK(T, S, b, at, 1)                                                           \
        } else {                                                                                   \
            FL_MAP_QUICK(T, S, b, at, 2)                                                           \
        }                                                                                          \
    } while (0)
#define FL_MAP_SLOW_AS(T, S, b, able, moderately, at)                                              \
    do {                                                                                           \
        FL_RESULTS(T, b)                                                                           \
        fl_place_##S place;                                                                        \
        place.e = place.n = place.moderate = place.plain = 0;                                      \
        if ((b)->order == 0) {                                                                     \
            FL_MAP_SLOW(T, S, b, able, moderately, at, 0, 0)                                       \
        } else if ((b)->order == 1 && (b)->silent) {                                               \
            FL_MAP_SLOW(T, S, b, able, moderately, at, 1, 1)                                       \
        } else if ((b)->order == 1) {                                                              \
            FL_MAP_SLOW(T, S, b, able, moderately, at, 1, 0)                                       \
        } else if ((b)->silent) {                                                                  \
            FL_MAP_SLOW(T, S, b, able, moderately, at, 2, 1)                                       \
        } else {                                                                                   \
            FL_MAP_SLOW(T, S, b, able, moderately, at, 2, 0)                                       \
        }                                                                                          \
    } while (0)
#define FL_MAP(b, at_f32, at_f64)                                                                  \
    do {                                                                                           \
        if ((b)->wide)                                                                             \
            FL_MAP_QUICK_AS(double, f64, b, at_f64);                                               \
        else                                                                                       \
            FL_MAP_QUICK_AS(float, f32, b, at_f32);                                                \
    } while (0)
/* Those above wait for the memory, and do all in their loops (a call each 64 elements took up to half
 * as long again); those below compute. For losses of log; where no loss is asked for they take half of
 * the time. */
#define FL_MAP_LOG(b, at_f32, at_f64)                                                              \
    do {                                                                                           \
        if ((b)->wide)                                                                             \
            FL_MAP_SLOW_AS(double, f64, b, 0, at_f64, at_f64);                                     \
        else                                                                                       \
            FL_MAP_SLOW_AS(float, f32, b, 0, at_f32, at_f32);                                      \
    } while (0)
/* For losses of exp; without a loss they take a third less. */
#define FL_MAP_FLUSHED(b, at_f32, at_f64)                                                          \
    do {                                                                                           \
        fl_mode own = fl_enter(1);                                                                 \
        FL_MAP_LOG(b, at_f32, at_f64);                                                             \
        fl_leave(own);                                                                             \
    } while (0)
/* Of rows and labels, whose losses are computed in double. The rows' drivers are in this mode already:
 * to read it waits for all that is computed. */
#define FL_MAP_LABELS(b, at_f64) FL_MAP_SLOW_AS(double, f64, b, 0, at_f64, at_f64)
/* For those that have a shorter way to the same bits where a step is moderate (fl_moderate_*); `able`:
 * whether the knobs allow it. */
#define FL_MAP_MODERATE(b, able, moderate_f32, moderate_f64, at_f32, at_f64)                       \
    do {                                                                                           \
        fl_mode own = fl_enter(1);                                                                 \
        if ((b)->wide)                                                                             \
            FL_MAP_SLOW_AS(double, f64, b, able, moderate_f64, at_f64);                            \
        else                                                                                       \
            FL_MAP_SLOW_AS(float, f32, b, able, moderate_f32, at_f32);                             \
        fl_leave(own);                                                                             \
    } while (0)

#endif
