#include "Internal.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define FORM avx2
namespace tideline {
void grow(tl_seeker &seeker);
}

#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)

namespace tideline {
namespace FORM {

/// Sixteen coordinates: the squares of the differences, as eight sums of two.
INLINE __m256i squares(const int16_t *query, const uint8_t *code) {
    const __m256i x = _mm256_sub_epi16(
        _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)code)), _mm256_load_si256((const __m256i *)query));
    return _mm256_madd_epi16(x, x);
}

/// Distances of four codes.
template <int S>
INLINE void four(
    const int16_t *query, const uint8_t *a, const uint8_t *b, const uint8_t *c, const uint8_t *d, uint32_t stride,
    uint32_t *result) {
    __m256i sa = squares(query, a), sb = squares(query, b), sc = squares(query, c), sd = squares(query, d);
    for (uint32_t i = 16; i < (S ? S : stride); i += 16) {
        sa = _mm256_add_epi32(sa, squares(query + i, a + i));
        sb = _mm256_add_epi32(sb, squares(query + i, b + i));
        sc = _mm256_add_epi32(sc, squares(query + i, c + i));
        sd = _mm256_add_epi32(sd, squares(query + i, d + i));
    }
    const __m256i sums = _mm256_hadd_epi32(_mm256_hadd_epi32(sa, sb), _mm256_hadd_epi32(sc, sd));
    _mm_storeu_si128(
        (__m128i *)result, _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1)));
}

/// The low halves of both, then the high halves, as bytes.
INLINE __m256i bytes(__m256i a, __m256i b) { return _mm256_permute4x64_epi64(_mm256_packus_epi16(a, b), 0xD8); }

INLINE uint32_t sum_of(__m256i x) {
    const __m128i a = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    const __m128i b = _mm_add_epi32(a, _mm_shuffle_epi32(a, 0x4E));
    return (uint32_t)_mm_cvtsi128_si32(_mm_add_epi32(b, _mm_shuffle_epi32(b, 0xB1)));
}

/// The groups of thirty-two coordinates.
INLINE void half_worth(__m256i a, __m256i b, __m256i factor, __m256i &total, uint8_t *worth) {
    const __m256i u = bytes(
        _mm256_mulhrs_epi16(_mm256_abs_epi16(a), factor), _mm256_mulhrs_epi16(_mm256_abs_epi16(b), factor));
    const __m256i over = _mm256_permute4x64_epi64(
        _mm256_packs_epi16(
            _mm256_cmpgt_epi16(a, _mm256_setzero_si256()), _mm256_cmpgt_epi16(b, _mm256_setzero_si256())), 0xD8);
    const __m256i set = _mm256_and_si256(u, over), unset = _mm256_andnot_si256(over, u);
    total = _mm256_add_epi64(total, _mm256_sad_epu8(u, _mm256_setzero_si256()));
    // Of each group of four: what it is worth where the sign is set, then where it is not.
    const __m256i low = _mm256_unpacklo_epi32(set, unset), high = _mm256_unpackhi_epi32(set, unset);
    const __m256i pairs[2] = {_mm256_permute2x128_si256(low, high, 0x20), _mm256_permute2x128_si256(low, high, 0x31)};
    const __m256i which[4] = {
        _mm256_broadcastsi128_si256(_mm_setr_epi8(4, 0, 4, 0, 4, 0, 4, 0, 4, 0, 4, 0, 4, 0, 4, 0)),
        _mm256_broadcastsi128_si256(_mm_setr_epi8(5, 5, 1, 1, 5, 5, 1, 1, 5, 5, 1, 1, 5, 5, 1, 1)),
        _mm256_broadcastsi128_si256(_mm_setr_epi8(6, 6, 6, 6, 2, 2, 2, 2, 6, 6, 6, 6, 2, 2, 2, 2)),
        _mm256_broadcastsi128_si256(_mm_setr_epi8(7, 7, 7, 7, 7, 7, 7, 7, 3, 3, 3, 3, 3, 3, 3, 3))};
    for (int quarter = 0; quarter < 4; quarter++) {
        const __m256i from = pairs[quarter / 2];
        const __m256i lanes = quarter % 2 == 0 ? _mm256_permute4x64_epi64(from, 0x50)
                                               : _mm256_permute4x64_epi64(from, 0xFA);
        const __m256i first = _mm256_adds_epu8(
            _mm256_shuffle_epi8(lanes, which[0]), _mm256_shuffle_epi8(lanes, which[1]));
        const __m256i second = _mm256_adds_epu8(
            _mm256_shuffle_epi8(lanes, which[2]), _mm256_shuffle_epi8(lanes, which[3]));
        _mm256_store_si256((__m256i *)(worth + 32 * quarter), _mm256_adds_epu8(first, second));
    }
}

/// As the scalar form says.
template <int BITS>
INLINE uint32_t weigh(const int16_t *query, const uint8_t *code, uint32_t whole, uint8_t *worth) {
    __m256i r[BITS / 16];
    for (int i = 0; i < BITS / 16; i++) {
        r[i] = _mm256_sub_epi16(
            _mm256_load_si256((const __m256i *)(query + 16 * i)),
            _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(code + 16 * i))));
    }
    const __m256i factor = _mm256_set1_epi16((short)whole);
    __m256i total = _mm256_setzero_si256();
    for (int i = 0; i < BITS / 32; i++) half_worth(r[2 * i], r[2 * i + 1], factor, total, worth + 128 * i);
    return sum_of(total);
}

template <int BITS>
INLINE uint64_t promising(const uint8_t *block, const uint8_t *worth, const uint8_t *needed) {
    const __m256i low = _mm256_set1_epi8(15);
    const __m256i need = _mm256_broadcastsi128_si256(_mm_load_si128((const __m128i *)needed));
    const __m256i pairs = _mm256_loadu_si256((const __m256i *)(block + 8 * BITS));
    __m256i sum[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
    for (int b = 0; b < BITS / 8; b++) {
        const __m256i first = _mm256_broadcastsi128_si256(_mm_load_si128((const __m128i *)(worth + 32 * b)));
        const __m256i second = _mm256_broadcastsi128_si256(_mm_load_si128((const __m128i *)(worth + 32 * b + 16)));
        for (int half = 0; half < 2; half++) {
            const __m256i signs = _mm256_loadu_si256((const __m256i *)(block + 64 * b + 32 * half));
            sum[half] = _mm256_adds_epu8(sum[half], _mm256_shuffle_epi8(first, _mm256_and_si256(signs, low)));
            sum[half] = _mm256_adds_epu8(
                sum[half],
                _mm256_shuffle_epi8(second, _mm256_and_si256(_mm256_srli_epi16(signs, 4), low)));
        }
    }
    uint64_t mask = 0;
    for (int half = 0; half < 2; half++) {
        const __m256i levels = _mm256_and_si256(half ? _mm256_srli_epi16(pairs, 4) : pairs, low);
        const __m256i least = _mm256_shuffle_epi8(need, levels);
        const __m256i enough = _mm256_cmpeq_epi8(_mm256_max_epu8(sum[half], least), sum[half]);
        mask |= (uint64_t)(uint32_t)_mm256_movemask_epi8(enough) << 32 * half;
    }
    return mask;
}

static uint64_t above(const uint8_t *a, const uint8_t *b, uint32_t bits) {
    uint64_t mask = 0;
    for (uint32_t d = 0; d < bits; d += 32) {
        const __m256i over = _mm256_subs_epu8(
            _mm256_loadu_si256((const __m256i *)(a + d)), _mm256_loadu_si256((const __m256i *)(b + d)));
        const __m256i none = _mm256_cmpeq_epi8(over, _mm256_setzero_si256());
        mask |= (uint64_t)(uint32_t)~_mm256_movemask_epi8(none) << d;
    }
    return mask;
}

INLINE float total(__m256 x) {
    const __m128 a = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    const __m128 b = _mm_add_ps(a, _mm_movehl_ps(a, a));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_shuffle_ps(b, b, 1)));
}

/// Which of the first 64 distances are at most `far`.
INLINE uint64_t within(const uint32_t *distances, uint32_t count, uint32_t far) {
    const __m256i limit = _mm256_set1_epi32((int)far);
    uint64_t mask = 0;
    for (uint32_t i = 0; i < count && i < 64; i += 8) {
        const __m256i x = _mm256_load_si256((const __m256i *)(distances + i));
        const __m256i near = _mm256_cmpeq_epi32(_mm256_min_epu32(x, limit), x);
        mask |= (uint64_t)(uint32_t)_mm256_movemask_ps(_mm256_castsi256_ps(near)) << i;
    }
    return count < 64 ? mask & ((1ull << count) - 1) : mask;
}

/// Keeps the nearest of a batch among those known, sorted in registers, four in each: no branch asks where one belongs.
template <int R>
INLINE void keep_sorted(tl_seeker &s, const Batch &batch, uint32_t rerank, uint32_t worst) {
    // Comparisons are of signed numbers.
    const __m256i sign = _mm256_set1_epi64x(INT64_MIN);
    auto *best = (__m256i *)s.best.data();
    __m256i x[R];
    for (int r = 0; r < R; r++) x[r] = _mm256_xor_si256(_mm256_loadu_si256(best + r), sign);
    for (uint32_t i = 0; i < batch.count; i += 64) {
        uint64_t near = within(s.distances + i, batch.count - i, worst);
        for (; near != 0; near &= near - 1) {
            const uint32_t j = i + (uint32_t)__builtin_ctzll(near);
            const __m256i key = _mm256_xor_si256(
                _mm256_set1_epi64x((long long)((uint64_t)s.distances[j] << 32 | batch.nodes[j])), sign);
            __m256i known = _mm256_cmpeq_epi64(x[0], key);
            for (int r = 1; r < R; r++) known = _mm256_or_si256(known, _mm256_cmpeq_epi64(x[r], key));
            if (!_mm256_testz_si256(known, known)) continue;
            // Each place that is farther than the new one takes the one before it, or the new one where that is nearer.
            __m256i moved = _mm256_permute4x64_epi64(x[R - 1], 0x93);
            for (int r = R - 1; r >= 0; r--) {
                const __m256i next = r > 0 ? _mm256_permute4x64_epi64(x[r - 1], 0x93) : key;
                const __m256i before = _mm256_blend_epi32(moved, next, 0x03);
                const __m256i greater = _mm256_blendv_epi8(key, before, _mm256_cmpgt_epi64(before, key));
                x[r] = _mm256_blendv_epi8(x[r], greater, _mm256_cmpgt_epi64(x[r], key));
                moved = next;
            }
        }
    }
    const __m256i none = _mm256_set1_epi64x(INT64_MAX);
    uint32_t free = 0;
    for (int r = 0; r < R; r++) {
        free += (uint32_t)__builtin_popcount(
            (uint32_t)_mm256_movemask_pd(_mm256_castsi256_pd(_mm256_cmpeq_epi64(x[r], none))));
        _mm256_storeu_si256(best + r, _mm256_xor_si256(x[r], sign));
    }
    s.best_count = 4 * R - free < rerank ? 4 * R - free : rerank;
}

/// The same for a shortlist of any length; false where it is too long for registers.
INLINE bool keep_all(tl_seeker &s, const tl_seek &o, const Batch &batch, uint32_t worst) {
    if (o.rerank <= 16) keep_sorted<4>(s, batch, o.rerank, worst);
    else if (o.rerank <= 24) keep_sorted<6>(s, batch, o.rerank, worst);
    else if (o.rerank <= SORTED_MAX) keep_sorted<8>(s, batch, o.rerank, worst);
    else return false;
    return true;
}

static float squared_l2(const float *query, const char *vector, uint32_t dimensions) {
    __m256 sum = _mm256_setzero_ps();
    uint32_t d = 0;
    for (; d + 8 <= dimensions; d += 8) {
        const __m256 x = _mm256_sub_ps(_mm256_loadu_ps(query + d), _mm256_loadu_ps((const float *)(vector + 4 * (size_t)d)));
        sum = _mm256_fmadd_ps(x, x, sum);
    }
    float result = total(sum);
    for (; d < dimensions; d++) {
        float y;
        __builtin_memcpy(&y, vector + 4 * (size_t)d, sizeof y);
        result += (query[d] - y) * (query[d] - y);
    }
    return result;
}

static float product(const float *query, const char *vector, uint32_t dimensions) {
    __m256 sum = _mm256_setzero_ps();
    uint32_t d = 0;
    for (; d + 8 <= dimensions; d += 8)
        sum = _mm256_fmadd_ps(_mm256_loadu_ps(query + d), _mm256_loadu_ps((const float *)(vector + 4 * (size_t)d)), sum);
    float result = total(sum);
    for (; d < dimensions; d++) {
        float y;
        __builtin_memcpy(&y, vector + 4 * (size_t)d, sizeof y);
        result += query[d] * y;
    }
    return result;
}

}  // namespace FORM
}  // namespace tideline

#include "body.h"

#pragma clang attribute pop

namespace tideline {
const Kernel avx2_kernel = {avx2::distance, avx2::distances, avx2::squared_l2, avx2::product, avx2::seek, avx2::above};
}
#endif
