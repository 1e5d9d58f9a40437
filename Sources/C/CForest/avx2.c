#include "Internal.h"

#include <immintrin.h>
#include <string.h>

// Two times 32 rows abreast.

#define WITH_AVX2 __attribute__((target("avx2")))
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

INLINE_AVX2 __m256i lower(const uint8_t *bytes, const uint32_t *offsets, const uint8_t *ks, int levels) {
    switch (levels) {
    case 3: return lower3(bytes, offsets, ks, 1);
    case 4: return lower4(bytes, offsets, ks, 1);
    case 5: return lower5(bytes, offsets, ks, 1);
    default: return lower6(bytes, offsets, ks, 1);
    }
}

INLINE_AVX2 void walk_block(const cforest *f, cforest_scratch *s, int blocks, int levels, int deep) {
    const uint8_t *bytes = s->bytes;
    _Alignas(32) uint8_t places[WIDE];
    _Alignas(32) float values[WIDE];
    for (int32_t t = 0; t < f->tree_count; t++) {
        float *total = s->totals + (size_t)f->tree_group[t] * WIDE;
        float *block = s->blocks + (size_t)f->block[t] * WIDE;
        size_t base = (size_t)t * 64;
        for (int half = 0; half < WIDE; half += 32) {
            __m256i at = lower(bytes + half, f->offsets + base, f->ks + base, levels);
            _mm256_store_si256((__m256i *)(places + half), at);
        }
        const union exit *exits = f->exits + base;
        if (deep) {
            // From the nodes where the first levels end, all rows go down the rest a level at a time.
            int32_t *walk = s->walk;
            for (int r = 0; r < WIDE; r++) walk[r] = exits[places[r]].node;
            for (int32_t d = LEVELS; d < f->tree_depth[t]; d++)
                for (int r = 0; r < WIDE; r++) {
                    ranked_node n = f->ranked[walk[r]];
                    walk[r] = n.left + (bytes[(size_t)n.column * WIDE + r] > n.k);
                }
            for (int r = 0; r < WIDE; r++) values[r] = f->plain[walk[r]].value;
        } else {
            for (int r = 0; r < WIDE; r++) values[r] = exits[places[r]].value;
        }
        for (int i = 0; i < WIDE; i += 8) {
            __m256 v = _mm256_load_ps(values + i);
            _mm256_store_ps(total + i, _mm256_add_ps(_mm256_load_ps(total + i), v));
            if (blocks) _mm256_store_ps(block + i, _mm256_add_ps(_mm256_load_ps(block + i), v));
        }
    }
}

WITH_AVX2 void avx2_block(const cforest *f, cforest_scratch *s, const float *rows, size_t count, size_t stride,
                          int blocks) {
    rank_block(f, s->bytes, rows, count, stride);
    for (int32_t g = 0; g < f->group_count; g++)
        for (int r = 0; r < WIDE; r++) s->totals[g * WIDE + r] = f->base[g];
    if (blocks) memset(s->blocks, 0, CFOREST_EMBEDDING * WIDE * sizeof(float));
    if (f->path == CFOREST_PATH_RANKED) walk_block(f, s, blocks, 6, 1);
    else if (f->levels == 3) walk_block(f, s, blocks, 3, 0);
    else if (f->levels == 4) walk_block(f, s, blocks, 4, 0);
    else if (f->levels == 5) walk_block(f, s, blocks, 5, 0);
    else walk_block(f, s, blocks, 6, 0);
}
