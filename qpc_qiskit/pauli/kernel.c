/* Steps of a noisy circuit on chunks of pixels; the tables are made by compiled.py.

   A state is a table of rows (Pauli strings) by pixels. Pixels are taken W at a time, so that a row
   is two vectors. Consecutive steps form a segment, whose rows fall into blocks that do not mix:
   all steps of a block run in the first-level cache. Between segments the whole state is in memory.

   A step's table lists its output rows in groups of equal form: pairs (u, w), which the step
   rotates after the multiplication, and single rows. For each row there are the numbers of its
   input rows and, apart, its factors. The first step of a block reads rows of the whole state, the
   last one writes rows of the whole state, all others count the rows of the block.

   This file includes itself, once for each of float and double. No thread is started here, and
   nothing is kept between calls. */

#ifndef T

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define VECTOR_BYTES 32

enum { PAIRS = 1, SINGLES = 0 };

typedef struct {
    const int32_t *program;  /* see run() */
    const int64_t *tables;   /* per table: offset of its code, offset of its factors */
    const int32_t *code;     /* per table: groups; per group: kind, entries of u, of w, rows; rows */
    const void *factors;
    int64_t max_rows;        /* of the whole state, at any time */
    int64_t max_block_rows;  /* of a block, at any time */
    int64_t max_kept_rows;   /* of a block, all of its steps together */
} Stage;

#define T float
#define NAME(name) name##_f32
#include "kernel.c"
#undef T
#undef NAME
#define T double
#define NAME(name) name##_f64
#include "kernel.c"

#else

#define W ((int)(2 * VECTOR_BYTES / sizeof(T)))
#define V NAME(V)
#define Row NAME(Row)
#define INLINE static inline __attribute__((always_inline))

typedef T V __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(T)), may_alias));
typedef struct { V a, b; } Row;

INLINE Row NAME(load)(const T *p) { return (Row){((const V *)p)[0], ((const V *)p)[1]}; }
INLINE void NAME(store)(T *p, Row r) { ((V *)p)[0] = r.a; ((V *)p)[1] = r.b; }

/* sum of factor * row over `n` entries; n is a constant where it is small */
INLINE Row NAME(gather)(const T *in, const int32_t *column, const T *factor, int n) {
    Row r = {{0}, {0}};
    for (int e = 0; e < n; e++) {
        Row x = NAME(load)(in + (size_t)column[e] * W);
        r.a += factor[e] * x.a;
        r.b += factor[e] * x.b;
    }
    return r;
}

/* the transpose: add factor * r to each row */
INLINE void NAME(scatter)(T *in, const int32_t *column, const T *factor, int n, Row r) {
    for (int e = 0; e < n; e++) {
        T *p = in + (size_t)column[e] * W;
        Row x = NAME(load)(p);
        x.a += factor[e] * r.a;
        x.b += factor[e] * r.b;
        NAME(store)(p, x);
    }
}

INLINE void NAME(pairs)(const T *in, T *out, const int32_t *code, const T *factor, int nu, int nw,
                        int count, Row c, Row s) {
    for (int i = 0; i < count; i++) {
        Row u = NAME(gather)(in, code + 2, factor, nu);
        Row w = NAME(gather)(in, code + 2 + nu, factor + nu, nw);
        NAME(store)(out + (size_t)code[0] * W, (Row){c.a * u.a + s.a * w.a, c.b * u.b + s.b * w.b});
        NAME(store)(out + (size_t)code[1] * W, (Row){c.a * w.a - s.a * u.a, c.b * w.b - s.b * u.b});
        code += 2 + nu + nw;
        factor += nu + nw;
    }
}

INLINE void NAME(singles)(const T *in, T *out, const int32_t *code, const T *factor, int n,
                          int count) {
    for (int i = 0; i < count; i++) {
        NAME(store)(out + (size_t)code[0] * W, NAME(gather)(in, code + 1, factor, n));
        code += 1 + n;
        factor += n;
    }
}

/* one step of a block */
static void NAME(step)(const int32_t *code, const T *factor, const T *in, T *out, const T *cosine,
                       const T *sine) {
    int groups = *code++;
    Row c = {{0}, {0}}, s = {{0}, {0}};
    if (cosine) c = NAME(load)(cosine), s = NAME(load)(sine);
    for (; groups > 0; groups--) {
        int kind = code[0], nu = code[1], nw = code[2], count = code[3];
        code += 4;
        if (kind == PAIRS) {
            switch (nu <= 3 && nw <= 3 ? 4 * nu + nw : 0) { /* the compiler unrolls these */
                case 5: NAME(pairs)(in, out, code, factor, 1, 1, count, c, s); break;
                case 6: NAME(pairs)(in, out, code, factor, 1, 2, count, c, s); break;
                case 9: NAME(pairs)(in, out, code, factor, 2, 1, count, c, s); break;
                case 10: NAME(pairs)(in, out, code, factor, 2, 2, count, c, s); break;
                default: NAME(pairs)(in, out, code, factor, nu, nw, count, c, s);
            }
            code += (int64_t)count * (2 + nu + nw);
        } else {
            switch (nu) {
                case 1: NAME(singles)(in, out, code, factor, 1, count); break;
                case 2: NAME(singles)(in, out, code, factor, 2, count); break;
                default: NAME(singles)(in, out, code, factor, nu, count);
            }
            code += (int64_t)count * (1 + nu);
        }
        factor += (int64_t)count * (nu + nw);
    }
}

/* Transposes: `slope`, by the output, is turned back and added to `before`, by the input; `state` is
   the output. pairs_back returns the derivative by the angle. */
INLINE Row NAME(pairs_back)(const T *state, const T *slope, T *before, const int32_t *code,
                            const T *factor, int nu, int nw, int count, Row c, Row s) {
    Row total = {{0}, {0}};
    for (int i = 0; i < count; i++) {
        size_t iu = (size_t)code[0] * W, iw = (size_t)code[1] * W;
        Row gu = NAME(load)(slope + iu), gw = NAME(load)(slope + iw);
        Row u = NAME(load)(state + iu), w = NAME(load)(state + iw);
        total.a += gu.a * w.a - gw.a * u.a;
        total.b += gu.b * w.b - gw.b * u.b;
        Row bu = {c.a * gu.a - s.a * gw.a, c.b * gu.b - s.b * gw.b};
        Row bw = {s.a * gu.a + c.a * gw.a, s.b * gu.b + c.b * gw.b};
        NAME(scatter)(before, code + 2, factor, nu, bu);
        NAME(scatter)(before, code + 2 + nu, factor + nu, nw, bw);
        code += 2 + nu + nw;
        factor += nu + nw;
    }
    return total;
}

INLINE void NAME(singles_back)(const T *slope, T *before, const int32_t *code, const T *factor,
                               int n, int count) {
    for (int i = 0; i < count; i++) {
        NAME(scatter)(before, code + 1, factor, n, NAME(load)(slope + (size_t)code[0] * W));
        code += 1 + n;
        factor += n;
    }
}

static Row NAME(back)(const int32_t *code, const T *factor, const T *state, const T *slope,
                      T *before, const T *cosine, const T *sine) {
    int groups = *code++;
    Row c = {{0}, {0}}, s = {{0}, {0}}, total = {{0}, {0}};
    if (cosine) c = NAME(load)(cosine), s = NAME(load)(sine);
    for (; groups > 0; groups--) {
        int kind = code[0], nu = code[1], nw = code[2], count = code[3];
        code += 4;
        if (kind == PAIRS) {
            Row t;
#define BACK(nu, nw) NAME(pairs_back)(state, slope, before, code, factor, nu, nw, count, c, s)
            switch (nu <= 3 && nw <= 3 ? 4 * nu + nw : 0) {
                case 5: t = BACK(1, 1); break;
                case 6: t = BACK(1, 2); break;
                case 9: t = BACK(2, 1); break;
                case 10: t = BACK(2, 2); break;
                default: t = BACK(nu, nw);
            }
#undef BACK
            total.a += t.a;
            total.b += t.b;
            code += (int64_t)count * (2 + nu + nw);
        } else {
            switch (nu) {
                case 1: NAME(singles_back)(slope, before, code, factor, 1, count); break;
                case 2: NAME(singles_back)(slope, before, code, factor, 2, count); break;
                default: NAME(singles_back)(slope, before, code, factor, nu, count);
            }
            code += (int64_t)count * (1 + nu);
        }
        factor += (int64_t)count * (nu + nw);
    }
    return total;
}

static void NAME(read)(T *to, const T *from, int64_t rows, int64_t stride) {
    for (int64_t r = 0; r < rows; r++) memcpy(to + r * W, from + r * stride, W * sizeof(T));
}

static void NAME(write)(T *to, const T *from, int64_t rows, int64_t stride) {
    for (int64_t r = 0; r < rows; r++) memcpy(to + r * stride, from + r * W, W * sizeof(T));
}

static T *NAME(room)(int64_t rows) {
    return aligned_alloc(64, ((size_t)rows * W * sizeof(T) / 64 + 1) * 64);
}

#define CODE(t) (stage->code + stage->tables[2 * (t)])
#define FACTORS(t) ((const T *)stage->factors + stage->tables[2 * (t) + 1])

/* All steps, for `pixels` pixels, a multiple of W. The program is

       segments, rows before, rows after; then for each segment
       rows after, blocks, steps, the angle of each step (-1: none); then for each block
       its table for each step, and its number of rows after each step

   kept: of every W pixels the states before each segment, or NULL. Returns 0, or 1 without memory. */
int NAME(run)(const Stage *stage, const T *first, const T *cosines, const T *sines, int64_t pixels,
              T *last, T *kept) {
    const int32_t *head = stage->program;
    int64_t segments = head[0], rows_before = head[1], rows_after = head[2];
    T *whole[2] = {NAME(room)(stage->max_rows), NAME(room)(stage->max_rows)};
    T *local[2] = {NAME(room)(stage->max_block_rows), NAME(room)(stage->max_block_rows)};
    int failed = !whole[0] || !whole[1] || !local[0] || !local[1];
    for (int64_t p = 0; p < pixels && !failed; p += W) {
        const int32_t *at = head + 3;
        T *state = whole[0], *next = whole[1];
        int64_t rows = rows_before;
        NAME(read)(state, first + p, rows_before, pixels);
        for (int64_t g = 0; g < segments; g++) {
            int64_t after = at[0], blocks = at[1], steps = at[2];
            const int32_t *angles = at + 3;
            at = angles + steps;
            if (kept) {
                memcpy(kept, state, (size_t)rows * W * sizeof(T));
                kept += rows * W;
            }
            for (int64_t b = 0; b < blocks; b++, at += 2 * steps) {
                const T *in = state;
                for (int64_t j = 0; j < steps; j++) {
                    T *out = j == steps - 1 ? next : local[j % 2];
                    const T *c = angles[j] < 0 ? NULL : cosines + angles[j] * pixels + p;
                    const T *s = angles[j] < 0 ? NULL : sines + angles[j] * pixels + p;
                    NAME(step)(CODE(at[j]), FACTORS(at[j]), in, out, c, s);
                    in = out;
                }
            }
            T *swap = state;
            state = next, next = swap, rows = after;
        }
        NAME(write)(last + p, state, rows_after, pixels);
    }
    free(whole[0]), free(whole[1]), free(local[0]), free(local[1]);
    return failed;
}

/* Derivatives by the first state and by the angles, from those by the last; `slopes` holds the
   latter and gets the former in its first rows; `by_angles` begins as zeros.

   kept: by run(). kept_rows: rows of all states in it. */
int NAME(pull)(const Stage *stage, const T *cosines, const T *sines, int64_t pixels, const T *kept,
               int64_t kept_rows, const T *slopes, T *by_first, T *by_angles) {
    const int32_t *head = stage->program;
    int64_t segments = head[0], rows_before = head[1], rows_after = head[2];
    T *whole[2] = {NAME(room)(stage->max_rows), NAME(room)(stage->max_rows)};
    T *local[2] = {NAME(room)(stage->max_block_rows), NAME(room)(stage->max_block_rows)};
    T *states = NAME(room)(stage->max_kept_rows), *last = NAME(room)(stage->max_rows);
    const int32_t **starts = malloc((segments + 1) * sizeof *starts);
    int failed = !whole[0] || !whole[1] || !local[0] || !local[1] || !states || !last || !starts;
    if (!failed) {
        starts[0] = head + 3;
        for (int64_t g = 0; g < segments; g++) {
            const int32_t *at = starts[g];
            starts[g + 1] = at + 3 + at[2] + 2 * (int64_t)at[1] * at[2];
        }
    }
    for (int64_t p = 0; p < pixels && !failed; p += W, kept += kept_rows * W) {
        T *slope = whole[0], *before = whole[1];
        NAME(read)(slope, slopes + p, rows_after, pixels);
        const T *state = kept + kept_rows * W;
        for (int64_t g = segments - 1; g >= 0; g--) {
            const int32_t *at = starts[g];
            int64_t rows = g ? starts[g - 1][0] : rows_before, blocks = at[1], steps = at[2];
            const int32_t *angles = at + 3;
            at = angles + steps;
            state -= rows * W;
            memset(before, 0, (size_t)rows * W * sizeof(T));
            for (int64_t b = 0; b < blocks; b++, at += 2 * steps) {
                const T *in = state;
                T *out = states;
                for (int64_t j = 0; j < steps; j++) { /* the states of the block once more */
                    const T *c = angles[j] < 0 ? NULL : cosines + angles[j] * pixels + p;
                    const T *s = angles[j] < 0 ? NULL : sines + angles[j] * pixels + p;
                    T *to = j == steps - 1 ? last : out;
                    NAME(step)(CODE(at[j]), FACTORS(at[j]), in, to, c, s);
                    in = to;
                    out += (int64_t)at[steps + j] * W;
                }
                const T *by_out = slope;
                const T *made = last;
                out -= (int64_t)at[2 * steps - 1] * W;
                for (int64_t j = steps - 1; j >= 0; j--) {
                    const T *c = angles[j] < 0 ? NULL : cosines + angles[j] * pixels + p;
                    const T *s = angles[j] < 0 ? NULL : sines + angles[j] * pixels + p;
                    T *by_in = before;
                    if (j) {
                        by_in = local[j % 2];
                        memset(by_in, 0, (size_t)at[steps + j - 1] * W * sizeof(T));
                    }
                    Row turned = NAME(back)(CODE(at[j]), FACTORS(at[j]), made, by_out, by_in, c, s);
                    if (c) {
                        T *to = by_angles + angles[j] * pixels + p;
                        Row sum = NAME(load)(to);
                        NAME(store)(to, (Row){sum.a + turned.a, sum.b + turned.b});
                    }
                    by_out = by_in;
                    if (j) {
                        out -= (int64_t)at[steps + j - 1] * W;
                        made = out;
                    }
                }
            }
            T *swap = slope;
            slope = before, before = swap;
        }
        NAME(write)(by_first + p, slope, rows_before, pixels);
    }
    free(whole[0]), free(whole[1]), free(local[0]), free(local[1]);
    free(states), free(last), free(starts);
    return failed;
}

#undef W
#undef V
#undef Row
#undef INLINE
#undef CODE
#undef FACTORS

#endif
