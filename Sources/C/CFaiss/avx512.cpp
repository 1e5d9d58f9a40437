#include "Internal.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define FORM avx512
namespace tideline {
void grow(tl_seeker &seeker);
}

#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2"))), apply_to = function)

namespace tideline {
namespace FORM {

/// Thirty-two coordinates: the squares of the differences, as sixteen sums of two.
INLINE __m512i squares(const int16_t *query, const uint8_t *code) {
    const __m512i x = _mm512_sub_epi16(
        _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i *)code)), _mm512_load_si512(query));
    return _mm512_madd_epi16(x, x);
}

INLINE __m256i halves(__m512i x) {
    return _mm256_add_epi32(_mm512_castsi512_si256(x), _mm512_extracti64x4_epi64(x, 1));
}

/// Distances of four codes.
template <int S>
INLINE void four(
    const int16_t *query, const uint8_t *a, const uint8_t *b, const uint8_t *c, const uint8_t *d, uint32_t stride,
    uint32_t *result) {
    __m512i sa = squares(query, a), sb = squares(query, b), sc = squares(query, c), sd = squares(query, d);
    for (uint32_t i = 32; i < (S ? S : stride); i += 32) {
        sa = _mm512_add_epi32(sa, squares(query + i, a + i));
        sb = _mm512_add_epi32(sb, squares(query + i, b + i));
        sc = _mm512_add_epi32(sc, squares(query + i, c + i));
        sd = _mm512_add_epi32(sd, squares(query + i, d + i));
    }
    const __m256i sums = _mm256_hadd_epi32(
        _mm256_hadd_epi32(halves(sa), halves(sb)), _mm256_hadd_epi32(halves(sc), halves(sd)));
    _mm_storeu_si128(
        (__m128i *)result, _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1)));
}

/// Which of the first 64 distances are at most `far`.
INLINE uint64_t within(const uint32_t *distances, uint32_t count, uint32_t far) {
    const __m512i limit = _mm512_set1_epi32((int)far);
    uint64_t mask = 0;
    for (uint32_t i = 0; i < count && i < 64; i += 16)
        mask |= (uint64_t)_mm512_cmple_epu32_mask(_mm512_load_si512(distances + i), limit) << i;
    return count < 64 ? mask & ((1ull << count) - 1) : mask;
}

/// Keeps the nearest of a batch among those known, sorted in registers, eight in each: no branch asks where one belongs.
template <int R>
INLINE void keep_sorted(tl_seeker &s, const tl_seek &o, const Batch &batch, uint32_t worst) {
    uint64_t *best = s.best.data();
    __m512i x[R];
    for (int r = 0; r < R; r++) x[r] = _mm512_loadu_si512(best + 8 * r);
    for (uint32_t i = 0; i < batch.count; i += 64) {
        uint64_t near = within(s.distances + i, batch.count - i, worst);
        for (; near != 0; near &= near - 1) {
            const uint32_t j = i + (uint32_t)__builtin_ctzll(near);
            const __m512i key = _mm512_set1_epi64((long long)((uint64_t)s.distances[j] << 32 | batch.nodes[j]));
            __mmask8 known = 0;
            for (int r = 0; r < R; r++) known |= _mm512_cmpeq_epi64_mask(x[r], key);
            if (known) continue;
            // Each place takes the lesser of what it has and what would move there: the one before it, or the new one.
            for (int r = R - 1; r >= 0; r--) {
                const __m512i before = _mm512_alignr_epi64(x[r], r > 0 ? x[r - 1] : key, 7);
                x[r] = _mm512_min_epu64(x[r], _mm512_max_epu64(before, key));
            }
        }
    }
    uint32_t count = 0;
    for (int r = 0; r < R; r++) {
        _mm512_storeu_si512(best + 8 * r, x[r]);
        count += (uint32_t)__builtin_popcount(_mm512_cmpneq_epi64_mask(x[r], _mm512_set1_epi64(-1)));
    }
    s.best_count = count < o.rerank ? count : o.rerank;
}

/// The same for a shortlist of any length; false where it is too long for registers.
INLINE bool keep_all(tl_seeker &s, const tl_seek &o, const Batch &batch, uint32_t worst) {
    if (o.rerank <= 16) keep_sorted<2>(s, o, batch, worst);
    else if (o.rerank <= 24) keep_sorted<3>(s, o, batch, worst);
    else if (o.rerank <= SORTED_MAX) keep_sorted<4>(s, o, batch, worst);
    else return false;
    return true;
}

INLINE void half_worth(__m512i r, __m512i factor, __m512i &total, uint8_t *worth) {
    const __m256i u = _mm512_cvtusepi16_epi8(_mm512_mulhrs_epi16(_mm512_abs_epi16(r), factor));
    const __mmask32 over = _mm512_cmpgt_epi16_mask(r, _mm512_setzero_si512());
    const __m512i set = _mm512_castsi256_si512(_mm256_maskz_mov_epi8(over, u));
    const __m512i unset = _mm512_castsi256_si512(_mm256_maskz_mov_epi8(~over, u));
    total = _mm512_add_epi64(total, _mm512_sad_epu8(_mm512_zextsi256_si512(u), _mm512_setzero_si512()));
    // Of each group of four: what it is worth where the sign is set, then where it is not.
    const __m512i pairs = _mm512_permutex2var_epi32(
        set, _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23), unset);
    const __m512i which[4] = {
        _mm512_broadcast_i32x4(_mm_setr_epi8(4, 0, 4, 0, 4, 0, 4, 0, 4, 0, 4, 0, 4, 0, 4, 0)),
        _mm512_broadcast_i32x4(_mm_setr_epi8(5, 5, 1, 1, 5, 5, 1, 1, 5, 5, 1, 1, 5, 5, 1, 1)),
        _mm512_broadcast_i32x4(_mm_setr_epi8(6, 6, 6, 6, 2, 2, 2, 2, 6, 6, 6, 6, 2, 2, 2, 2)),
        _mm512_broadcast_i32x4(_mm_setr_epi8(7, 7, 7, 7, 7, 7, 7, 7, 3, 3, 3, 3, 3, 3, 3, 3))};
    for (int half = 0; half < 2; half++) {
        const __m512i lanes = _mm512_permutexvar_epi64(
            half ? _mm512_setr_epi64(4, 4, 5, 5, 6, 6, 7, 7) : _mm512_setr_epi64(0, 0, 1, 1, 2, 2, 3, 3), pairs);
        const __m512i low = _mm512_adds_epu8(_mm512_shuffle_epi8(lanes, which[0]), _mm512_shuffle_epi8(lanes, which[1]));
        const __m512i high = _mm512_adds_epu8(_mm512_shuffle_epi8(lanes, which[2]), _mm512_shuffle_epi8(lanes, which[3]));
        _mm512_store_si512(worth + 64 * half, _mm512_adds_epu8(low, high));
    }
}

/// As the scalar form says.
template <int BITS>
INLINE uint32_t weigh(const int16_t *query, const uint8_t *code, uint32_t whole, uint8_t *worth) {
    __m512i r[BITS / 32];
    for (int i = 0; i < BITS / 32; i++) {
        r[i] = _mm512_sub_epi16(
            _mm512_load_si512(query + 32 * i),
            _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i *)(code + 32 * i))));
    }
    const __m512i factor = _mm512_set1_epi16((short)whole);
    __m512i total = _mm512_setzero_si512();
    for (int i = 0; i < BITS / 32; i++) half_worth(r[i], factor, total, worth + 128 * i);
    return (uint32_t)_mm512_reduce_add_epi64(total);
}

template <int BITS>
INLINE uint64_t promising(const uint8_t *block, const uint8_t *worth, const uint8_t *needed) {
    const __m512i low = _mm512_set1_epi8(15);
    __m512i sum = _mm512_setzero_si512();
    for (int b = 0; b < BITS / 8; b++) {
        const __m512i signs = _mm512_loadu_si512(block + 64 * b);
        const __m512i first = _mm512_broadcast_i32x4(_mm_load_si128((const __m128i *)(worth + 32 * b)));
        const __m512i second = _mm512_broadcast_i32x4(_mm_load_si128((const __m128i *)(worth + 32 * b + 16)));
        sum = _mm512_adds_epu8(sum, _mm512_shuffle_epi8(first, _mm512_and_si512(signs, low)));
        sum = _mm512_adds_epu8(
            sum, _mm512_shuffle_epi8(second, _mm512_and_si512(_mm512_srli_epi16(signs, 4), low)));
    }
    const __m256i pairs = _mm256_loadu_si256((const __m256i *)(block + 8 * BITS));
    const __m512i levels = _mm512_and_si512(
        _mm512_inserti64x4(_mm512_castsi256_si512(pairs), _mm256_srli_epi16(pairs, 4), 1), low);
    const __m512i least = _mm512_shuffle_epi8(
        _mm512_broadcast_i32x4(_mm_load_si128((const __m128i *)needed)), levels);
    return _mm512_cmpge_epu8_mask(sum, least);
}

static uint64_t above(const uint8_t *a, const uint8_t *b, uint32_t bits) {
    if (bits == 32)
        return _mm256_cmpgt_epu8_mask(_mm256_loadu_si256((const __m256i *)a), _mm256_loadu_si256((const __m256i *)b));
    return _mm512_cmpgt_epu8_mask(_mm512_loadu_si512(a), _mm512_loadu_si512(b));
}

static float squared_l2(const float *query, const char *vector, uint32_t dimensions) {
    __m512 sum = _mm512_setzero_ps();
    uint32_t d = 0;
    for (; d + 16 <= dimensions; d += 16) {
        const __m512 x = _mm512_sub_ps(_mm512_loadu_ps(query + d), _mm512_loadu_ps(vector + 4 * (size_t)d));
        sum = _mm512_fmadd_ps(x, x, sum);
    }
    if (d < dimensions) {
        const __mmask16 rest = (__mmask16)((1u << (dimensions - d)) - 1);
        const __m512 x = _mm512_sub_ps(
            _mm512_maskz_loadu_ps(rest, query + d), _mm512_maskz_loadu_ps(rest, vector + 4 * (size_t)d));
        sum = _mm512_fmadd_ps(x, x, sum);
    }
    return _mm512_reduce_add_ps(sum);
}

static float product(const float *query, const char *vector, uint32_t dimensions) {
    __m512 sum = _mm512_setzero_ps();
    uint32_t d = 0;
    for (; d + 16 <= dimensions; d += 16)
        sum = _mm512_fmadd_ps(_mm512_loadu_ps(query + d), _mm512_loadu_ps(vector + 4 * (size_t)d), sum);
    if (d < dimensions) {
        const __mmask16 rest = (__mmask16)((1u << (dimensions - d)) - 1);
        sum = _mm512_fmadd_ps(
            _mm512_maskz_loadu_ps(rest, query + d), _mm512_maskz_loadu_ps(rest, vector + 4 * (size_t)d), sum);
    }
    return _mm512_reduce_add_ps(sum);
}

}  // namespace FORM
}  // namespace tideline

#include "body.h"

#pragma clang attribute pop

namespace tideline {
const Kernel avx512_kernel = {avx512::distance, avx512::distances, avx512::squared_l2, avx512::product, avx512::seek, avx512::above};
}
#endif
