#include "CWindows.h"

#include <math.h>
#include <string.h>
#include <sys/mman.h>

#if defined(__x86_64__)
#include <immintrin.h>
#define TARGET(x) __attribute__((target(x)))
#else
#define TARGET(x)
#endif

enum { ROW_HEAD = 8 };
enum { COUNT, MAX, MIN, SUM, SQUARE };
static const uint32_t column_bytes[TL_COLUMNS] = {4, 4, 4, 8, 8};

static inline uint32_t *counts_of(const uint8_t *level_base, const tl_level_t *level, uint32_t m) {
    return (uint32_t *)(level_base + level->column_offset[m][COUNT]);
}
static inline float *floats_of(const uint8_t *level_base, const tl_level_t *level, uint32_t m, int column) {
    return (float *)(level_base + level->column_offset[m][column]);
}
static inline double *doubles_of(const uint8_t *level_base, const tl_level_t *level, uint32_t m, int column) {
    return (double *)(level_base + level->column_offset[m][column]);
}
static inline int keeps(const tl_level_t *level, uint32_t m, int column) { return level->columns[m] >> column & 1; }

static inline tl_rings_t *rings_of(const void *record, const tl_layout_t *layout) {
    return (tl_rings_t *)((uint8_t *)record + layout->rings_offset);
}

/// The index of a slot's tile, 0 where there is none.
static inline uint32_t index_of(const tl_rings_t *rings, int l, uint32_t n, uint32_t slot) {
    return rings->occupied[l] >> slot & 1 ? rings->newest[l] - ((rings->newest[l] - slot) & (n - 1)) : 0;
}

/// `count` ones from a slot on, around the ring.
static inline uint64_t ring_mask(uint32_t n, uint32_t slot, uint32_t count) {
    uint64_t all = n == 64 ? ~0ull : (1ull << n) - 1;
    uint64_t ones = count >= n ? all : (1ull << count) - 1;
    return slot ? (ones << slot | ones >> (n - slot)) & all : ones;
}

/// Moves a ring on to `index`; the tiles that fall out of it are no longer there. Says whether the index is in the ring.
static inline int ring_reach(tl_rings_t *rings, int l, uint32_t n, uint32_t index) {
    uint32_t newest = rings->newest[l];
    if (index <= newest) return newest - index < n;
    rings->occupied[l] &= newest ? ~ring_mask(n, (newest + 1) & (n - 1), index - newest) : 0;
    rings->newest[l] = index;
    return 1;
}

static inline uint8_t *sketch_at(const uint8_t *level_base, const tl_level_t *level, uint32_t d, uint32_t slot) {
    return (uint8_t *)level_base + level->sketches_offset + ((size_t)d * level->slots + slot) * TL_SKETCH_BYTES;
}

void tl_layout_finish(tl_layout_t *layout, uint32_t head_bytes) {
    uint32_t offset = (head_bytes + 63) & ~63u;
    for (int l = 0; l < TL_LEVELS; l++) {
        tl_level_t *level = &layout->levels[l];
        uint32_t distincts = level->sketches ? layout->distincts : 0;
        level->offset = offset;
        level->tile_bytes = ROW_HEAD + TL_SKETCH_BYTES * distincts;
        // Slots are at least 8, so every column begins where a double may.
        uint32_t at = level->slots * 4;
        for (uint32_t m = 0; m < layout->measures; m++)
            for (int column = 0; column < TL_COLUMNS; column++) {
                level->column_offset[m][column] = at;
                if (!keeps(level, m, column)) continue;
                at += level->slots * column_bytes[column];
                level->tile_bytes += column_bytes[column];
            }
        level->sketches_offset = at;
        offset += at + level->slots * TL_SKETCH_BYTES * distincts;
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
    uint32_t index = index_of(rings_of(record, layout), l, level->slots, slot);
    uint8_t *p = row;
    memcpy(p, &index, 4);
    memcpy(p + 4, base + slot * 4, 4);
    p += ROW_HEAD;
    for (uint32_t m = 0; m < layout->measures; m++)
        for (int column = 0; column < TL_COLUMNS; column++) {
            if (!keeps(level, m, column)) continue;
            uint32_t bytes = column_bytes[column];
            const uint8_t *from = base + level->column_offset[m][column] + slot * bytes;
            if (bytes == 4) memcpy(p, from, 4);
            else memcpy(p, from, 8);
            p += bytes;
        }
    if (level->sketches)
        for (uint32_t d = 0; d < layout->distincts; d++, p += TL_SKETCH_BYTES)
            memcpy(p, sketch_at(base, level, d, slot), TL_SKETCH_BYTES);
}

void tl_slot_restore(void *record, const tl_layout_t *layout, int l, uint32_t slot, const void *row) {
    const tl_level_t *level = &layout->levels[l];
    uint8_t *base = (uint8_t *)record + level->offset;
    const uint8_t *p = row;
    memcpy(base + slot * 4, p + 4, 4);
    p += ROW_HEAD;
    for (uint32_t m = 0; m < layout->measures; m++)
        for (int column = 0; column < TL_COLUMNS; column++) {
            if (!keeps(level, m, column)) continue;
            uint32_t bytes = column_bytes[column];
            memcpy(base + level->column_offset[m][column] + slot * bytes, p, bytes);
            p += bytes;
        }
    if (level->sketches)
        for (uint32_t d = 0; d < layout->distincts; d++, p += TL_SKETCH_BYTES)
            memcpy(sketch_at(base, level, d, slot), p, TL_SKETCH_BYTES);
}

void tl_tile_load(void *record, const tl_layout_t *layout, int l, const void *row) {
    uint32_t n = layout->levels[l].slots, index;
    memcpy(&index, row, 4);
    tl_rings_t *rings = rings_of(record, layout);
    if (!index || !ring_reach(rings, l, n, index)) return;
    rings->occupied[l] |= 1ull << (index & (n - 1));
    tl_slot_restore(record, layout, l, index & (n - 1), row);
}

// MARK: memory

void tl_prefetch(const void *record, const tl_layout_t *layout, int64_t time, uint32_t partition) {
    // An entity's events mostly lie close together: the lines around the event's own tile are those of its windows.
    const uint8_t *base = record;
    __builtin_prefetch(base, 1);
    __builtin_prefetch(base + 64, 1);
    __builtin_prefetch(base + 128, 1);
    for (int l = 0; l < TL_LEVELS; l++) {
        const tl_level_t *level = &layout->levels[l];
        if (!level->slots) continue;
        uint32_t slot = (uint32_t)(time / level->width) & (level->slots - 1);
        const uint8_t *columns = base + level->offset;
        __builtin_prefetch(columns + slot * 4, 1);
        for (uint32_t m = 0; m < layout->measures; m++)
            for (int column = 0; column < TL_COLUMNS; column++)
                if (keeps(level, m, column))
                    __builtin_prefetch(columns + level->column_offset[m][column] + slot * column_bytes[column], 1);
        if (level->sketches)
            for (uint32_t d = 0; d < layout->distincts; d++) __builtin_prefetch(sketch_at(columns, level, d, slot), 1);
        if (!layout->partitions) continue;
        const uint8_t *rows = base + level->partials_offset + (size_t)slot * layout->partitions * level->tile_bytes;
        uint32_t bytes = layout->partitions * level->tile_bytes;
        for (uint32_t at = 0; at < bytes; at += 64) __builtin_prefetch(rows + at, 1);
        __builtin_prefetch(rows + bytes - 1, 1);
    }
    if (layout->partitions) __builtin_prefetch(base + layout->last_offset + partition * 8, 1);
}

void *tl_slab_allocate(size_t bytes) {
    void *slab = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return slab == MAP_FAILED ? NULL : slab;
}

void tl_slab_free(void *slab, size_t bytes) { munmap(slab, bytes); }

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

// Registers are compared as nibbles in place: a shift would change no comparison.
static inline void sketch_merge(uint8_t *restrict into, const uint8_t *restrict from) {
    for (int i = 0; i < TL_SKETCH_BYTES; i++) {
        uint8_t low_a = into[i] & 0x0F, low_b = from[i] & 0x0F, high_a = into[i] & 0xF0, high_b = from[i] & 0xF0;
        into[i] = (uint8_t)((low_a > low_b ? low_a : low_b) | (high_a > high_b ? high_a : high_b));
    }
}

static double linear_counts[TL_SKETCH_BYTES * 2 + 1];

static double estimate(uint32_t inverse, uint32_t zeros) {
    // `inverse` is the sum of 2^-rank in units of 2^-15: exact, whatever the order.
    double raw = 0.709 * 64 * 64 / ((double)inverse / 32768.0);
    return raw <= 160 && zeros ? linear_counts[zeros] : raw;
}

static double estimate_scalar(const uint8_t *sketch) {
    uint32_t zeros = 0, inverse = 0;
    for (int i = 0; i < TL_SKETCH_BYTES; i++) {
        uint32_t low = sketch[i] & 15, high = sketch[i] >> 4;
        zeros += (low == 0) + (high == 0);
        inverse += (32768u >> low) + (32768u >> high);
    }
    return estimate(inverse, zeros);
}

#if defined(__x86_64__)
TARGET("avx2,popcnt")
static double estimate_avx2(const uint8_t *sketch) {
    // 2^(15 - rank) by table, its two bytes apart.
    const __m256i high_byte = _mm256_setr_epi8(-128, 64, 32, 16, 8, 4, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0,
                                               -128, 64, 32, 16, 8, 4, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0);
    const __m256i low_byte = _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, -128, 64, 32, 16, 8, 4, 2, 1,
                                              0, 0, 0, 0, 0, 0, 0, 0, -128, 64, 32, 16, 8, 4, 2, 1);
    const __m256i nibble = _mm256_set1_epi8(15), none = _mm256_setzero_si256();
    __m256i registers = _mm256_loadu_si256((const __m256i *)sketch);
    __m256i low = _mm256_and_si256(registers, nibble);
    __m256i high = _mm256_and_si256(_mm256_srli_epi16(registers, 4), nibble);
    uint32_t zeros = (uint32_t)__builtin_popcount((uint32_t)_mm256_movemask_epi8(_mm256_cmpeq_epi8(low, none))) +
                     (uint32_t)__builtin_popcount((uint32_t)_mm256_movemask_epi8(_mm256_cmpeq_epi8(high, none)));
    __m256i large = _mm256_add_epi64(_mm256_sad_epu8(_mm256_shuffle_epi8(high_byte, low), none),
                                     _mm256_sad_epu8(_mm256_shuffle_epi8(high_byte, high), none));
    __m256i small = _mm256_add_epi64(_mm256_sad_epu8(_mm256_shuffle_epi8(low_byte, low), none),
                                     _mm256_sad_epu8(_mm256_shuffle_epi8(low_byte, high), none));
    __m256i both = _mm256_add_epi64(_mm256_slli_epi64(large, 8), small);
    __m128i half = _mm_add_epi64(_mm256_castsi256_si128(both), _mm256_extracti128_si256(both, 1));
    uint32_t inverse = (uint32_t)(_mm_cvtsi128_si64(half) + _mm_extract_epi64(half, 1));
    return estimate(inverse, zeros);
}
#endif

static double (*estimate_chosen)(const uint8_t *) = estimate_scalar;

double tl_sketch_estimate(const uint8_t *sketch) { return estimate_chosen(sketch); }

// MARK: adding

static void columns_reset(uint8_t *base, const tl_layout_t *layout, const tl_level_t *level, uint32_t slot) {
    ((uint32_t *)base)[slot] = 0;
    for (uint32_t m = 0; m < layout->measures; m++) {
        if (keeps(level, m, COUNT)) counts_of(base, level, m)[slot] = 0;
        if (keeps(level, m, MAX)) floats_of(base, level, m, MAX)[slot] = -INFINITY;
        if (keeps(level, m, MIN)) floats_of(base, level, m, MIN)[slot] = INFINITY;
        if (keeps(level, m, SUM)) doubles_of(base, level, m, SUM)[slot] = 0;
        if (keeps(level, m, SQUARE)) doubles_of(base, level, m, SQUARE)[slot] = 0;
    }
    if (level->sketches)
        for (uint32_t d = 0; d < layout->distincts; d++) memset(sketch_at(base, level, d, slot), 0, TL_SKETCH_BYTES);
}

static int tile_add(void *record, const tl_layout_t *layout, int l, uint32_t index, const double *values,
                const uint64_t *hashes) {
    const tl_level_t *level = &layout->levels[l];
    uint8_t *base = (uint8_t *)record + level->offset;
    uint32_t n = level->slots, slot = index & (n - 1);
    tl_rings_t *rings = rings_of(record, layout);
    if (!ring_reach(rings, l, n, index)) return 0;
    if (!(rings->occupied[l] >> slot & 1)) columns_reset(base, layout, level, slot);
    rings->occupied[l] |= 1ull << slot;
    ((uint32_t *)base)[slot] += 1;
    for (uint32_t m = 0; m < layout->measures; m++) {
        double v = values[m];
        if (isnan(v)) continue;
        float f = (float)v;
        if (keeps(level, m, COUNT)) counts_of(base, level, m)[slot] += 1;
        if (keeps(level, m, SUM)) doubles_of(base, level, m, SUM)[slot] += v;
        if (keeps(level, m, SQUARE)) doubles_of(base, level, m, SQUARE)[slot] += v * v;
        if (keeps(level, m, MAX) && f > floats_of(base, level, m, MAX)[slot]) floats_of(base, level, m, MAX)[slot] = f;
        if (keeps(level, m, MIN) && f < floats_of(base, level, m, MIN)[slot]) floats_of(base, level, m, MIN)[slot] = f;
    }
    if (level->sketches)
        for (uint32_t d = 0; d < layout->distincts; d++) sketch_add(sketch_at(base, level, d, slot), hashes[d]);
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

static inline float load_float(const uint8_t *p) {
    float v;
    memcpy(&v, p, 4);
    return v;
}

static inline double load_double(const uint8_t *p) {
    double v;
    memcpy(&v, p, 8);
    return v;
}

static void row_reset(uint8_t *row, const tl_layout_t *layout, const tl_level_t *level, uint32_t index) {
    memset(row, 0, level->tile_bytes);
    memcpy(row, &index, 4);
    uint8_t *p = row + ROW_HEAD;
    const float lowest = -INFINITY, highest = INFINITY;
    for (uint32_t m = 0; m < layout->measures; m++)
        for (int column = 0; column < TL_COLUMNS; column++) {
            if (!keeps(level, m, column)) continue;
            if (column == MAX) memcpy(p, &lowest, 4);
            if (column == MIN) memcpy(p, &highest, 4);
            p += column_bytes[column];
        }
}

static int partial_add(void *record, const tl_layout_t *layout, int l, uint32_t index, uint32_t partition,
                   const double *values, const uint64_t *hashes) {
    const tl_level_t *level = &layout->levels[l];
    uint32_t slot = index & (level->slots - 1);
    uint8_t *row = tl_partial(record, layout, l, slot, partition);
    uint32_t held = load32(row);
    if (held > index) return 0;
    if (held != index) row_reset(row, layout, level, index);
    uint32_t count = load32(row + 4) + 1;
    memcpy(row + 4, &count, 4);
    uint8_t *p = row + ROW_HEAD;
    for (uint32_t m = 0; m < layout->measures; m++)
        for (int column = 0; column < TL_COLUMNS; column++) {
            if (!keeps(level, m, column)) continue;
            double v = values[m];
            if (!isnan(v)) {
                float f = (float)v;
                uint32_t measured = column == COUNT ? load32(p) + 1 : 0;
                double sum = column == SUM ? load_double(p) + v : column == SQUARE ? load_double(p) + v * v : 0;
                if (column == COUNT) memcpy(p, &measured, 4);
                else if (column == MAX && f > load_float(p)) memcpy(p, &f, 4);
                else if (column == MIN && f < load_float(p)) memcpy(p, &f, 4);
                else if (column >= SUM) memcpy(p, &sum, 8);
            }
            p += column_bytes[column];
        }
    if (level->sketches)
        for (uint32_t d = 0; d < layout->distincts; d++, p += TL_SKETCH_BYTES) sketch_add(p, hashes[d]);
    tl_partials_merge(record, layout, l, slot);
    return index_of(rings_of(record, layout), l, level->slots, slot) == index;
}

void tl_partials_merge(void *record, const tl_layout_t *layout, int l, uint32_t slot) {
    const tl_level_t *level = &layout->levels[l];
    uint8_t *base = (uint8_t *)record + level->offset;
    uint32_t newest = 0;
    const uint8_t *rows = tl_partial(record, layout, l, slot, 0);
    for (uint32_t q = 0; q < layout->partitions; q++) {
        uint32_t held = load32(rows + (size_t)q * level->tile_bytes);
        if (held > newest) newest = held;
    }
    tl_rings_t *rings = rings_of(record, layout);
    if (!newest || !ring_reach(rings, l, level->slots, newest)) {
        rings->occupied[l] &= ~(1ull << slot);
        return;
    }
    rings->occupied[l] |= 1ull << slot;
    columns_reset(base, layout, level, slot);
    for (uint32_t q = 0; q < layout->partitions; q++) {
        const uint8_t *row = rows + (size_t)q * level->tile_bytes;
        if (load32(row) != newest) continue;
        ((uint32_t *)base)[slot] += load32(row + 4);
        const uint8_t *p = row + ROW_HEAD;
        for (uint32_t m = 0; m < layout->measures; m++)
            for (int column = 0; column < TL_COLUMNS; column++) {
                if (!keeps(level, m, column)) continue;
                if (column == COUNT) counts_of(base, level, m)[slot] += load32(p);
                else if (column >= SUM) doubles_of(base, level, m, column)[slot] += load_double(p);
                else {
                    float *held = &floats_of(base, level, m, column)[slot], v = load_float(p);
                    if (column == MAX ? v > *held : v < *held) *held = v;
                }
                p += column_bytes[column];
            }
        if (level->sketches)
            for (uint32_t d = 0; d < layout->distincts; d++, p += TL_SKETCH_BYTES)
                sketch_merge(sketch_at(base, level, d, slot), p);
    }
}

int tl_add(void *record, const tl_layout_t *layout, int64_t time, uint32_t partition, const double *values,
           const uint64_t *hashes) {
    int late = 0;
    for (int l = 0; l < TL_LEVELS; l++) {
        const tl_level_t *level = &layout->levels[l];
        if (!level->slots) continue;
        uint32_t index = (uint32_t)(time / level->width);
        int added = layout->partitions ? partial_add(record, layout, l, index, partition, values, hashes)
                                       : tile_add(record, layout, l, index, values, hashes);
        if (!added) late = 1;
    }
    return late;
}

// MARK: reading

// Sums run in TL_LANES lanes (lane = slot mod 8), from the first slot on, and fold pairwise: every instruction set adds
// in the same order and gives the same bits. `inside` has a bit for each slot of the window that holds a tile.
static void window_scalar(const uint8_t *base, const tl_level_t *level, uint32_t measures, uint64_t inside,
                          tl_window_t *w) {
    uint32_t total = 0;
    for (uint64_t bits = inside; bits; bits &= bits - 1) total += ((const uint32_t *)base)[__builtin_ctzll(bits)];
    w->count = total;
    for (uint32_t m = 0; m < measures; m++) {
        tl_measured_t out = {0, 0, -INFINITY, INFINITY, total};
        double sum[TL_LANES] = {0}, square[TL_LANES] = {0};
        if (keeps(level, m, COUNT)) out.count = 0;
        for (uint64_t bits = inside; bits; bits &= bits - 1) {
            int slot = __builtin_ctzll(bits);
            if (keeps(level, m, COUNT)) out.count += counts_of(base, level, m)[slot];
            if (keeps(level, m, SUM)) sum[slot % TL_LANES] += doubles_of(base, level, m, SUM)[slot];
            if (keeps(level, m, SQUARE)) square[slot % TL_LANES] += doubles_of(base, level, m, SQUARE)[slot];
            if (keeps(level, m, MAX)) out.max = fmaxf(out.max, floats_of(base, level, m, MAX)[slot]);
            if (keeps(level, m, MIN)) out.min = fminf(out.min, floats_of(base, level, m, MIN)[slot]);
        }
        for (int half = TL_LANES / 2; half; half /= 2)
            for (int k = 0; k < half; k++) {
                sum[k] += sum[k + half];
                square[k] += square[k + half];
            }
        out.sum = sum[0];
        out.square = square[0];
        w->measured[m] = out;
    }
}

#if defined(__x86_64__)
#define AVX512 "avx512f,avx512dq,avx512bw,avx512vl"

TARGET(AVX512)
static inline double sum_pd(const double *values, uint64_t inside) {
    __m512d lanes = _mm512_setzero_pd();
    for (; inside; inside >>= 8, values += TL_LANES)
        if (inside & 0xFF) lanes = _mm512_mask_add_pd(lanes, (__mmask8)inside, lanes, _mm512_loadu_pd(values));
    __m256d four = _mm256_add_pd(_mm512_castpd512_pd256(lanes), _mm512_extractf64x4_pd(lanes, 1));
    __m128d two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
    return _mm_cvtsd_f64(two) + _mm_cvtsd_f64(_mm_unpackhi_pd(two, two));
}

TARGET(AVX512)
static inline uint32_t sum_epi32(const uint32_t *values, uint64_t inside) {
    __m512i lanes = _mm512_setzero_si512();
    for (; inside; inside >>= 16, values += 16)
        if (inside & 0xFFFF)
            lanes = _mm512_mask_add_epi32(lanes, (__mmask16)inside, lanes, _mm512_loadu_si512(values));
    return (uint32_t)_mm512_reduce_add_epi32(lanes);
}

TARGET(AVX512)
static void window_avx512(const uint8_t *base, const tl_level_t *level, uint32_t measures, uint64_t inside,
                          tl_window_t *w) {
    // Few tiles are quicker one by one.
    if (__builtin_popcountll(inside) <= 3) return window_scalar(base, level, measures, inside, w);
    w->count = sum_epi32((const uint32_t *)base, inside);
    for (uint32_t m = 0; m < measures; m++) {
        tl_measured_t out = {0, 0, -INFINITY, INFINITY, w->count};
        if (keeps(level, m, COUNT)) out.count = sum_epi32(counts_of(base, level, m), inside);
        if (keeps(level, m, SUM)) out.sum = sum_pd(doubles_of(base, level, m, SUM), inside);
        if (keeps(level, m, SQUARE)) out.square = sum_pd(doubles_of(base, level, m, SQUARE), inside);
        if (keeps(level, m, MAX)) {
            const float *values = floats_of(base, level, m, MAX);
            __m512 lanes = _mm512_set1_ps(-INFINITY);
            for (uint64_t in = inside; in; in >>= 16, values += 16)
                if (in & 0xFFFF) lanes = _mm512_mask_max_ps(lanes, (__mmask16)in, lanes, _mm512_loadu_ps(values));
            out.max = _mm512_reduce_max_ps(lanes);
        }
        if (keeps(level, m, MIN)) {
            const float *values = floats_of(base, level, m, MIN);
            __m512 lanes = _mm512_set1_ps(INFINITY);
            for (uint64_t in = inside; in; in >>= 16, values += 16)
                if (in & 0xFFFF) lanes = _mm512_mask_min_ps(lanes, (__mmask16)in, lanes, _mm512_loadu_ps(values));
            out.min = _mm512_reduce_min_ps(lanes);
        }
        w->measured[m] = out;
    }
}
#endif

typedef void (*window_fn)(const uint8_t *, const tl_level_t *, uint32_t, uint64_t, tl_window_t *);

static window_fn window_read = window_scalar;

static void choose(int level) {
    window_read = window_scalar;
    estimate_chosen = estimate_scalar;
#if defined(__x86_64__)
    if (level < 0)
        level = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw")
                    ? 2
                : __builtin_cpu_supports("avx2") ? 1
                                                 : 0;
    if (level >= 1) estimate_chosen = estimate_avx2;
    if (level == 2) window_read = window_avx512;
#endif
}

__attribute__((constructor)) static void choose_at_start(void) {
    for (int zeros = 1; zeros <= TL_SKETCH_BYTES * 2; zeros++) linear_counts[zeros] = 64 * log(64.0 / zeros);
    choose(-1);
}

void tl_windows_force_level(int level) { choose(level); }

void tl_windows_read(const void *record, const tl_layout_t *layout, int64_t time, const tl_span_t *spans,
                     uint32_t count, tl_window_t *windows) {
    const tl_rings_t *rings = rings_of(record, layout);
    for (uint32_t s = 0; s < count; s++) {
        int l = (int)spans[s].level;
        const tl_level_t *level = &layout->levels[l];
        const uint8_t *base = (const uint8_t *)record + level->offset;
        uint32_t n = level->slots, newest = rings->newest[l], last = (uint32_t)(time / level->width);
        uint32_t first = last > spans[s].tiles ? last - spans[s].tiles : 0;
        if (newest >= n && first < newest - n + 1) first = newest - n + 1;
        if (last > newest) last = newest;
        uint64_t inside = first <= last ? rings->occupied[l] & ring_mask(n, first & (n - 1), last - first + 1) : 0;
        window_read(base, level, layout->measures, inside, &windows[s]);
        if (!spans[s].sketches || !level->sketches) continue;
        for (uint32_t d = 0; d < layout->distincts; d++) {
            memset(windows[s].sketch[d], 0, TL_SKETCH_BYTES);
            for (uint64_t bits = inside; bits; bits &= bits - 1)
                sketch_merge(windows[s].sketch[d], sketch_at(base, level, d, (uint32_t)__builtin_ctzll(bits)));
        }
    }
}
