/* The vectors of packed_impl.h in plain C. */
#define SETS_OF_ONE_ROW 1
#define CODE_OFFSET 0
#define WIDE 1
#define NARROW 1
#define ROWS_AT_ONCE 8
#define WITH_NF4 0

typedef struct iv {
    int32_t at[16];
} iv;
typedef struct qv {
    int8_t code[64];
} qv;
typedef struct fv {
    float at[16];
} fv;

#define EACH16 for (int i = 0; i < 16; i++)

INLINE void prefetch(const uint8_t *p) {
    __builtin_prefetch(p);
}
INLINE qv q_load(const uint8_t *p) {
    qv q;
    memcpy(&q, p, sizeof q);
    return q;
}
INLINE qv q_signed(qv codes) {
    return codes;
}
INLINE qv q_low(qv both) {
    for (int i = 0; i < 64; i++) {
        both.code[i] = (int8_t)(both.code[i] & 15);
    }
    return both;
}
INLINE qv q_high(qv both) {
    for (int i = 0; i < 64; i++) {
        both.code[i] = (int8_t)((uint8_t)both.code[i] >> 4);
    }
    return both;
}
INLINE iv i_set(int32_t x) {
    iv y;
    EACH16 y.at[i] = x;
    return y;
}
INLINE iv i_add(iv a, iv b) {
    EACH16 a.at[i] += b.at[i];
    return a;
}
INLINE iv i_dot(iv sum, qv codes, const int8_t *x) {
    EACH16 {
        const int8_t *w = codes.code + 4 * i;
        sum.at[i] += w[0] * x[0] + w[1] * x[1] + w[2] * x[2] + w[3] * x[3];
    }
    return sum;
}
INLINE iv i_dot_signed(iv sum, qv codes, const int8_t *x) {
    return i_dot(sum, codes, x);
}
INLINE iv i_begin_nibbles(int32_t first) {
    return i_set(first);
}
INLINE iv i_dot_nibbles(iv sum, qv codes, const int8_t *x) {
    return i_dot(sum, codes, x);
}
INLINE iv i_end_nibbles(iv sum, int32_t first) {
    (void)first;
    return sum;
}
INLINE fv f_set(float x) {
    fv y;
    EACH16 y.at[i] = x;
    return y;
}
INLINE fv f_of_i(iv x) {
    fv y;
    EACH16 y.at[i] = (float)x.at[i];
    return y;
}
INLINE fv f_load(const float *p) {
    fv x;
    memcpy(&x, p, sizeof x);
    return x;
}
INLINE fv f_load_f16(const uint16_t *p) { /* the multiplication also normalises subnormals */
    fv x;
    EACH16 {
        const uint32_t rest = p[i] & 0x7fffu;
        uint32_t bits = rest << 13;
        float value;
        memcpy(&value, &bits, 4);
        value *= 0x1p112f;
        memcpy(&bits, &value, 4);
        bits |= (rest >= 0x7c00u ? 0x7f800000u : 0u) | (uint32_t)(p[i] & 0x8000u) << 16;
        memcpy(&x.at[i], &bits, 4);
    }
    return x;
}
INLINE fv f_add(fv a, fv b) {
    EACH16 a.at[i] += b.at[i];
    return a;
}
INLINE fv f_mul(fv a, fv b) {
    EACH16 a.at[i] *= b.at[i];
    return a;
}
INLINE fv f_fma(fv a, fv b, fv c) {
    EACH16 {
        const float product = a.at[i] * b.at[i];
        c.at[i] += product;
    }
    return c;
}
INLINE fv f_load_n(const float *p, int64_t n) {
    fv x = {{0}};
    for (int i = 0; i < n && i < 16; i++) {
        x.at[i] = p[i];
    }
    return x;
}
INLINE void f_store_n(float *p, fv x, int64_t n) {
    for (int i = 0; i < n && i < 16; i++) {
        p[i] = x.at[i];
    }
}
