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
const Kernel avx512_kernel = {avx512::distance, avx512::squared_l2, avx512::product, avx512::seek};
}
#endif
