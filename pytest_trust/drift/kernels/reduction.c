/* Rows of logits reduced to divergences in one pass over the vocabulary. `c_rows.py` builds this file and calls it.

   A segment of both rows is widened to float32 in the first-level cache. Its maxima are folded into the running ones,
   and the sums so far are rescaled to them. The segment's sums (float32, at most SEGMENT / LANES terms a lane) are then
   added in double. With a = s (x - max x), Z = sum exp a for one side and b, W for the other,

       KL(p || q) = sum exp(a) (a - b) / Z - (log Z - log W)

   This is exactly 0 for equal rows: a - b is taken from the centred logits before they are scaled, so every term is 0.
   Total variation and Jensen-Shannon need the normalisers. A second pass therefore reads the exponentials, which the
   first one leaves in `scratch`. The caller settles results that are not finite.

   Build with -ffp-contract=off or fast, never with -ffast-math: -inf and NaN are meant. */

#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif
#define SEGMENT 2048

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));

enum { FLOAT32, BFLOAT16, FLOAT16 };
enum {
    KL_PQ, KL_QP, ENTROPY_P, ENTROPY_Q, LSE_P, LSE_Q, TOTAL_VARIATION, JS,
    P_LABEL, Q_LABEL, RANK_P, RANK_Q, SAME_TOP, COLUMNS
};

static inline vec load(const float *from) { vec x; memcpy(&x, from, sizeof x); return x; }
static inline void store(float *to, vec x) { memcpy(to, &x, sizeof x); }
static inline vec fill(float value) { vec x; for (int i = 0; i < LANES; i++) x[i] = value; return x; }
static inline vec where(ivec mask, vec yes, vec no) { return (vec)((mask & (ivec)yes) | (~mask & (ivec)no)); }
static inline vec kept(ivec mask, vec x) { return (vec)(mask & (ivec)x); }
static inline vec positive(vec x) { return (vec)((ivec)x & 0x7fffffff); }
static inline double total(vec x) { double sum = 0; for (int i = 0; i < LANES; i++) sum += x[i]; return sum; }
static inline float largest(vec x) {
    float m = x[0];
    for (int i = 1; i < LANES; i++) m = x[i] > m ? x[i] : m;
    return m;
}

/* exp x for x <= 0, to 2 units in the last place; 0 below -87. Cody-Waite reduction, polynomial of Cephes' expf. */
static inline vec exp_of(vec x) {
    const vec magic = fill(12582912.0f); /* 1.5 * 2^23: adding it rounds to a whole number */
    vec shifted = x * 1.44269504088896341f + magic;
    vec n = shifted - magic;
    vec r = x - n * 0.693359375f;
    r = r - n * -2.12194440e-4f;
    vec y = r * 1.9875691500e-4f + 1.3981999507e-3f;
    y = y * r + 8.3334519073e-3f;
    y = y * r + 4.1665795894e-2f;
    y = y * r + 1.6666665459e-1f;
    y = y * r + 5.0000001201e-1f;
    y = y * (r * r) + r + 1.0f;
    ivec power = ((ivec)shifted - (ivec)magic + 127) << 23;
    return kept(x >= fill(-87.0f), y * (vec)power);
}

/* log x for normal x > 0; polynomial of Cephes' logf. */
static inline vec log_of(vec x) {
    ivec bits = (ivec)x;
    ivec exponent = ((bits >> 23) & 255) - 126;
    vec m = (vec)((bits & 0x007fffff) | 0x3f000000); /* 0.5 to 1 */
    ivec low = m < fill(0.707106781186547524f);
    vec e = __builtin_convertvector(exponent + low, vec); /* a true comparison is -1 */
    m = m + kept(low, m) - 1.0f;
    vec z = m * m;
    vec y = m * 7.0376836292e-2f - 1.1514610310e-1f;
    y = y * m + 1.1676998740e-1f;
    y = y * m - 1.2420140846e-1f;
    y = y * m + 1.4249322787e-1f;
    y = y * m - 1.6668057665e-1f;
    y = y * m + 2.0000714765e-1f;
    y = y * m - 2.4999993993e-1f;
    y = y * m + 3.3333331174e-1f;
    y = y * m * z + e * -2.12194440e-4f - z * 0.5f;
    return m + y + e * 0.693359375f;
}

static inline float widen(const void *row, int64_t at, int type) {
    uint32_t bits;
    float value;
    if (type == FLOAT32) return ((const float *)row)[at];
    bits = ((const uint16_t *)row)[at];
    if (type == BFLOAT16) {
        bits <<= 16;
    } else { /* a product rather than branches, so that it vectorises; exact, subnormals included */
        uint32_t sign = (bits & 0x8000u) << 16, magnitude = (bits & 0x7fffu) << 13;
        memcpy(&value, &magnitude, 4);
        value *= 5.192296858534828e33f; /* 2^112 */
        memcpy(&magnitude, &value, 4);
        bits = (magnitude | (value >= 65536.0f ? 0x7f800000u : 0u)) | sign;
    }
    memcpy(&value, &bits, 4);
    return value;
}

/* `count` logits from `start` as float32, padded with -inf to whole vectors. Whole float32 vectors are not copied. */
static const float *segment(const void *row, int64_t start, int64_t count, int type, float *buffer) {
    if (type == FLOAT32 && count % LANES == 0) return (const float *)row + start;
    if (type == FLOAT32) memcpy(buffer, (const float *)row + start, count * sizeof(float));
    else if (type == BFLOAT16) for (int64_t i = 0; i < count; i++) buffer[i] = widen(row, start + i, BFLOAT16);
    else for (int64_t i = 0; i < count; i++) buffer[i] = widen(row, start + i, FLOAT16);
    for (int64_t i = count; i % LANES; i++) buffer[i] = -INFINITY;
    return buffer;
}

static inline float centre(float top) { return top == -INFINITY ? 0.0f : top; }

typedef struct { double z, w, to_q, to_p, dot_p, dot_q; float top_p, top_q; int64_t rank_p, rank_q; int same; } State;

/* Rescales the sums so far from the old maxima to the new ones. */
static void rescale(State *s, float top_p, float top_q, double scale) {
    double by_p = s->top_p == -INFINITY ? 0.0 : scale * ((double)s->top_p - top_p);
    double by_q = s->top_q == -INFINITY ? 0.0 : scale * ((double)s->top_q - top_q);
    double grow_p = exp(by_p), grow_q = exp(by_q);
    s->to_q = grow_p * (s->to_q + s->z * (by_p - by_q));
    s->to_p = grow_q * (s->to_p + s->w * (by_p - by_q));
    s->dot_p = grow_p * (s->dot_p + s->z * by_p);
    s->dot_q = grow_q * (s->dot_q + s->w * by_q);
    s->z *= grow_p;
    s->w *= grow_q;
    s->top_p = top_p;
    s->top_q = top_q;
    s->same = 0;
}

static inline __attribute__((always_inline)) void add_segment(
    State *s, const float *x, const float *y, int64_t count, float scale, int whole, const float *labels,
    float *es, float *fs) {
    const vec none = fill(-INFINITY);
    vec top_p = none, top_q = none;
    for (int64_t i = 0; i < count; i += LANES) {
        vec xs = load(x + i), ys = load(y + i);
        top_p = where(xs > top_p, xs, top_p);
        top_q = where(ys > top_q, ys, top_q);
    }
    float here_p = largest(top_p), here_q = largest(top_q);
    if (here_p > s->top_p || here_q > s->top_q)
        rescale(s, here_p > s->top_p ? here_p : s->top_p, here_q > s->top_q ? here_q : s->top_q, scale);
    if (whole && here_p == s->top_p && here_q == s->top_q) {
        ivec both = (ivec)fill(0);
        for (int64_t i = 0; i < count; i += LANES)
            both |= (load(x + i) == fill(here_p)) & (load(y + i) == fill(here_q));
        for (int i = 0; i < LANES; i++) s->same |= both[i] != 0;
    }
    if (labels) {
        ivec above_p = (ivec)fill(0), above_q = (ivec)fill(0);
        for (int64_t i = 0; i < count; i += LANES) {
            above_p -= load(x + i) > fill(labels[0]);
            above_q -= load(y + i) > fill(labels[1]);
        }
        for (int i = 0; i < LANES; i++) s->rank_p += above_p[i], s->rank_q += above_q[i];
    }
    vec centre_p = fill(centre(s->top_p)), centre_q = fill(centre(s->top_q)), by = fill(scale);
    vec z = fill(0), w = fill(0), to_q = fill(0), to_p = fill(0), dot_p = fill(0), dot_q = fill(0);
    for (int64_t i = 0; i < count; i += LANES) {
        vec a = load(x + i) - centre_p, b = load(y + i) - centre_q;
        vec gap = (a - b) * by; /* before scaling: a fused multiply-add would not be 0 for equal logits */
        a *= by;
        b *= by;
        vec e = exp_of(a), f = exp_of(b);
        ivec in_p = a != none;
        z += e;
        w += f;
        to_q += kept(in_p, e * gap); /* 0 log 0 = 0; infinite where q alone excludes the token */
        if (whole) {
            store(es + i, e);
            store(fs + i, f);
            ivec in_q = b != none;
            to_p += kept(in_q, f * gap);
            dot_p += kept(in_p, e * a);
            dot_q += kept(in_q, f * b);
        }
    }
    s->z += total(z);
    s->w += total(w);
    s->to_q += total(to_q);
    if (whole) {
        s->to_p += total(to_p);
        s->dot_p += total(dot_p);
        s->dot_q += total(dot_q);
    }
}

/* sum |p - q| over a segment, and into `mixture` sum (p + q) log (p + q). `by_p` and `by_q` turn the segment's
   exponentials into probabilities. */
static inline __attribute__((always_inline)) double apart(
    const float *es, const float *fs, int64_t count, float by_p, float by_q, double *mixture) {
    vec over_z = fill(by_p), over_w = fill(by_q), sum = fill(0), mixed = fill(0);
    const vec tiny = fill(1.17549435e-38f);
    for (int64_t i = 0; i < count; i += LANES) {
        /* Clearing the sign forces rounding: a fused product and difference is not 0 for equal p and q. */
        vec p = positive(load(es + i) * over_z), q = positive(load(fs + i) * over_w);
        sum += positive(p - q);
        if (mixture) {
            vec m = p + q;
            m = where(m > tiny, m, tiny);
            mixed += m * log_of(m);
        }
    }
    if (mixture) *mixture += total(mixed);
    return total(sum);
}

/* The factor from exponentials about a segment's own maximum to probabilities. */
static inline float to_probability(float segment_top, float top, double scale, double mass) {
    return segment_top == -INFINITY ? 0.0f : (float)(exp(scale * ((double)segment_top - top)) / mass);
}

/* `p`, `q`: rows of `vocabulary` neighbouring logits of one of the types above.
   `p_stride`, `q_stride`: logits from row to row.
   `chosen`: the indices of `rows` rows, or NULL for the first ones.
   `labels`: a token id for each of these rows, or NULL.
   `mode`: 0 writes KL(p || q) alone, one double a row; 2 writes COLUMNS doubles a row; 1 likewise, without a valid JS.
   `scratch`: 2 (SEGMENT + 1) floats for each segment of a row, whole or not; mode 0 needs none. */
void trust_reduce(const void *p, int64_t p_stride, int p_type, const void *q, int64_t q_stride, int q_type,
                  int64_t rows, int64_t vocabulary, double scale, const int64_t *chosen, const int64_t *labels,
                  int mode, float *scratch, double *out) {
    int64_t segments = (vocabulary + SEGMENT - 1) / SEGMENT;
    float *es = scratch, *fs = scratch + segments * SEGMENT, *tops = scratch + 2 * segments * SEGMENT;
    float buffer_p[SEGMENT], buffer_q[SEGMENT];
    int size_p = p_type == FLOAT32 ? 4 : 2, size_q = q_type == FLOAT32 ? 4 : 2;
    for (int64_t row = 0; row < rows; row++) {
        int64_t at = chosen ? chosen[row] : row;
        const void *x = (const char *)p + at * p_stride * size_p, *y = (const char *)q + at * q_stride * size_q;
        State s = {.top_p = -INFINITY, .top_q = -INFINITY};
        float at_label[2] = {0, 0};
        if (labels) at_label[0] = widen(x, labels[row], p_type), at_label[1] = widen(y, labels[row], q_type);
        for (int64_t start = 0; start < vocabulary; start += SEGMENT) {
            int64_t count = vocabulary - start < SEGMENT ? vocabulary - start : SEGMENT;
            const float *xs = segment(x, start, count, p_type, buffer_p);
            const float *ys = segment(y, start, count, q_type, buffer_q);
            if (mode == 0) {
                add_segment(&s, xs, ys, count, (float)scale, 0, 0, 0, 0);
                continue;
            }
            add_segment(&s, xs, ys, count, (float)scale, 1, labels ? at_label : 0, es + start, fs + start);
            tops[2 * (start / SEGMENT)] = s.top_p;
            tops[2 * (start / SEGMENT) + 1] = s.top_q;
        }
        double log_z = log(s.z), log_w = log(s.w), kl = s.to_q / s.z - (log_z - log_w);
        if (s.top_p == -INFINITY || s.top_q == -INFINITY) kl = NAN;
        if (mode == 0) {
            out[row] = kl;
            continue;
        }
        double variation = 0, mixture = 0;
        for (int64_t start = 0; start < vocabulary; start += SEGMENT) {
            int64_t count = vocabulary - start < SEGMENT ? vocabulary - start : SEGMENT;
            const float *top = tops + 2 * (start / SEGMENT);
            float by_p = to_probability(top[0], s.top_p, scale, s.z);
            float by_q = to_probability(top[1], s.top_q, scale, s.w);
            if (mode == 1) variation += apart(es + start, fs + start, count, by_p, by_q, 0);
            else variation += apart(es + start, fs + start, count, by_p, by_q, &mixture);
        }
        double *to = out + row * COLUMNS;
        to[KL_PQ] = kl;
        to[KL_QP] = (log_z - log_w) - s.to_p / s.w;
        to[ENTROPY_P] = log_z - s.dot_p / s.z;
        to[ENTROPY_Q] = log_w - s.dot_q / s.w;
        to[LSE_P] = log_z + scale * s.top_p;
        to[LSE_Q] = log_w + scale * s.top_q;
        to[TOTAL_VARIATION] = 0.5 * variation;
        /* H(m) - (H(p) + H(q)) / 2 for m = (p + q) / 2, with H(m) = log 2 - sum (p + q) log (p + q) / 2 */
        to[JS] = log(2.0) - 0.5 * (mixture + to[ENTROPY_P] + to[ENTROPY_Q]);
        to[P_LABEL] = exp(scale * ((double)at_label[0] - s.top_p)) / s.z;
        to[Q_LABEL] = exp(scale * ((double)at_label[1] - s.top_q)) / s.w;
        to[RANK_P] = (double)(s.rank_p + 1);
        to[RANK_Q] = (double)(s.rank_q + 1);
        to[SAME_TOP] = s.same;
    }
}
