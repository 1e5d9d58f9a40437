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

static inline int keeps(const tl_level_t *level, uint32_t m, int column) { return level->columns[m] >> column & 1; }

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

/// The tile of a slot: the merged one of a shared record.
static inline uint8_t *tile_at(const void *record, const tl_level_t *level, uint32_t slot) {
    return (uint8_t *)record + level->offset + (size_t)slot * level->tile_bytes;
}

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

void tl_layout_finish(tl_layout_t *layout, uint32_t head_bytes) {
    uint32_t offset = (head_bytes + 63) & ~63u;
    for (int l = 0; l < TL_LEVELS; l++) {
        tl_level_t *level = &layout->levels[l];
        uint32_t at = ROW_HEAD;
        for (uint32_t m = 0; m < layout->measures; m++)
            for (int column = 0; column < TL_COLUMNS; column++) {
                level->column_offset[m][column] = at;
                if (keeps(level, m, column)) at += column_bytes[column];
            }
        level->sketches_offset = at;
        level->tile_bytes = at + TL_SKETCH_BYTES * (level->sketches ? layout->distincts : 0);
        level->offset = offset;
        offset = (offset + level->slots * level->tile_bytes + 63) & ~63u;
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
    uint32_t index = index_of(rings_of(record, layout), l, level->slots, slot);
    memcpy(row, tile_at(record, level, slot), level->tile_bytes);
    memcpy(row, &index, 4);
}

void tl_slot_restore(void *record, const tl_layout_t *layout, int l, uint32_t slot, const void *row) {
    const tl_level_t *level = &layout->levels[l];
    memcpy(tile_at(record, level, slot), row, level->tile_bytes);
}

void tl_tile_load(void *record, const tl_layout_t *layout, int l, const void *row) {
    uint32_t n = layout->levels[l].slots, index = load32(row);
    tl_rings_t *rings = rings_of(record, layout);
    if (!index || !ring_reach(rings, l, n, index)) return;
    rings->occupied[l] |= 1ull << (index & (n - 1));
    tl_slot_restore(record, layout, l, index & (n - 1), row);
}

// MARK: memory

static inline void prefetch_rows(const uint8_t *rows, uint32_t bytes) {
    for (uint32_t at = 0; at < bytes; at += 64) __builtin_prefetch(rows + at, 1);
    __builtin_prefetch(rows + bytes - 1, 1);
}

void tl_prefetch(const void *record, const tl_layout_t *layout, int64_t time, uint32_t partition) {
    const uint8_t *base = record;
    __builtin_prefetch(base, 1);
    __builtin_prefetch(base + 64, 1);
    __builtin_prefetch(base + 128, 1);
    for (int l = 0; l < TL_LEVELS; l++) {
        const tl_level_t *level = &layout->levels[l];
        if (!level->slots) continue;
        uint32_t slot = (uint32_t)(time / level->width) & (level->slots - 1);
        prefetch_rows(tile_at(record, level, slot), level->tile_bytes);
        if (layout->partitions)
            prefetch_rows(tl_partial((void *)record, layout, l, slot, 0), layout->partitions * level->tile_bytes);
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

static void row_reset(uint8_t *row, const tl_layout_t *layout, const tl_level_t *level, uint32_t index) {
    memset(row, 0, level->tile_bytes);
    memcpy(row, &index, 4);
    const float lowest = -INFINITY, highest = INFINITY;
    for (uint32_t m = 0; m < layout->measures; m++) {
        if (keeps(level, m, MAX)) memcpy(row + level->column_offset[m][MAX], &lowest, 4);
        if (keeps(level, m, MIN)) memcpy(row + level->column_offset[m][MIN], &highest, 4);
    }
}

static inline void add32(uint8_t *p, uint32_t v) {
    v += load32(p);
    memcpy(p, &v, 4);
}
static inline void add_double(uint8_t *p, double v) {
    v += load_double(p);
    memcpy(p, &v, 8);
}

/// One event into one tile.
static void row_add(uint8_t *row, const tl_layout_t *layout, const tl_level_t *level, const double *values,
                    const uint64_t *hashes) {
    add32(row + 4, 1);
    for (uint32_t m = 0; m < layout->measures; m++) {
        const uint32_t *at = level->column_offset[m];
        double v = values[m];
        if (isnan(v)) continue;
        float f = (float)v;
        if (keeps(level, m, COUNT)) add32(row + at[COUNT], 1);
        if (keeps(level, m, MAX) && f > load_float(row + at[MAX])) memcpy(row + at[MAX], &f, 4);
        if (keeps(level, m, MIN) && f < load_float(row + at[MIN])) memcpy(row + at[MIN], &f, 4);
        if (keeps(level, m, SUM)) add_double(row + at[SUM], v);
        if (keeps(level, m, SQUARE)) add_double(row + at[SQUARE], v * v);
    }
    if (level->sketches)
        for (uint32_t d = 0; d < layout->distincts; d++)
            sketch_add(row + level->sketches_offset + d * TL_SKETCH_BYTES, hashes[d]);
}

/// One partition's part of a tile into the merged one.
static void row_merge(uint8_t *into, const tl_layout_t *layout, const tl_level_t *level, const uint8_t *row) {
    add32(into + 4, load32(row + 4));
    for (uint32_t m = 0; m < layout->measures; m++) {
        const uint32_t *at = level->column_offset[m];
        if (keeps(level, m, COUNT)) add32(into + at[COUNT], load32(row + at[COUNT]));
        if (keeps(level, m, MAX) && load_float(row + at[MAX]) > load_float(into + at[MAX]))
            memcpy(into + at[MAX], row + at[MAX], 4);
        if (keeps(level, m, MIN) && load_float(row + at[MIN]) < load_float(into + at[MIN]))
            memcpy(into + at[MIN], row + at[MIN], 4);
        if (keeps(level, m, SUM)) add_double(into + at[SUM], load_double(row + at[SUM]));
        if (keeps(level, m, SQUARE)) add_double(into + at[SQUARE], load_double(row + at[SQUARE]));
    }
    if (level->sketches)
        for (uint32_t d = 0, at = level->sketches_offset; d < layout->distincts; d++, at += TL_SKETCH_BYTES)
            sketch_merge(into + at, row + at);
}

static int tile_add(void *record, const tl_layout_t *layout, int l, uint32_t index, const double *values,
                    const uint64_t *hashes) {
    const tl_level_t *level = &layout->levels[l];
    uint32_t n = level->slots, slot = index & (n - 1);
    tl_rings_t *rings = rings_of(record, layout);
    if (!ring_reach(rings, l, n, index)) return 0;
    uint8_t *row = tile_at(record, level, slot);
    if (!(rings->occupied[l] >> slot & 1)) row_reset(row, layout, level, index);
    rings->occupied[l] |= 1ull << slot;
    row_add(row, layout, level, values, hashes);
    return 1;
}

void *tl_partial(void *record, const tl_layout_t *layout, int l, uint32_t slot, uint32_t partition) {
    const tl_level_t *level = &layout->levels[l];
    return (uint8_t *)record + level->partials_offset +
           ((size_t)slot * layout->partitions + partition) * level->tile_bytes;
}

static int partial_add(void *record, const tl_layout_t *layout, int l, uint32_t index, uint32_t partition,
                       const double *values, const uint64_t *hashes) {
    const tl_level_t *level = &layout->levels[l];
    uint32_t slot = index & (level->slots - 1);
    uint8_t *row = tl_partial(record, layout, l, slot, partition);
    uint32_t held = load32(row);
    if (held > index) return 0;
    if (held != index) row_reset(row, layout, level, index);
    row_add(row, layout, level, values, hashes);
    tl_partials_merge(record, layout, l, slot);
    return index_of(rings_of(record, layout), l, level->slots, slot) == index;
}

void tl_partials_merge(void *record, const tl_layout_t *layout, int l, uint32_t slot) {
    const tl_level_t *level = &layout->levels[l];
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
    uint8_t *into = tile_at(record, level, slot);
    row_reset(into, layout, level, newest);
    for (uint32_t q = 0; q < layout->partitions; q++) {
        const uint8_t *row = rows + (size_t)q * level->tile_bytes;
        if (load32(row) == newest) row_merge(into, layout, level, row);
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

/// A measure's sum and sum of squares, side by side.
typedef double pair_t __attribute__((vector_size(16)));

/// `inside` has a bit for each slot of the window that holds a tile. Sums run in TL_LANES lanes (lane = slot mod 8), from
/// the first slot on, and fold pairwise: whatever the number of tiles and the machine, the order is the same.
static void window_read(const void *record, const tl_layout_t *layout, const tl_level_t *level, uint64_t inside,
                        tl_window_t *w) {
    const uint8_t *tiles = (const uint8_t *)record + level->offset;
    size_t stride = level->tile_bytes;
    uint32_t total = 0;
    for (uint64_t bits = inside; bits; bits &= bits - 1) total += load32(tiles + __builtin_ctzll(bits) * stride + 4);
    w->count = total;
    for (uint32_t m = 0; m < layout->measures; m++) {
        const uint32_t *at = level->column_offset[m];
        tl_measured_t out = {0, 0, -INFINITY, INFINITY, total};
        if (keeps(level, m, COUNT)) {
            out.count = 0;
            for (uint64_t bits = inside; bits; bits &= bits - 1)
                out.count += load32(tiles + __builtin_ctzll(bits) * stride + at[COUNT]);
        }
        if (keeps(level, m, MAX))
            for (uint64_t bits = inside; bits; bits &= bits - 1) {
                float v = load_float(tiles + __builtin_ctzll(bits) * stride + at[MAX]);
                out.max = v > out.max ? v : out.max;
            }
        if (keeps(level, m, MIN))
            for (uint64_t bits = inside; bits; bits &= bits - 1) {
                float v = load_float(tiles + __builtin_ctzll(bits) * stride + at[MIN]);
                out.min = v < out.min ? v : out.min;
            }
        if (keeps(level, m, SUM) || keeps(level, m, SQUARE)) {
            int sums = keeps(level, m, SUM), squares = keeps(level, m, SQUARE);
            pair_t lanes[TL_LANES] = {{0}};
            for (uint64_t bits = inside; bits; bits &= bits - 1) {
                unsigned slot = (unsigned)__builtin_ctzll(bits);
                const uint8_t *tile = tiles + slot * stride;
                pair_t v = {sums ? load_double(tile + at[SUM]) : 0, squares ? load_double(tile + at[SQUARE]) : 0};
                lanes[slot % TL_LANES] += v;
            }
            for (int half = TL_LANES / 2; half; half /= 2)
                for (int k = 0; k < half; k++) lanes[k] += lanes[k + half];
            out.sum = lanes[0][0];
            out.square = lanes[0][1];
        }
        w->measured[m] = out;
    }
}

static void choose(int level) {
    estimate_chosen = estimate_scalar;
#if defined(__x86_64__)
    if (level < 0) level = __builtin_cpu_supports("avx2") ? 1 : 0;
    if (level >= 1) estimate_chosen = estimate_avx2;
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
        uint32_t n = level->slots, newest = rings->newest[l], last = (uint32_t)(time / level->width);
        uint32_t first = last > spans[s].tiles ? last - spans[s].tiles : 0;
        if (newest >= n && first < newest - n + 1) first = newest - n + 1;
        if (last > newest) last = newest;
        uint64_t inside = first <= last ? rings->occupied[l] & ring_mask(n, first & (n - 1), last - first + 1) : 0;
        window_read(record, layout, level, inside, &windows[s]);
        if (!spans[s].sketches || !level->sketches) continue;
        for (uint32_t d = 0; d < layout->distincts; d++) {
            memset(windows[s].sketch[d], 0, TL_SKETCH_BYTES);
            for (uint64_t bits = inside; bits; bits &= bits - 1)
                sketch_merge(windows[s].sketch[d], tile_at(record, level, (uint32_t)__builtin_ctzll(bits)) +
                                                       level->sketches_offset + d * TL_SKETCH_BYTES);
        }
    }
}
