#include "Internal.h"

#include <immintrin.h>
#include <string.h>

// Two times 32 rows abreast.

#define WITH_AVX2 __attribute__((target("avx2,bmi,bmi2,popcnt")))
#define INLINE_AVX2 static inline __attribute__((always_inline)) WITH_AVX2

INLINE_AVX2 __m256i down(__m256i at, __m256 threshold, __m256 x) {
    __m256i passed = _mm256_castps_si256(_mm256_cmp_ps(threshold, x, _CMP_LE_OQ));
    return _mm256_sub_epi32(_mm256_add_epi32(at, at), passed);
}

INLINE_AVX2 __m256 pick16(const float *table, __m256i at) {
    __m256 low = _mm256_permutevar8x32_ps(_mm256_load_ps(table), at);
    __m256 high = _mm256_permutevar8x32_ps(_mm256_load_ps(table + 8), at);
    return _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(at, 28)));
}

WITH_AVX2 static void rank_block(const cforest *f, uint8_t *bytes, const float *rows, size_t count, size_t stride) {
    _Alignas(32) float x[WIDE];
    _Alignas(32) int32_t rank[WIDE];
    for (int32_t k = 0; k < f->used_count; k++) {
        const used_feature *u = &f->used[k];
        const float *table = f->search + u->search, *source = rows + u->feature;
        for (size_t r = 0; r < WIDE; r++) x[r] = source[(r < count ? r : count - 1) * stride];
        __m256 head = _mm256_load_ps(table), next = _mm256_load_ps(table + 8);
        __m256i first = _mm256_set1_epi32(1 << u->levels);
        int32_t small = u->levels < 3 ? u->levels : 3;
        for (int r = 0; r < WIDE; r += 32) {
            __m256 v[4];
            __m256i at[4];
            for (int i = 0; i < 4; i++) v[i] = _mm256_load_ps(x + r + 8 * i), at[i] = _mm256_set1_epi32(1);
            for (int32_t l = 0; l < small; l++)
                for (int i = 0; i < 4; i++) at[i] = down(at[i], _mm256_permutevar8x32_ps(head, at[i]), v[i]);
            if (u->levels > 3)
                for (int i = 0; i < 4; i++) at[i] = down(at[i], _mm256_permutevar8x32_ps(next, at[i]), v[i]);
            if (u->levels > 4)
                for (int i = 0; i < 4; i++) at[i] = down(at[i], pick16(table + 16, at[i]), v[i]);
            for (int32_t l = 5; l < u->levels; l++)
                for (int i = 0; i < 4; i++) at[i] = down(at[i], _mm256_i32gather_ps(table, at[i], 4), v[i]);
            for (int i = 0; i < 4; i++)
                _mm256_store_si256((__m256i *)(rank + r + 8 * i), _mm256_sub_epi32(at[i], first));
        }
        if (u->plain) {
            uint8_t *left = bytes + (size_t)u->only[0] * WIDE, *right = bytes + (size_t)u->only[1] * WIDE;
            for (int r = 0; r < WIDE; r++) left[r] = (uint8_t)rank[r];
            for (int r = 0; r < WIDE; r++) right[r] = x[r] != x[r] ? 255 : (uint8_t)rank[r];
        } else {
            for (int r = 0; r < WIDE; r++) fill_other_columns(f, u, x[r], rank[r], bytes + r, WIDE);
        }
    }
}

/// All ones where the row goes left.
INLINE_AVX2 __m256i left_of(const uint8_t *bytes, const uint32_t *offsets, const uint8_t *ks, int node) {
    __m256i rank = _mm256_load_si256((const __m256i *)(bytes + offsets[node]));
    return _mm256_cmpeq_epi8(_mm256_min_epu8(rank, _mm256_set1_epi8((char)ks[node])), rank);
}

INLINE_AVX2 __m256i lower1(const uint8_t *bytes, const uint32_t *offsets, const uint8_t *ks, int j) {
    return _mm256_andnot_si256(left_of(bytes, offsets, ks, j), _mm256_set1_epi8(1));
}

#define LOWER(n, below, bit)                                                                                           \
    INLINE_AVX2 __m256i lower##n(const uint8_t *bytes, const uint32_t *offsets, const uint8_t *ks, int j) {            \
        __m256i left = lower##below(bytes, offsets, ks, 2 * j), right = lower##below(bytes, offsets, ks, 2 * j + 1);   \
        right = _mm256_or_si256(right, _mm256_set1_epi8(bit));                                                         \
        return _mm256_blendv_epi8(right, left, left_of(bytes, offsets, ks, j));                                        \
    }
LOWER(2, 1, 2)
LOWER(3, 2, 4)
LOWER(4, 3, 8)
LOWER(5, 4, 16)
LOWER(6, 5, 32)

INLINE_AVX2 void byte_tree(const cforest *f, int32_t index, const uint8_t *bytes, float *total, float *block) {
    size_t base = (size_t)index * 64;
    const float *leaves = f->leaves + base;
    _Alignas(32) uint8_t places[32];
    for (int half = 0; half < WIDE; half += 32) {
        __m256i leaf = lower6(bytes + half, f->offsets + base, f->ks + base, 1);
        _mm256_store_si256((__m256i *)places, leaf);
        for (int i = 0; i < 32; i += 8) {
            float *sum = total + half + i;
            __m256 v;
            float *w = (float *)&v;
            for (int k = 0; k < 8; k++) w[k] = leaves[places[i + k]];
            _mm256_store_ps(sum, _mm256_add_ps(_mm256_load_ps(sum), v));
            if (!block) continue;
            sum = block + half + i;
            _mm256_store_ps(sum, _mm256_add_ps(_mm256_load_ps(sum), v));
        }
    }
}

WITH_AVX2 static void deep_tree(const cforest *f, int32_t t, const uint8_t *bytes, int32_t *walk, float *total,
                                float *block) {
    const ranked_node *nodes = f->ranked;
    for (int r = 0; r < WIDE; r++) walk[r] = f->root[t];
    for (int32_t d = 0; d < f->tree_depth[t]; d++)
        for (int r = 0; r < WIDE; r++) {
            ranked_node n = nodes[walk[r]];
            walk[r] = n.left + (bytes[(size_t)n.column * WIDE + r] > n.k);
        }
    for (int r = 0; r < WIDE; r++) {
        float v = f->plain[walk[r]].value;
        total[r] += v;
        if (block) block[r] += v;
    }
}

WITH_AVX2 void avx2_block(const cforest *f, cforest_scratch *s, const float *rows, size_t count, size_t stride,
                          int blocks) {
    rank_block(f, s->bytes, rows, count, stride);
    for (int32_t g = 0; g < f->group_count; g++)
        for (int r = 0; r < WIDE; r++) s->totals[g * WIDE + r] = f->base[g];
    if (blocks) memset(s->blocks, 0, CFOREST_EMBEDDING * WIDE * sizeof(float));
    for (int32_t t = 0; t < f->tree_count; t++) {
        float *total = s->totals + (size_t)f->tree_group[t] * WIDE;
        float *block = blocks ? s->blocks + (size_t)f->block[t] * WIDE : NULL;
        if (f->byte_tree[t] >= 0) byte_tree(f, f->byte_tree[t], s->bytes, total, block);
        else deep_tree(f, t, s->bytes, s->walk, total, block);
    }
}
