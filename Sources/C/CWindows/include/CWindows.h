#pragma once
#include <stddef.h>
#include <stdint.h>

/// Window tiles of one entity, in one compact record: rings of 1-minute, 1-hour and 1-day tiles.
///
/// A tile is known by its index, time divided by its width, counted from 1970; index 0 is an empty slot. A ring's
/// slot is the index modulo the ring's size, so a newer tile takes the place of one that no window reaches any more.
/// Per level the record holds columns (`index`, `count`, then for each measure `count`, `sum`, `square`, `max`, `min`,
/// then for each distinct a sketch): a window is a masked sum over columns.

enum {
    TL_LEVELS = 3,
    TL_MEASURES_MAX = 8,
    TL_DISTINCTS_MAX = 4,
    TL_SKETCH_BYTES = 32,  // 64 registers of 4 bits
    TL_LANES = 8,          // sums run in 8 lanes and fold in one written order, so every machine gets the same bits
};

typedef struct {
    uint32_t slots;   // a power of two; 0 where no window needs the level
    uint32_t offset;  // of the level's columns in the record
    uint32_t sketches;  // whether this level keeps the distinct sketches
    uint32_t tile_bytes;  // of one tile in its row form
    uint32_t partials_offset;  // of the tiles in row form, [slot][partition], in a shared record
    int64_t width;    // microseconds
} tl_level_t;

typedef struct {
    uint32_t record_bytes;
    uint32_t measures;
    uint32_t distincts;
    uint32_t partitions;  // 0 for a record of one partition; else the number of partials that a shared record merges
    uint32_t last_offset; // of the partials' last event times, in a shared record
    tl_level_t levels[TL_LEVELS];
} tl_layout_t;

typedef struct {
    double sum;
    double square;
    float max;   // -infinity where nothing was measured
    float min;   // +infinity
    uint64_t count;
} tl_measured_t;

typedef struct {
    uint64_t count;
    tl_measured_t measured[TL_MEASURES_MAX];
    uint8_t sketch[TL_DISTINCTS_MAX][TL_SKETCH_BYTES];
} tl_window_t;

/// Lays out a record whose columns begin at `head_bytes`. Levels' `slots`, `width` and `sketches` are given.
void tl_layout_finish(tl_layout_t *layout, uint32_t head_bytes);

/// A tile in row form: index (u32), count (u32), then per measure count (u32), max (f32), min (f32), sum (f64),
/// square (f64), then the sketches. Little-endian, unaligned: the form of a change and of a partial.
void tl_tile_store(const void *record, const tl_layout_t *layout, int level, uint32_t slot, void *row);
void tl_tile_load(void *record, const tl_layout_t *layout, int level, uint32_t slot, const void *row);

/// Adds one event to the level's tile `index`. `values[m]` is NaN where measure m is missing; `hashes[d]` is 0 where
/// distinct d is. Returns 0 where the slot already holds a newer tile: the event is late for this level.
int tl_tile_add(void *record, const tl_layout_t *layout, int level, uint32_t index, const double *values,
                const uint64_t *hashes);

/// The same in a partial of a shared record, which is then merged into the record's columns. Returns 0 also where the
/// partial of another partition holds a newer tile.
int tl_partial_add(void *record, const tl_layout_t *layout, int level, uint32_t index, uint32_t partition,
                   const double *values, const uint64_t *hashes);

/// Where a partial's tile lies, and the merge of one slot's partials, in the partitions' order, into the columns.
void *tl_partial(void *record, const tl_layout_t *layout, int level, uint32_t slot, uint32_t partition);
void tl_partials_merge(void *record, const tl_layout_t *layout, int level, uint32_t slot);

/// Aggregates the tiles `first ... last` of a level. `sketches` says whether the distinct sketches are wanted.
void tl_window_read(const void *record, const tl_layout_t *layout, int level, uint32_t first, uint32_t last,
                    int sketches, tl_window_t *window);

/// How many distinct values a sketch has seen. Method: HyperLogLog (Flajolet et al. 2007) with 64 registers and linear
/// counting for few values; standard error 13 %, under 10 % below 40 values.
double tl_sketch_estimate(const uint8_t *sketch);

/// 0 scalar, 1 AVX2, 2 AVX-512; -1 gives the choice back to the processor. All levels give the same bits.
void tl_windows_force_level(int level);
