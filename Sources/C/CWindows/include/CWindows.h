#pragma once
#include <stddef.h>
#include <stdint.h>

/// Window tiles of one entity, in one compact record: rings of 1-minute, 1-hour and 1-day tiles.
///
/// A tile is known by its index, time divided by its width, counted from 1970. A ring holds the last tiles up to the
/// entity's newest: a tile's slot is its index modulo the ring's size, and a bit says whether it is there. A tile is a row
/// of bytes, the same in the record, in a change and in a partial: what an event adds lies in one or two cache lines a
/// level, and a window touches those of its tiles that are there. (As columns, a ring of sums beside a ring of maxima,
/// each event touched a line a column: twice the time where entities do not fit the caches.) What nobody reads is not kept.

enum {
    TL_LEVELS = 3,
    TL_MEASURES_MAX = 8,
    TL_DISTINCTS_MAX = 4,
    TL_SKETCH_BYTES = 32,  // 64 registers of 4 bits
    TL_LANES = 8,          // sums run in 8 lanes and fold in one written order, so every machine gets the same bits
};

/// The columns of a measure. Where `TL_COUNT` is left out, every event has the measure: its count is the tile's.
enum { TL_COUNT = 1, TL_MAX = 2, TL_MIN = 4, TL_SUM = 8, TL_SQUARE = 16, TL_COLUMNS = 5 };

typedef struct {
    uint32_t slots;   // a power of two up to 64; 0 where no window needs the level
    uint32_t offset;  // of the level's tiles in the record, [slot]
    uint32_t sketches;  // whether this level keeps the distinct sketches
    uint32_t tile_bytes;
    uint32_t partials_offset;  // of the partitions' tiles, [slot][partition], in a shared record
    uint32_t sketches_offset;  // of the sketches in a tile
    uint8_t columns[TL_MEASURES_MAX];  // which of TL_COUNT ... TL_SQUARE each measure keeps
    uint32_t column_offset[TL_MEASURES_MAX][TL_COLUMNS];  // in a tile
    int64_t width;    // microseconds
} tl_level_t;

typedef struct {
    uint32_t record_bytes;
    uint32_t rings_offset; // of tl_rings_t in the record's head, given
    uint32_t measures;
    uint32_t distincts;
    uint32_t partitions;  // 0 for a record of one partition; else the number of partials that a shared record merges
    uint32_t last_offset; // of the partials' last event times, in a shared record
    tl_level_t levels[TL_LEVELS];
} tl_layout_t;

/// Where each level's ring stands: its newest index (0 while it is empty), and which slots hold a tile.
typedef struct {
    uint64_t occupied[TL_LEVELS];
    uint32_t newest[TL_LEVELS];
} tl_rings_t;

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

/// Lays out a record whose tiles begin at `head_bytes`. Levels' `slots`, `width`, `sketches` and `columns` are given.
void tl_layout_finish(tl_layout_t *layout, uint32_t head_bytes);

/// A tile: index (u32), count (u32), then per measure the kept ones of count (u32), max (f32), min (f32), sum (f64),
/// square (f64), then the sketches. Little-endian, unaligned. An empty slot is stored with index 0.
void tl_tile_store(const void *record, const tl_layout_t *layout, int level, uint32_t slot, void *row);

/// Takes in a tile: the ring moves on to it, or ignores one that is older than the ring.
void tl_tile_load(void *record, const tl_layout_t *layout, int level, const void *row);

/// Puts a slot's tile back as `tl_tile_store` gave them; the rings are put back apart from it.
void tl_slot_restore(void *record, const tl_layout_t *layout, int level, uint32_t slot, const void *row);

/// Where a partial's tile lies, and the merge of one slot's partials, in the partitions' order, into the slot's own.
void *tl_partial(void *record, const tl_layout_t *layout, int level, uint32_t slot, uint32_t partition);
void tl_partials_merge(void *record, const tl_layout_t *layout, int level, uint32_t slot);

/// A window: `tiles` whole tiles of a level, and the one that the time lies in. `sketches`: whether the distinct ones are
/// wanted.
typedef struct {
    uint32_t level;
    uint32_t tiles;
    uint32_t sketches;
} tl_span_t;

/// Aggregates a record's windows as of a time: `spans` in, as many `windows` out.
void tl_windows_read(const void *record, const tl_layout_t *layout, int64_t time, const tl_span_t *spans, uint32_t count,
                     tl_window_t *windows);

/// Adds one event to the tiles of every level. `values[m]` is NaN where measure m is missing; `hashes[d]` is 0 where
/// distinct d is. In a shared record it goes to the partition's partials, which are merged into the slot's own. Returns 1
/// where the event is older than a level's ring: it is late for its windows.
int tl_add(void *record, const tl_layout_t *layout, int64_t time, uint32_t partition, const double *values,
           const uint64_t *hashes);

/// Asks the processor for the cache lines of a record that an event of this time will need. A hint: any record may be
/// given. `partition` matters to shared records.
void tl_prefetch(const void *record, const tl_layout_t *layout, int64_t time, uint32_t partition);

/// Zeroed pages, NULL where there are none. No huge ones: clearing 2 MB at a first touch put 8 ms on the slowest events
/// (ingest to visible p99 18.7 against 8.8 ms at 1,000 events/s), and throughput was no better.
void *tl_slab_allocate(size_t bytes);
void tl_slab_free(void *slab, size_t bytes);

/// How many distinct values a sketch has seen. Method: HyperLogLog (Flajolet et al. 2007) with 64 registers and linear
/// counting for few values; standard error 13 %, under 10 % below 40 values.
double tl_sketch_estimate(const uint8_t *sketch);

/// 0 scalar, 1 AVX2 (sketches); -1 gives the choice back to the processor. All levels give the same bits.
void tl_windows_force_level(int level);
