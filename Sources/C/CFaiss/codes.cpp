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

/// Offsets and step, from sampled rows: a few coordinates far outside must not make the step coarse for all.
void Codes::measure(const char *rows) {
    const uint32_t wanted = std::min(count, 20000u);
    const uint32_t every = count / wanted;
    std::vector<float> values(wanted);
    std::vector<float> high(width);
    float range = 0;
    for (uint32_t d = 0; d < width; d++) {
        for (uint32_t i = 0; i < wanted; i++) {
            const size_t row = (size_t)i * every;
            if (d < dimensions) {
                values[i] = at(rows, row * dimensions + d);
            } else {
                double norm2 = 0;
                for (uint32_t j = 0; j < dimensions; j++) norm2 += std::pow((double)at(rows, row * dimensions + j), 2);
                values[i] = (float)std::sqrt(std::max(0.0, radius2 - norm2));
            }
        }
        std::sort(values.begin(), values.end());
        const uint32_t cut = wanted / 1000;
        const float low = values[cut], top = values[wanted - 1 - cut], slack = (top - low) / 4;
        offset[d] = std::max(values[0], low - slack);
        high[d] = std::min(values[wanted - 1], top + slack);
        range = std::max(range, high[d] - offset[d]);
    }
    step = range > 0 ? range / 255 : 1;
    if (!(step > 1e-30f)) step = 1e-30f;
    // In the middle of what a byte holds.
    for (uint32_t d = 0; d < width; d++) offset[d] -= (255 * step - (high[d] - offset[d])) / 2;
}

Codes::Codes(const char *rows, uint32_t count, uint32_t dimensions, enum tl_graph_metric metric)
    : count(count), dimensions(dimensions), metric(metric), width(dimensions + (metric == TL_GRAPH_INNER_PRODUCT)) {
    stride = width <= 32 ? 32 : (width + 63) / 64 * 64;
    offset.resize(width);
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
    for (uint32_t i = 0; i < count; i++) {
        uint8_t *code = data.data + (size_t)i * stride;
        double norm2 = 0;
        for (uint32_t d = 0; d < dimensions; d++) {
            const float value = at(rows, (size_t)i * dimensions + d);
            norm2 += (double)value * value;
            code[d] = (uint8_t)std::min(255.0f, std::max(0.0f, (value - offset[d]) * factor + 0.5f));
        }
        if (width > dimensions) {
            const float value = (float)std::sqrt(std::max(0.0, radius2 - norm2));
            code[dimensions] = (uint8_t)std::min(255.0f, std::max(0.0f, (value - offset[dimensions]) * factor + 0.5f));
        }
    }
}

void Codes::encode_query(const float *query, int16_t *code) const {
    double scale = 1;
    if (metric == TL_GRAPH_INNER_PRODUCT) {
        double norm2 = 0;
        for (uint32_t d = 0; d < dimensions; d++) norm2 += (double)query[d] * query[d];
        if (norm2 > 0) scale = query_norm / std::sqrt(norm2);
    }
    // No sum of squares of differences leaves 31 bits.
    const float most = std::floor(std::sqrt(2147483647.0f / (float)width)) - 1;
    const float limit = std::min(16000.0f, most - 255);
    const float factor = 1 / step;
    for (uint32_t d = 0; d < width; d++) {
        const float value = d < dimensions ? (float)(query[d] * scale) : 0;
        code[d] = (int16_t)std::lrintf(std::min(255 + limit, std::max(-limit, (value - offset[d]) * factor)));
    }
    for (uint32_t d = width; d < stride; d++) code[d] = 0;
}

}  // namespace tideline
