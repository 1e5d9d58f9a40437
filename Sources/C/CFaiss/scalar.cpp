#include <cstdlib>

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

INLINE uint8_t most(uint32_t x) { return (uint8_t)(x < 255 ? x : 255); }

/// Fills `worth` for what lies between a node and the query: entry v of group g is what the signs v are worth there, in
/// parts of 32768 / `factor`; bytes that hold no more than 255. Returns what all of it is worth.
template <int BITS>
INLINE uint32_t weigh(const int16_t *query, const uint8_t *code, uint32_t factor, uint8_t *worth) {
    uint32_t total = 0;
    for (int g = 0; g < BITS / 4; g++) {
        for (int v = 0; v < 16; v++) worth[16 * g + v] = 0;
        for (int j = 0; j < 4; j++) {
            const int r = query[4 * g + j] - code[4 * g + j];
            const uint32_t u = most(((uint32_t)std::abs(r) * factor + 16384) >> 15);
            total += u;
            for (int v = 0; v < 16; v++) if ((v >> j & 1) == (r > 0)) worth[16 * g + v] = most(worth[16 * g + v] + u);
        }
    }
    return total;
}

/// Which of a block's 64 links are worth what they need.
template <int BITS>
INLINE uint64_t promising(const uint8_t *block, const uint8_t *worth, const uint8_t *needed) {
    uint64_t mask = 0;
    for (int j = 0; j < 64; j++) {
        uint32_t sum = 0;
        for (int b = 0; b < BITS / 8; b++) {
            const uint8_t signs = block[64 * b + j];
            sum += worth[32 * b + (signs & 15)] + worth[32 * b + 16 + (signs >> 4)];
        }
        mask |= (uint64_t)(most(sum) >= needed[block[8 * BITS + j % 32] >> (j / 32 * 4) & 15]) << j;
    }
    return mask;
}

static uint64_t above(const uint8_t *a, const uint8_t *b, uint32_t bits) {
    uint64_t mask = 0;
    for (uint32_t d = 0; d < bits; d++) mask |= (uint64_t)(a[d] > b[d]) << d;
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

/// One by one, by `keep`.
INLINE bool keep_all(tl_seeker &, const tl_seek &, const Batch &, uint32_t) { return false; }

}  // namespace FORM
}  // namespace tideline

#include "body.h"

namespace tideline {
const Kernel scalar_kernel = {scalar::distance, scalar::distances, scalar::squared_l2, scalar::product, scalar::seek, scalar::above};
}
