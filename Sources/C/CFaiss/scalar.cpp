#include "Internal.h"

#define FORM scalar
namespace tideline {

/// Room for more candidates.
void grow(tl_seeker &seeker) { seeker.heap.resize(seeker.heap.size() * 2); }

namespace FORM {

INLINE uint32_t single(const int16_t *query, const uint8_t *code, uint32_t stride) {
    int32_t sum = 0;
    for (uint32_t i = 0; i < stride; i++) sum += (query[i] - code[i]) * (query[i] - code[i]);
    return (uint32_t)sum;
}

template <int S>
INLINE void four(
    const int16_t *query, const uint8_t *a, const uint8_t *b, const uint8_t *c, const uint8_t *d, uint32_t stride,
    uint32_t *result) {
    result[0] = single(query, a, S ? S : stride);
    result[1] = single(query, b, S ? S : stride);
    result[2] = single(query, c, S ? S : stride);
    result[3] = single(query, d, S ? S : stride);
}

/// Which of the first 64 distances are at most `far`.
INLINE uint64_t within(const uint32_t *distances, uint32_t count, uint32_t far) {
    uint64_t mask = 0;
    for (uint32_t i = 0; i < count && i < 64; i++) mask |= (uint64_t)(distances[i] <= far) << i;
    return mask;
}

static float squared_l2(const float *query, const char *vector, uint32_t dimensions) {
    float sum = 0;
    for (uint32_t d = 0; d < dimensions; d++) {
        float y;
        std::memcpy(&y, vector + 4 * (size_t)d, sizeof y);
        sum += (query[d] - y) * (query[d] - y);
    }
    return sum;
}

static float product(const float *query, const char *vector, uint32_t dimensions) {
    float sum = 0;
    for (uint32_t d = 0; d < dimensions; d++) {
        float y;
        std::memcpy(&y, vector + 4 * (size_t)d, sizeof y);
        sum += query[d] * y;
    }
    return sum;
}

}  // namespace FORM
}  // namespace tideline

#include "body.h"

namespace tideline {
const Kernel scalar_kernel = {scalar::distance, scalar::squared_l2, scalar::product, scalar::seek};
}
