#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <new>

#include "Internal.h"

namespace tideline {

Pages::Pages(size_t size) : size(size) {
    if (size == 0) return;
    void *memory = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    if (size >= 1 << 21) madvise(memory, size, MADV_HUGEPAGE);
    data = (uint8_t *)memory;
}

Pages &Pages::operator=(Pages &&other) noexcept {
    std::swap(data, other.data);
    std::swap(size, other.size);
    return *this;
}

Pages::~Pages() {
    if (data != nullptr) munmap(data, size);
}

static float at(const char *rows, size_t place) {
    float value;
    std::memcpy(&value, rows + place * sizeof(float), sizeof value);
    return value;
}

/// One stage after another of the Walsh-Hadamard transform, each in the order that reads halves and writes pairs.
template <int N>
static void hadamard(float *x) {
    float y[N];
    for (int half = 1; half < N; half *= 2) {
        for (int i = 0; i < N / 2; i++) {
            y[2 * i] = x[i] + x[i + N / 2];
            y[2 * i + 1] = x[i] - x[i + N / 2];
        }
        std::memcpy(x, y, sizeof y);
    }
}

/// 1 or −1, without a pattern.
static float sign(uint32_t round, uint32_t d) {
    uint64_t x = (uint64_t)(round + 1) * 0x9E3779B97F4A7C15u + d * 0xD6E8FEB86659FD93u;
    x = (x ^ x >> 32) * 0xD6E8FEB86659FD93u;
    return (x >> 40 & 1) != 0 ? -1.0f : 1.0f;
}

namespace {
struct Signs {
    float of[2][CODE_MAX];
    Signs() {
        for (uint32_t round = 0; round < 2; round++)
            for (uint32_t d = 0; d < CODE_MAX; d++) of[round][d] = sign(round, d);
    }
};
}  // namespace

/// Turns a vector about the origin: all of its coordinates say equally much afterwards, and as much as they can.
static void turn_in_place(float *x, uint32_t stride) {
    static const Signs signs;
    if (stride == 32) {
        for (uint32_t d = 0; d < 32; d++) x[d] *= signs.of[0][d];
        hadamard<32>(x);
        for (uint32_t d = 0; d < 32; d++) x[d] *= 0.17677669529663687f;
        return;
    }
    const uint32_t blocks = stride / 64;
    float moved[CODE_MAX];
    for (uint32_t round = 0; round < (blocks > 1 ? 2 : 1); round++) {
        for (uint32_t d = 0; d < stride; d++) x[d] *= signs.of[round][d] * 0.125f;
        for (uint32_t block = 0; block < blocks; block++) hadamard<64>(x + 64 * block);
        if (blocks == 1) return;
        // Each block gets some of every block.
        for (uint32_t d = 0; d < stride; d++) moved[d / blocks + 64 * (d % blocks)] = x[d];
        std::memcpy(x, moved, stride * sizeof(float));
    }
}

double Codes::turn(const char *row, float *turned) const {
    std::memcpy(turned, row, dimensions * sizeof(float));
    double norm2 = 0;
    for (uint32_t d = 0; d < dimensions; d++) norm2 += (double)turned[d] * (double)turned[d];
    for (uint32_t d = dimensions; d < stride; d++) turned[d] = 0;
    if (width > dimensions) turned[dimensions] = (float)std::sqrt(std::max(0.0, radius2 - norm2));
    turn_in_place(turned, stride);
    return norm2;
}

/// Offsets and step, from sampled rows: a few coordinates far outside must not make the step coarse for all.
void Codes::measure(const char *rows) {
    const uint32_t wanted = std::min(count, 8000u);
    const uint32_t every = count / wanted;
    std::vector<float> values((size_t)wanted * stride);
    float turned[CODE_MAX];
    for (uint32_t i = 0; i < wanted; i++) {
        turn(rows + (size_t)i * every * dimensions * sizeof(float), turned);
        for (uint32_t d = 0; d < stride; d++) values[(size_t)d * wanted + i] = turned[d];
    }
    std::vector<float> high(stride);
    float range = 0;
    const uint32_t cut = wanted / 1000;
    for (uint32_t d = 0; d < stride; d++) {
        const auto first = values.begin() + (size_t)d * wanted, end = first + wanted;
        std::nth_element(first, first + cut, end);
        const float low = first[cut], least = *std::min_element(first, first + cut + 1);
        std::nth_element(first, end - 1 - cut, end);
        const float top = end[-1 - (int)cut], most = *std::max_element(end - 1 - cut, end);
        const float slack = (top - low) / 4;
        offset[d] = std::max(least, low - slack);
        high[d] = std::min(most, top + slack);
        range = std::max(range, high[d] - offset[d]);
    }
    step = range > 0 ? range / 255 : 1;
    if (!(step > 1e-30f)) step = 1e-30f;
    // In the middle of what a byte holds.
    for (uint32_t d = 0; d < stride; d++) offset[d] -= (255 * step - (high[d] - offset[d])) / 2;
}

Codes::Codes(const char *rows, uint32_t count, uint32_t dimensions, enum tl_graph_metric metric)
    : count(count), dimensions(dimensions), metric(metric), width(dimensions + (metric == TL_GRAPH_INNER_PRODUCT)) {
    stride = width <= 32 ? 32 : (width + 63) / 64 * 64;
    offset.resize(stride);
    double norms = 0;
    for (uint32_t i = 0; i < count; i++) {
        double norm2 = 0;
        for (uint32_t d = 0; d < dimensions; d++) norm2 += (double)at(rows, (size_t)i * dimensions + d)
            * (double)at(rows, (size_t)i * dimensions + d);
        if (!(norm2 < 1e38)) throw std::invalid_argument("a vector is not finite");
        radius2 = std::max(radius2, norm2);
        norms += std::sqrt(norm2);
    }
    query_norm = norms / count;
    measure(rows);
    data = Pages((size_t)count * stride);
    const float factor = 1 / step;
    float turned[CODE_MAX];
    for (uint32_t i = 0; i < count; i++) {
        uint8_t *code = data.data + (size_t)i * stride;
        turn(rows + (size_t)i * dimensions * sizeof(float), turned);
        for (uint32_t d = 0; d < stride; d++)
            code[d] = (uint8_t)std::min(255.0f, std::max(0.0f, (turned[d] - offset[d]) * factor + 0.5f));
    }
}

void Codes::encode_query(const float *query, int16_t *code) const {
    float turned[CODE_MAX];
    std::memcpy(turned, query, dimensions * sizeof(float));
    for (uint32_t d = dimensions; d < stride; d++) turned[d] = 0;
    if (metric == TL_GRAPH_INNER_PRODUCT) {
        double norm2 = 0;
        for (uint32_t d = 0; d < dimensions; d++) norm2 += (double)query[d] * query[d];
        const double scale = norm2 > 0 ? query_norm / std::sqrt(norm2) : 1;
        for (uint32_t d = 0; d < dimensions; d++) turned[d] = (float)(query[d] * scale);
    }
    turn_in_place(turned, stride);
    // No sum of squares of differences leaves 31 bits.
    const float most = std::floor(std::sqrt(2147483647.0f / (float)stride)) - 1;
    const float limit = std::min(16000.0f, most - 255);
    const float factor = 1 / step;
    for (uint32_t d = 0; d < stride; d++) {
        const float value = std::min(255 + limit, std::max(-limit, (turned[d] - offset[d]) * factor));
        // To the nearest whole number, which then are the lowest bits.
        const float rounded = value + 12582912.0f;
        int32_t bits;
        std::memcpy(&bits, &rounded, sizeof bits);
        code[d] = (int16_t)(bits - 0x4B400000);
    }
}

}  // namespace tideline
