#include "Internal.h"

#include <immintrin.h>
#include <string.h>

// 64 rows abreast, or one row with the answers of a tree in one mask.

#define WITH_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,popcnt")))
#define INLINE_AVX512 static inline __attribute__((always_inline)) WITH_AVX512

/// One step down the search tree: twice the index, and one more where the threshold is not above the value.
INLINE_AVX512 __m512i down(__m512i at, __m512 threshold, __m512 x) {
    __mmask16 passed = _mm512_cmp_ps_mask(threshold, x, _CMP_LE_OQ);
    __m512i twice = _mm512_add_epi32(at, at);
    return _mm512_mask_add_epi32(twice, passed, twice, _mm512_set1_epi32(1));
}

INLINE_AVX512 __m512 pick32(const float *table, __m512i at) {
    return _mm512_permutex2var_ps(_mm512_load_ps(table), at, _mm512_load_ps(table + 16));
}

INLINE_AVX512 __m512 pick64(const float *table, __m512i at) {
    __mmask16 upper = _mm512_test_epi32_mask(at, _mm512_set1_epi32(32));
    return _mm512_mask_blend_ps(upper, pick32(table, at), pick32(table + 32, at));
}

INLINE_AVX512 __m512 pick128(const float *table, __m512i at) {
    __mmask16 upper = _mm512_test_epi32_mask(at, _mm512_set1_epi32(64));
    return _mm512_mask_blend_ps(upper, pick64(table, at), pick64(table + 64, at));
}

/// Ranks of 64 values of one feature, as four registers of 16.
INLINE_AVX512 void ranks(const used_feature *u, const float *table, const __m512 x[4], __m512i at[4]) {
    int32_t levels = u->levels;
    __m512 head = _mm512_load_ps(table);
    for (int i = 0; i < 4; i++) at[i] = _mm512_set1_epi32(1);
    int32_t small = levels < 4 ? levels : 4;
    for (int32_t l = 0; l < small; l++)
        for (int i = 0; i < 4; i++) at[i] = down(at[i], _mm512_permutexvar_ps(at[i], head), x[i]);
    if (levels > 4) {
        __m512 next = _mm512_load_ps(table + 16);
        for (int i = 0; i < 4; i++) at[i] = down(at[i], _mm512_permutexvar_ps(at[i], next), x[i]);
    }
    if (levels > 5)
        for (int i = 0; i < 4; i++) at[i] = down(at[i], pick32(table + 32, at[i]), x[i]);
    if (levels > 6)
        for (int i = 0; i < 4; i++) at[i] = down(at[i], pick64(table + 64, at[i]), x[i]);
    if (levels > 7)
        for (int i = 0; i < 4; i++) at[i] = down(at[i], pick128(table + 128, at[i]), x[i]);
    for (int32_t l = 8; l < levels; l++)
        for (int i = 0; i < 4; i++) at[i] = down(at[i], _mm512_i32gather_ps(at[i], table, 4), x[i]);
    __m512i first = _mm512_set1_epi32(1 << levels);
    for (int i = 0; i < 4; i++) at[i] = _mm512_sub_epi32(at[i], first);
}

WITH_AVX512 static void rank_block(const cforest *f, uint8_t *bytes, const float *rows, size_t count, size_t stride) {
    __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    __m512i place[4];
    for (int i = 0; i < 4; i++) {
        // Rows beyond the last one repeat it.
        __m512i row = _mm512_add_epi32(lane, _mm512_set1_epi32(16 * i));
        row = _mm512_min_epi32(row, _mm512_set1_epi32((int)count - 1));
        place[i] = _mm512_mullo_epi32(row, _mm512_set1_epi32((int)stride));
    }
    for (int32_t k = 0; k < f->used_count; k++) {
        const used_feature *u = &f->used[k];
        __m512 x[4];
        __m512i at[4];
        for (int i = 0; i < 4; i++) x[i] = _mm512_i32gather_ps(place[i], rows + u->feature, 4);
        ranks(u, f->search + u->search, x, at);
        if (u->plain) {
            uint8_t *left = bytes + (size_t)u->only[0] * WIDE, *right = bytes + (size_t)u->only[1] * WIDE;
            for (int i = 0; i < 4; i++) {
                __mmask16 missing = _mm512_cmp_ps_mask(x[i], x[i], _CMP_UNORD_Q);
                _mm_store_si128((__m128i *)(left + 16 * i), _mm512_cvtepi32_epi8(at[i]));
                __m512i other = _mm512_mask_mov_epi32(at[i], missing, _mm512_set1_epi32(255));
                _mm_store_si128((__m128i *)(right + 16 * i), _mm512_cvtepi32_epi8(other));
            }
            continue;
        }
        float values[WIDE];
        int32_t rank[WIDE];
        for (int i = 0; i < 4; i++) _mm512_storeu_ps(values + 16 * i, x[i]), _mm512_storeu_si512(rank + 16 * i, at[i]);
        for (int r = 0; r < WIDE; r++) fill_other_columns(f, u, values[r], rank[r], bytes + r, WIDE);
    }
}

INLINE_AVX512 __mmask64 right_of(const uint8_t *bytes, const uint32_t *offsets, const uint8_t *ks, int node) {
    __m512i k = _mm512_set1_epi8((char)ks[node]);
    return _mm512_cmpgt_epu8_mask(_mm512_load_si512((const void *)(bytes + offsets[node])), k);
}

// `lower_n(j)`: where in the subtree of n levels below heap node j each row ends.
INLINE_AVX512 __m512i lower1(const uint8_t *bytes, const uint32_t *offsets, const uint8_t *ks, int j) {
    return _mm512_maskz_mov_epi8(right_of(bytes, offsets, ks, j), _mm512_set1_epi8(1));
}

#define LOWER(n, below, bit)                                                                                           \
    INLINE_AVX512 __m512i lower##n(const uint8_t *bytes, const uint32_t *offsets, const uint8_t *ks, int j) {          \
        __m512i left = lower##below(bytes, offsets, ks, 2 * j), right = lower##below(bytes, offsets, ks, 2 * j + 1);   \
        return _mm512_mask_add_epi8(left, right_of(bytes, offsets, ks, j), right, _mm512_set1_epi8(bit));              \
    }
LOWER(2, 1, 2)
LOWER(3, 2, 4)
LOWER(4, 3, 8)
LOWER(5, 4, 16)
LOWER(6, 5, 32)

INLINE_AVX512 __m512i lower(const uint8_t *bytes, const uint32_t *offsets, const uint8_t *ks, int levels) {
    switch (levels) {
    case 3: return lower3(bytes, offsets, ks, 1);
    case 4: return lower4(bytes, offsets, ks, 1);
    case 5: return lower5(bytes, offsets, ks, 1);
    default: return lower6(bytes, offsets, ks, 1);
    }
}

INLINE_AVX512 __m512 exit_of(const float *exits, __m512i at, int levels) {
    if (levels <= 4) return _mm512_permutexvar_ps(at, _mm512_load_ps(exits));
    return levels == 5 ? pick32(exits, at) : pick64(exits, at);
}

/// From the nodes where the first levels end, all 64 rows go down the rest a level at a time.
INLINE_AVX512 void go_on(const cforest *f, int32_t t, const uint8_t *bytes, int32_t *walk, float *values) {
    const ranked_node *nodes = f->ranked;
    for (int32_t d = LEVELS; d < f->tree_depth[t]; d++)
        for (int r = 0; r < WIDE; r++) {
            ranked_node n = nodes[walk[r]];
            walk[r] = n.left + (bytes[(size_t)n.column * WIDE + r] > n.k);
        }
    for (int r = 0; r < WIDE; r++) values[r] = f->plain[walk[r]].value;
}

/// Adds the leaf values of every tree to its total and, where asked for, to its block of the embedding.
INLINE_AVX512 void walk_block(const cforest *f, cforest_scratch *s, int blocks, int levels, int deep) {
    const uint8_t *bytes = s->bytes;
    _Alignas(64) uint8_t places[WIDE];
    _Alignas(64) float values[WIDE];
    for (int32_t t = 0; t < f->tree_count; t++) {
        float *total = s->totals + (size_t)f->tree_group[t] * WIDE;
        float *block = s->blocks + (size_t)f->block[t] * WIDE;
        size_t base = (size_t)t * 64;
        const float *exits = &f->exits[base].value;
        _mm512_store_si512((void *)places, lower(bytes, f->offsets + base, f->ks + base, levels));
        if (deep) {
            for (int i = 0; i < WIDE; i += 16) {
                __m512i at = _mm512_cvtepu8_epi32(_mm_load_si128((const __m128i *)(places + i)));
                _mm512_store_ps((float *)s->walk + i, exit_of(exits, at, levels));
            }
            go_on(f, t, bytes, s->walk, values);
        }
        for (int i = 0; i < WIDE; i += 16) {
            __m512i at = _mm512_cvtepu8_epi32(_mm_load_si128((const __m128i *)(places + i)));
            __m512 v = deep ? _mm512_load_ps(values + i) : exit_of(exits, at, levels);
            _mm512_store_ps(total + i, _mm512_add_ps(_mm512_load_ps(total + i), v));
            if (blocks) _mm512_store_ps(block + i, _mm512_add_ps(_mm512_load_ps(block + i), v));
        }
    }
}

WITH_AVX512 void avx512_block(const cforest *f, cforest_scratch *s, const float *rows, size_t count, size_t stride,
                              int blocks) {
    rank_block(f, s->bytes, rows, count, stride);
    for (int32_t g = 0; g < f->group_count; g++)
        for (int r = 0; r < WIDE; r += 16) _mm512_store_ps(s->totals + g * WIDE + r, _mm512_set1_ps(f->base[g]));
    if (blocks) memset(s->blocks, 0, CFOREST_EMBEDDING * WIDE * sizeof(float));
    if (f->path == CFOREST_PATH_RANKED) walk_block(f, s, blocks, 6, 1);
    else if (f->levels == 3) walk_block(f, s, blocks, 3, 0);
    else if (f->levels == 4) walk_block(f, s, blocks, 4, 0);
    else if (f->levels == 5) walk_block(f, s, blocks, 5, 0);
    else walk_block(f, s, blocks, 6, 0);
}

INLINE_AVX512 void rank_single(const cforest *f, const float *row, uint8_t *out) {
    for (int32_t i = 0; i < f->used_count; i++) {
        const used_feature *u = &f->used[i];
        float x = row[u->feature];
        uint32_t rank;
        if (u->wide >= 0) {
            const float *table = f->wide + u->wide;
            __m512 v = _mm512_set1_ps(x);
            uint32_t segment = _mm_popcnt_u32(_mm512_cmp_ps_mask(_mm512_load_ps(table), v, _CMP_LE_OQ));
            __m512 fine = _mm512_load_ps(table + 16 + 16 * segment);
            rank = 16 * segment + _mm_popcnt_u32(_mm512_cmp_ps_mask(fine, v, _CMP_LE_OQ));
        } else {
            const float *table = f->search + u->search;
            uint32_t at = 1;
            for (int32_t l = 0; l < u->levels; l++) at = 2 * at + (table[at] <= x);
            rank = at - (1u << u->levels);
        }
        if (u->plain) {
            out[u->only[0]] = (uint8_t)rank;
            out[u->only[1]] = x != x ? 255 : (uint8_t)rank;
        } else {
            fill_other_columns(f, u, x, (int32_t)rank, out, 1);
        }
    }
}

INLINE_AVX512 void walk_single(const cforest *f, cforest_scratch *s, float *totals, float *embedding, int registers,
                               int levels, int deep) {
    const uint8_t *bytes = s->single;
    __m512i c0 = _mm512_load_si512((const void *)bytes), c1 = c0, c2 = c0, c3 = c0;
    if (registers > 1) c1 = _mm512_load_si512((const void *)(bytes + 64));
    if (registers > 2) {
        c2 = _mm512_load_si512((const void *)(bytes + 128));
        c3 = _mm512_load_si512((const void *)(bytes + 192));
    }
    // All masks first, then all walks: eight masks stored and loaded at once as one register would wait for each other.
    uint64_t *masks = s->masks;
    for (int32_t t = 0; t < f->tree_count; t++) {
        size_t base = (size_t)t * 64;
        __m512i where = _mm512_load_si512((const void *)(f->single_columns + base)), b;
        if (registers == 1) {
            b = _mm512_permutexvar_epi8(where, c0);
        } else {
            b = _mm512_permutex2var_epi8(c0, where, c1);
            if (registers > 2)
                b = _mm512_mask_blend_epi8(_mm512_movepi8_mask(where), b, _mm512_permutex2var_epi8(c2, where, c3));
        }
        masks[t] = _mm512_cmpgt_epu8_mask(b, _mm512_load_si512((const void *)(f->ks + base)));
    }
    const __m512i one = _mm512_set1_epi64(1);
    const __m512i start = _mm512_sub_epi64(_mm512_setr_epi64(0, 64, 128, 192, 256, 320, 384, 448),
                                           _mm512_set1_epi64(1 << levels));
    float first = totals[0];
    for (int32_t t = 0; t < f->tree_count; t += EIGHT) {
        __m512i m = _mm512_load_si512((const void *)(masks + t)), at = one;
        for (int d = 0; d < levels; d++) {
            __m512i bit = _mm512_and_si512(_mm512_srlv_epi64(m, at), one);
            at = _mm512_add_epi64(_mm512_add_epi64(at, at), bit);
        }
        float v[EIGHT];
        at = _mm512_add_epi64(at, start);
        __m256 exits = _mm512_i64gather_ps(at, &f->exits[(size_t)t * 64].value, 4);
        int32_t here = f->tree_count - t < EIGHT ? f->tree_count - t : EIGHT;
        if (deep) {
            int32_t node[EIGHT], depth = 0;
            _mm256_storeu_si256((__m256i *)node, _mm256_castps_si256(exits));
            for (int32_t i = 0; i < here; i++) depth = f->tree_depth[t + i] > depth ? f->tree_depth[t + i] : depth;
            for (int32_t d = LEVELS; d < depth; d++)
                for (int i = 0; i < EIGHT; i++) {
                    ranked_node n = f->ranked[node[i]];
                    node[i] = n.left + (bytes[n.column] > n.k);
                }
            for (int i = 0; i < EIGHT; i++) v[i] = f->plain[node[i]].value;
        } else {
            _mm256_storeu_ps(v, exits);
        }
        if (here == EIGHT) add_leaves(f, t, EIGHT, v, &first, totals, embedding);
        else add_leaves(f, t, here, v, &first, totals, embedding);
    }
    if (f->group_count == 1) totals[0] = first;
}

WITH_AVX512 void avx512_single(const cforest *f, cforest_scratch *s, const float *row, float *totals,
                               float *embedding) {
    rank_single(f, row, s->single);
    memcpy(totals, f->base, f->group_count * sizeof(float));
    if (embedding) memset(embedding, 0, CFOREST_EMBEDDING * sizeof(float));
    int deep = f->path == CFOREST_PATH_RANKED;
    if (f->levels == 6 && !deep) {
        if (f->column_count <= 64) walk_single(f, s, totals, embedding, 1, 6, 0);
        else if (f->column_count <= 128) walk_single(f, s, totals, embedding, 2, 6, 0);
        else walk_single(f, s, totals, embedding, 4, 6, 0);
    } else if (f->column_count <= 128) {
        walk_single(f, s, totals, embedding, 2, f->levels, deep);
    } else {
        walk_single(f, s, totals, embedding, 4, f->levels, deep);
    }
}
