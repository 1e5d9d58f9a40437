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

INLINE float total(__m256 x) {
    const __m128 a = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    const __m128 b = _mm_add_ps(a, _mm_movehl_ps(a, a));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_shuffle_ps(b, b, 1)));
}

/// Which of the first 64 distances are at most `far`.
INLINE uint64_t within(const uint32_t *distances, uint32_t count, uint32_t far) {
    uint64_t mask = 0;
    for (uint32_t i = 0; i < count && i < 64; i++) mask |= (uint64_t)(distances[i] <= far) << i;
    return mask;
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
const Kernel avx2_kernel = {avx2::distance, avx2::squared_l2, avx2::product, avx2::seek};
}
#endif
