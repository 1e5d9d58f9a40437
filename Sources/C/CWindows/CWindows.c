#include "CWindows.h"

#include <math.h>
#include <string.h>

#if defined(__x86_64__)
#define TARGET(x) __attribute__((target(x)))
#else
#define TARGET(x)
#endif

enum { ROW_HEAD = 8, ROW_MEASURE = 28 };

// Columns of a level: index[n], count[n], then per measure count[n], max[n], min[n], sum[n], square[n] (the doubles
// stay aligned because n is at least 8), then sketches [n][32] per distinct.
static inline size_t measure_bytes(uint32_t n) { return (size_t)n * (4 + 4 + 4 + 8 + 8); }

typedef struct {
    uint32_t *count;
    float *max;
    float *min;
    double *sum;
    double *square;
} measure_t;

static inline measure_t measure_at(const uint8_t *level, uint32_t n, uint32_t m) {
    uint8_t *p = (uint8_t *)level + (size_t)n * 8 + measure_bytes(n) * m;
    measure_t out = {(uint32_t *)p, (float *)(p + n * 4), (float *)(p + n * 8), (double *)(p + n * 12),
                     (double *)(p + n * 20)};
    // n * 12 is a multiple of 8 for even n, so the doubles are aligned.
    return out;
}

static inline uint8_t *sketch_at(const uint8_t *level, uint32_t n, uint32_t measures, uint32_t d, uint32_t slot) {
    return (uint8_t *)level + (size_t)n * 8 + measure_bytes(n) * measures + ((size_t)d * n + slot) * TL_SKETCH_BYTES;
}

void tl_layout_finish(tl_layout_t *layout, uint32_t head_bytes) {
    uint32_t offset = (head_bytes + 63) & ~63u;
    for (int l = 0; l < TL_LEVELS; l++) {
        tl_level_t *level = &layout->levels[l];
        uint32_t distincts = level->sketches ? layout->distincts : 0;
        level->tile_bytes = ROW_HEAD + ROW_MEASURE * layout->measures + TL_SKETCH_BYTES * distincts;
        level->offset = offset;
        offset += level->slots * (8 + 28 * layout->measures + TL_SKETCH_BYTES * distincts);
        offset = (offset + 63) & ~63u;
    }
    if (layout->partitions) {
        layout->last_offset = offset;
        offset += 8 * layout->partitions;
        for (int l = 0; l < TL_LEVELS; l++) {
            layout->levels[l].partials_offset = offset;
            offset += layout->levels[l].slots * layout->partitions * layout->levels[l].tile_bytes;
        }
    }
    layout->record_bytes = (offset + 63) & ~63u;
}

void tl_tile_store(const void *record, const tl_layout_t *layout, int l, uint32_t slot, void *row) {
    const tl_level_t *level = &layout->levels[l];
    const uint8_t *base = (const uint8_t *)record + level->offset;
    uint32_t n = level->slots;
    uint8_t *p = row;
    memcpy(p, base + slot * 4, 4);
    memcpy(p + 4, base + n * 4 + slot * 4, 4);
    p += ROW_HEAD;
    for (uint32_t m = 0; m < layout->measures; m++, p += ROW_MEASURE) {
        measure_t c = measure_at(base, n, m);
        memcpy(p, &c.count[slot], 4);
        memcpy(p + 4, &c.max[slot], 4);
        memcpy(p + 8, &c.min[slot], 4);
        memcpy(p + 12, &c.sum[slot], 8);
        memcpy(p + 20, &c.square[slot], 8);
    }
    if (level->sketches)
        for (uint32_t d = 0; d < layout->distincts; d++, p += TL_SKETCH_BYTES)
            memcpy(p, sketch_at(base, n, layout->measures, d, slot), TL_SKETCH_BYTES);
}

void tl_tile_load(void *record, const tl_layout_t *layout, int l, uint32_t slot, const void *row) {
    const tl_level_t *level = &layout->levels[l];
    uint8_t *base = (uint8_t *)record + level->offset;
    uint32_t n = level->slots;
    const uint8_t *p = row;
    memcpy(base + slot * 4, p, 4);
    memcpy(base + n * 4 + slot * 4, p + 4, 4);
    p += ROW_HEAD;
    for (uint32_t m = 0; m < layout->measures; m++, p += ROW_MEASURE) {
        measure_t c = measure_at(base, n, m);
        memcpy(&c.count[slot], p, 4);
        memcpy(&c.max[slot], p + 4, 4);
        memcpy(&c.min[slot], p + 8, 4);
        memcpy(&c.sum[slot], p + 12, 8);
        memcpy(&c.square[slot], p + 20, 8);
    }
    if (level->sketches)
        for (uint32_t d = 0; d < layout->distincts; d++, p += TL_SKETCH_BYTES)
            memcpy(sketch_at(base, n, layout->measures, d, slot), p, TL_SKETCH_BYTES);
}

// MARK: sketches

static void sketch_add(uint8_t *sketch, uint64_t hash) {
    if (hash == 0) return;
    uint32_t reg = (uint32_t)(hash >> 58);
    uint64_t rest = hash << 6;
    uint32_t rank = rest ? (uint32_t)__builtin_clzll(rest) + 1 : 59;
    if (rank > 15) rank = 15;
    uint8_t *byte = &sketch[reg >> 1];
    uint32_t shift = (reg & 1) * 4;
    if (((*byte >> shift) & 15) < rank) *byte = (uint8_t)((*byte & ~(15u << shift)) | (rank << shift));
}

static void sketch_merge(uint8_t *into, const uint8_t *from) {
    for (int i = 0; i < TL_SKETCH_BYTES; i++) {
        uint8_t a = into[i], b = from[i];
        uint8_t low = (a & 15) > (b & 15) ? (a & 15) : (b & 15);
        uint8_t high = (a >> 4) > (b >> 4) ? (a >> 4) : (b >> 4);
        into[i] = (uint8_t)(low | (high << 4));
    }
}

double tl_sketch_estimate(const uint8_t *sketch) {
    double inverse = 0;
    int zeros = 0;
    for (int i = 0; i < TL_SKETCH_BYTES * 2; i++) {
        uint32_t rank = (sketch[i >> 1] >> ((i & 1) * 4)) & 15;
        zeros += rank == 0;
        inverse += 1.0 / (double)(1u << rank);
    }
    double raw = 0.709 * 64 * 64 / inverse;
    if (raw <= 160 && zeros) return 64 * log(64.0 / zeros);
    return raw;
}

// MARK: adding

static void columns_reset(uint8_t *base, const tl_layout_t *layout, const tl_level_t *level, uint32_t slot,
                          uint32_t index) {
    uint32_t n = level->slots;
    ((uint32_t *)base)[slot] = index;
    ((uint32_t *)base)[n + slot] = 0;
    for (uint32_t m = 0; m < layout->measures; m++) {
        measure_t c = measure_at(base, n, m);
        c.count[slot] = 0;
        c.max[slot] = -INFINITY;
        c.min[slot] = INFINITY;
        c.sum[slot] = 0;
        c.square[slot] = 0;
    }
    if (level->sketches)
        for (uint32_t d = 0; d < layout->distincts; d++)
            memset(sketch_at(base, n, layout->measures, d, slot), 0, TL_SKETCH_BYTES);
}

int tl_tile_add(void *record, const tl_layout_t *layout, int l, uint32_t index, const double *values,
                const uint64_t *hashes) {
    const tl_level_t *level = &layout->levels[l];
    uint8_t *base = (uint8_t *)record + level->offset;
    uint32_t n = level->slots, slot = index & (n - 1);
    uint32_t held = ((uint32_t *)base)[slot];
    if (held > index) return 0;
    if (held != index) columns_reset(base, layout, level, slot, index);
    ((uint32_t *)base)[n + slot] += 1;
    for (uint32_t m = 0; m < layout->measures; m++) {
        double v = values[m];
        if (isnan(v)) continue;
        measure_t c = measure_at(base, n, m);
        c.count[slot] += 1;
        c.sum[slot] += v;
        c.square[slot] += v * v;
        float f = (float)v;
        if (f > c.max[slot]) c.max[slot] = f;
        if (f < c.min[slot]) c.min[slot] = f;
    }
    if (level->sketches)
        for (uint32_t d = 0; d < layout->distincts; d++)
            sketch_add(sketch_at(base, n, layout->measures, d, slot), hashes[d]);
    return 1;
}

void *tl_partial(void *record, const tl_layout_t *layout, int l, uint32_t slot, uint32_t partition) {
    const tl_level_t *level = &layout->levels[l];
    return (uint8_t *)record + level->partials_offset +
           ((size_t)slot * layout->partitions + partition) * level->tile_bytes;
}

static inline uint32_t load32(const uint8_t *p) {
    uint32_t v;
    memcpy(&v, p, 4);
    return v;
}

int tl_partial_add(void *record, const tl_layout_t *layout, int l, uint32_t index, uint32_t partition,
                   const double *values, const uint64_t *hashes) {
    const tl_level_t *level = &layout->levels[l];
    uint32_t slot = index & (level->slots - 1);
    uint8_t *row = tl_partial(record, layout, l, slot, partition);
    uint32_t held = load32(row);
    if (held > index) return 0;
    if (held != index) {
        memset(row, 0, level->tile_bytes);
        memcpy(row, &index, 4);
        float lowest = -INFINITY, highest = INFINITY;
        for (uint32_t m = 0; m < layout->measures; m++) {
            memcpy(row + ROW_HEAD + m * ROW_MEASURE + 4, &lowest, 4);
            memcpy(row + ROW_HEAD + m * ROW_MEASURE + 8, &highest, 4);
        }
    }
    uint32_t count = load32(row + 4) + 1;
    memcpy(row + 4, &count, 4);
    uint8_t *p = row + ROW_HEAD;
    for (uint32_t m = 0; m < layout->measures; m++, p += ROW_MEASURE) {
        double v = values[m];
        if (isnan(v)) continue;
        float f = (float)v, max, min;
        double sum, square;
        uint32_t measured = load32(p) + 1;
        memcpy(p, &measured, 4);
        memcpy(&max, p + 4, 4);
        memcpy(&min, p + 8, 4);
        memcpy(&sum, p + 12, 8);
        memcpy(&square, p + 20, 8);
        if (f > max) max = f;
        if (f < min) min = f;
        sum += v;
        square += v * v;
        memcpy(p + 4, &max, 4);
        memcpy(p + 8, &min, 4);
        memcpy(p + 12, &sum, 8);
        memcpy(p + 20, &square, 8);
    }
    if (level->sketches)
        for (uint32_t d = 0; d < layout->distincts; d++, p += TL_SKETCH_BYTES) sketch_add(p, hashes[d]);
    tl_partials_merge(record, layout, l, slot);
    // Another partition's partial may hold a newer tile: then the merge leaves this one out.
    return load32((const uint8_t *)record + level->offset + slot * 4) == index;
}

void tl_partials_merge(void *record, const tl_layout_t *layout, int l, uint32_t slot) {
    const tl_level_t *level = &layout->levels[l];
    uint8_t *base = (uint8_t *)record + level->offset;
    uint32_t n = level->slots, newest = 0;
    const uint8_t *rows = tl_partial(record, layout, l, slot, 0);
    for (uint32_t q = 0; q < layout->partitions; q++) {
        uint32_t held = load32(rows + (size_t)q * level->tile_bytes);
        if (held > newest) newest = held;
    }
    columns_reset(base, layout, level, slot, newest);
    if (!newest) return;
    for (uint32_t q = 0; q < layout->partitions; q++) {
        const uint8_t *row = rows + (size_t)q * level->tile_bytes;
        if (load32(row) != newest) continue;
        ((uint32_t *)base)[n + slot] += load32(row + 4);
        const uint8_t *p = row + ROW_HEAD;
        for (uint32_t m = 0; m < layout->measures; m++, p += ROW_MEASURE) {
            measure_t c = measure_at(base, n, m);
            float max, min;
            double sum, square;
            memcpy(&max, p + 4, 4);
            memcpy(&min, p + 8, 4);
            memcpy(&sum, p + 12, 8);
            memcpy(&square, p + 20, 8);
            c.count[slot] += load32(p);
            c.sum[slot] += sum;
            c.square[slot] += square;
            if (max > c.max[slot]) c.max[slot] = max;
            if (min < c.min[slot]) c.min[slot] = min;
        }
        if (level->sketches)
            for (uint32_t d = 0; d < layout->distincts; d++, p += TL_SKETCH_BYTES)
                sketch_merge(sketch_at(base, n, layout->measures, d, slot), p);
    }
}

// MARK: reading

// One body, compiled for three instruction sets. Sums run in TL_LANES lanes (lane = slot mod 8) and fold pairwise, so
// every instruction set adds in the same order and gives the same bits.
static inline __attribute__((always_inline)) void window_body(const uint8_t *base, uint32_t n, uint32_t measures,
                                                              uint32_t first, uint32_t span, tl_window_t *w) {
    const uint32_t *restrict index = (const uint32_t *)base;
    const uint32_t *restrict count = index + n;
    uint32_t inside[64];
    uint32_t total = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t in = (index[i] - first) <= span ? 0xFFFFFFFFu : 0;
        inside[i] = in;
        total += count[i] & in;
    }
    w->count = total;
    for (uint32_t m = 0; m < measures; m++) {
        measure_t c = measure_at(base, n, m);
        const uint32_t *restrict mc = c.count;
        const double *restrict s = c.sum;
        const double *restrict q = c.square;
        const float *restrict hi = c.max;
        const float *restrict lo = c.min;
        uint32_t measured = 0;
        double sum[TL_LANES] = {0}, square[TL_LANES] = {0};
        float max[TL_LANES], min[TL_LANES];
        for (int k = 0; k < TL_LANES; k++) {
            max[k] = -INFINITY;
            min[k] = INFINITY;
        }
        for (uint32_t i = 0; i < n; i += TL_LANES) {
            for (int k = 0; k < TL_LANES; k++) measured += mc[i + k] & inside[i + k];
            for (int k = 0; k < TL_LANES; k++) sum[k] += inside[i + k] ? s[i + k] : 0.0;
            for (int k = 0; k < TL_LANES; k++) square[k] += inside[i + k] ? q[i + k] : 0.0;
            for (int k = 0; k < TL_LANES; k++) {
                float v = inside[i + k] ? hi[i + k] : -INFINITY;
                max[k] = v > max[k] ? v : max[k];
            }
            for (int k = 0; k < TL_LANES; k++) {
                float v = inside[i + k] ? lo[i + k] : INFINITY;
                min[k] = v < min[k] ? v : min[k];
            }
        }
        for (int half = TL_LANES / 2; half; half /= 2)
            for (int k = 0; k < half; k++) {
                sum[k] += sum[k + half];
                square[k] += square[k + half];
                max[k] = max[k + half] > max[k] ? max[k + half] : max[k];
                min[k] = min[k + half] < min[k] ? min[k + half] : min[k];
            }
        w->measured[m] = (tl_measured_t){sum[0], square[0], max[0], min[0], measured};
    }
}

typedef void (*window_fn)(const uint8_t *, uint32_t, uint32_t, uint32_t, uint32_t, tl_window_t *);

static void window_scalar(const uint8_t *base, uint32_t n, uint32_t measures, uint32_t first, uint32_t span,
                          tl_window_t *w) {
    window_body(base, n, measures, first, span, w);
}

#if defined(__x86_64__)
TARGET("avx2,fma")
static void window_avx2(const uint8_t *base, uint32_t n, uint32_t measures, uint32_t first, uint32_t span,
                        tl_window_t *w) {
    if (n == 64) window_body(base, 64, measures, first, span, w);
    else if (n == 32) window_body(base, 32, measures, first, span, w);
    else window_body(base, n, measures, first, span, w);
}

TARGET("avx512f,avx512dq,avx512bw,avx512vl,prefer-256-bit")
static void window_avx512(const uint8_t *base, uint32_t n, uint32_t measures, uint32_t first, uint32_t span,
                          tl_window_t *w) {
    if (n == 64) window_body(base, 64, measures, first, span, w);
    else if (n == 32) window_body(base, 32, measures, first, span, w);
    else window_body(base, n, measures, first, span, w);
}
#endif

static window_fn choose(int level) {
#if defined(__x86_64__)
    if (level < 0)
        level = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw")
                    ? 2
                : __builtin_cpu_supports("avx2") ? 1
                                                 : 0;
    if (level == 2) return window_avx512;
    if (level == 1) return window_avx2;
#endif
    return window_scalar;
}

static window_fn window_read = window_scalar;

__attribute__((constructor)) static void choose_at_start(void) { window_read = choose(-1); }

void tl_windows_force_level(int level) { window_read = choose(level); }

void tl_window_read(const void *record, const tl_layout_t *layout, int l, uint32_t first, uint32_t last, int sketches,
                    tl_window_t *window) {
    const tl_level_t *level = &layout->levels[l];
    const uint8_t *base = (const uint8_t *)record + level->offset;
    window_read(base, level->slots, layout->measures, first, last - first, window);
    if (!sketches || !level->sketches) return;
    const uint32_t *index = (const uint32_t *)base;
    for (uint32_t d = 0; d < layout->distincts; d++) {
        memset(window->sketch[d], 0, TL_SKETCH_BYTES);
        for (uint32_t i = 0; i < level->slots; i++)
            if (index[i] - first <= last - first)
                sketch_merge(window->sketch[d], sketch_at(base, level->slots, layout->measures, d, i));
    }
}
