#include "Internal.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

// The plain walk, links, and the choice of a level.

int goes_right_in_set(const cforest *f, int32_t set, float x) {
    // A category that can't be one, or that no split knows, goes left.
    if (!(x >= 0) || x >= 16777216.0f) return 0;
    uint32_t category = (uint32_t)x;
    int32_t from = f->set_first[set], words = f->set_first[set + 1] - from;
    if (category / 32 >= (uint32_t)words) return 0;
    return f->set_words[from + category / 32] >> (category % 32) & 1;
}

static inline const plain_node *step(const cforest *f, const plain_node *p, const float *row) {
    float x = row[p->feature];
    int right;
    if (x != x) right = !p->default_left;
    else if (p->set >= 0) right = goes_right_in_set(f, p->set, x);
    else right = !(x < p->value);
    return &f->plain[p->left + right];
}

float plain_leaf(const cforest *f, int32_t tree, const float *row) {
    const plain_node *p = &f->plain[f->root[tree]];
    while (p->left >= 0) p = step(f, p, row);
    return p->value;
}

void plain_row(const cforest *f, const float *row, float *totals, float *embedding) {
    memcpy(totals, f->base, f->group_count * sizeof(float));
    if (embedding) memset(embedding, 0, CFOREST_EMBEDDING * sizeof(float));
    for (int32_t t = 0; t < f->tree_count; t++) {
        float v = plain_leaf(f, t, row);
        totals[f->tree_group[t]] += v;
        if (embedding) embedding[f->block[t]] += v;
    }
}

static void linear_row(const cforest *f, const float *row, float *totals) {
    int32_t groups = f->group_count;
    for (int32_t g = 0; g < groups; g++) {
        float sum = f->bias[g] + f->base[g];
        for (int32_t i = 0; i < f->feature_count; i++)
            if (row[i] == row[i]) sum += row[i] * f->weights[(size_t)i * groups + g];
        totals[g] = sum;
    }
}

/// Columns of a feature that has sets, or more thresholds than one column can tell apart.
void fill_other_columns(const cforest *f, const used_feature *u, float x, int32_t rank, uint8_t *out, size_t step) {
    for (int32_t c = u->column; c < u->column_end; c++) {
        const column *col = &f->columns[c];
        int32_t byte;
        if (x != x) byte = col->missing;
        else if (col->base < 0) byte = goes_right_in_set(f, col->set, x) ? 255 : 0;
        else byte = rank - col->base;
        out[(size_t)c * step] = (uint8_t)(byte < 0 ? 0 : byte > 255 ? 255 : byte);
    }
}

static float logistic(float x) {
    // XGBoost's form: the argument is capped so that the exponential stays finite.
    float e = expf(fminf(-x, 88.7f));
    return 1.0f / (e + 1.0f + 1e-16f);
}

void link_row(const cforest *f, const float *margins, float *out) {
    int32_t groups = f->group_count;
    switch (f->link) {
    case CFOREST_LINK_LOGISTIC:
        for (int32_t g = 0; g < groups; g++) out[g] = logistic(margins[g]);
        return;
    case CFOREST_LINK_EXP:
        for (int32_t g = 0; g < groups; g++) out[g] = expf(margins[g]);
        return;
    case CFOREST_LINK_HINGE:
        for (int32_t g = 0; g < groups; g++) out[g] = margins[g] > 0 ? 1 : 0;
        return;
    case CFOREST_LINK_ARGMAX: {
        int32_t best = 0;
        for (int32_t g = 1; g < groups; g++)
            if (margins[g] > margins[best]) best = g;
        out[0] = (float)best;
        return;
    }
    case CFOREST_LINK_SOFTMAX: {
        float top = margins[0];
        double sum = 0;
        for (int32_t g = 1; g < groups; g++) top = fmaxf(top, margins[g]);
        for (int32_t g = 0; g < groups; g++) sum += out[g] = expf(margins[g] - top);
        for (int32_t g = 0; g < groups; g++) out[g] /= (float)sum;
        return;
    }
    default: memcpy(out, margins, groups * sizeof(float));
    }
}

static _Atomic int32_t level_in_use = -1;

static int32_t detected_level(void) {
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")
        && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vbmi"))
        return CFOREST_LEVEL_AVX512;
    return __builtin_cpu_supports("avx2") ? CFOREST_LEVEL_AVX2 : CFOREST_LEVEL_PLAIN;
}

int32_t cforest_level(void) {
    int32_t level = atomic_load_explicit(&level_in_use, memory_order_relaxed);
    return level >= 0 ? level : cforest_force_level(-1);
}

int32_t cforest_force_level(int32_t level) {
    int32_t most = detected_level();
    if (level < 0 || level > most) level = most;
    atomic_store_explicit(&level_in_use, level, memory_order_relaxed);
    return level;
}

/// Below this many rows they are scored one by one.
#define FEW 12

static void run(const cforest *f, cforest_scratch *s, const float *rows, size_t count, size_t stride, float *outputs,
                float *embeddings, int linked) {
    int32_t level = f->path == CFOREST_PATH_PLAIN || f->path == CFOREST_PATH_LINEAR ? CFOREST_LEVEL_PLAIN
                                                                                    : cforest_level();
    size_t groups = f->group_count, width = linked && f->link == CFOREST_LINK_ARGMAX ? 1 : groups;
    size_t row = 0;
    while (row < count) {
        size_t here = count - row < WIDE ? count - row : WIDE;
        if (level == CFOREST_LEVEL_PLAIN || here <= FEW) {
            for (size_t r = row; r < row + here; r++) {
                const float *x = rows + r * stride;
                float *e = embeddings ? embeddings + r * CFOREST_EMBEDDING : NULL;
                float *out = outputs + r * width;
                if (f->path == CFOREST_PATH_LINEAR) linear_row(f, x, s->margins);
                else if (level == CFOREST_LEVEL_PLAIN) plain_row(f, x, s->margins, e);
                else if (level == CFOREST_LEVEL_AVX512 && f->single_columns) avx512_single(f, s, x, s->margins, e);
                else ranked_single(f, s, x, s->margins, e);
                if (linked) link_row(f, s->margins, out);
                else memcpy(out, s->margins, groups * sizeof(float));
            }
        } else {
            const float *x = rows + row * stride;
            if (level == CFOREST_LEVEL_AVX512) avx512_block(f, s, x, here, stride, embeddings != NULL);
            else avx2_block(f, s, x, here, stride, embeddings != NULL);
            for (size_t r = 0; r < here; r++) {
                float *out = outputs + (row + r) * width;
                for (size_t g = 0; g < groups; g++) s->margins[g] = s->totals[g * WIDE + r];
                if (linked) link_row(f, s->margins, out);
                else memcpy(out, s->margins, groups * sizeof(float));
                if (!embeddings) continue;
                float *e = embeddings + (row + r) * CFOREST_EMBEDDING;
                for (size_t k = 0; k < CFOREST_EMBEDDING; k++) e[k] = s->blocks[k * WIDE + r];
            }
        }
        row += here;
    }
}

void cforest_evaluate(const cforest *f, cforest_scratch *s, const float *rows, size_t count, size_t stride,
                      float *outputs, float *embeddings) {
    run(f, s, rows, count, stride, outputs, embeddings, 1);
}

void cforest_margins(const cforest *f, cforest_scratch *s, const float *rows, size_t count, size_t stride,
                     float *margins) {
    run(f, s, rows, count, stride, margins, NULL, 0);
}

void cforest_contributions(const cforest *f, const float *row, int32_t group, float *out) {
    out[f->feature_count] += f->base[group];
    if (f->path == CFOREST_PATH_LINEAR) {
        out[f->feature_count] += f->bias[group];
        for (int32_t i = 0; i < f->feature_count; i++)
            if (row[i] == row[i]) out[i] += row[i] * f->weights[(size_t)i * f->group_count + group];
        return;
    }
    for (int32_t t = 0; t < f->tree_count; t++) {
        if (f->tree_group[t] != group) continue;
        const plain_node *p = &f->plain[f->root[t]];
        out[f->feature_count] += p->mean;
        while (p->left >= 0) {
            const plain_node *next = step(f, p, row);
            out[p->feature] += next->mean - p->mean;
            p = next;
        }
    }
}

float cforest_logit(float p) { return -logf(1.0f / p - 1.0f); }

float cforest_log(float x) { return logf(x); }

float cforest_decimal(uint64_t digits, int32_t exponent, int32_t exact, const char *text) {
    static const double powers[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                                    1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
    if (exact && digits < (1ull << 53) && exponent >= -22 && exponent <= 22) {
        // One correct rounding to double; a second one to float is harmless unless the double stands exactly between
        // two floats, or is so small that floats are spaced otherwise.
        double d = exponent < 0 ? (double)digits / powers[-exponent] : (double)digits * powers[exponent];
        uint64_t bits;
        memcpy(&bits, &d, sizeof bits);
        if (digits == 0) return 0;
        if ((bits & 0x1fffffff) != 0x10000000 && d > 1e-37 && d < 3e38) return (float)d;
    }
    return strtof(text, NULL);
}
