#pragma once

#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <vector>

#include "CFaiss.h"

#define INLINE static inline __attribute__((always_inline))

namespace tideline {

/// Zeroed memory in huge pages where the system has them: a search touches a thousand random lines (8 % of its time).
struct Pages {
    uint8_t *data = nullptr;
    size_t size = 0;

    Pages() = default;
    explicit Pages(size_t size);
    Pages(Pages &&other) noexcept : data(other.data), size(other.size) { other.data = nullptr; }
    Pages &operator=(Pages &&other) noexcept;
    ~Pages();
};

/// Vectors as bytes: turned at random, every coordinate in steps of one size from its own offset, so that squared distances
/// of codes are squared distances of vectors in units of step². For the inner product a coordinate sqrt(R² − |x|²) is
/// added, under which the nearest is the one of the largest product (Bachrach et al. 2014): one kernel serves all metrics.
struct Codes {
    uint32_t count = 0, dimensions = 0;
    enum tl_graph_metric metric = TL_GRAPH_SQUARED_L2;
    /// Coordinates before turning; coordinates and bytes of a code: 32, or a multiple of 64.
    uint32_t width = 0, stride = 0;
    float step = 1;
    std::vector<float> offset;
    double radius2 = 0;
    double query_norm = 1;
    Pages data;

    /// `rows` may be unaligned. Throws where a number is not finite.
    Codes(const char *rows, uint32_t count, uint32_t dimensions, enum tl_graph_metric metric);
    const uint8_t *row(uint32_t node) const { return data.data + (size_t)node * stride; }
    void decode(uint32_t node, int16_t *code) const {
        const uint8_t *from = row(node);
        for (uint32_t d = 0; d < stride; d++) code[d] = from[d];
    }
    /// `code` has `stride` places.
    void encode_query(const float *query, int16_t *code) const;

private:
    /// `turned` has `stride` places. Returns the squared length.
    double turn(const char *row, float *turned) const;
    void measure(const char *rows);
};

/// What a node's list tells of its neighbours before their codes are read, so that nine of ten are never asked for.
///
/// A node's record in `tl_graph::links`: its links (`link_stride`), then for each block of 64 links the signs of the
/// differences of codes, neighbour less node, in the first `bits` coordinates (byte b of all 64, for each b), and the
/// length of each difference as one of sixteen: byte i has link i's below link i + 32's. Then the count of links.
struct Sketches {
    uint32_t bits = 0;
    float lengths[16], inverse[16];
    /// S = Σ ±r, the signs from the sketch, estimates the product of r with the difference over its length: times this.
    float scale = 1;
    /// The standard deviation of the cosine so estimated, times how many of them a neighbour is allowed.
    float margin = 0;
    /// What |r| of the first `bits` coordinates sum to, over the length of r: a little more than is usual.
    float reach = 1;

    uint32_t block_bytes() const { return bits * 8 + 32; }
};

/// Codes of sampled nodes, in lists under pivots: where a search starts. Lists of neighbouring pivots stand together.
struct Entries {
    uint32_t pivots = 0, samples = 0;
    std::vector<uint32_t> first;  // of each pivot's list; pivots + 1
    std::vector<uint32_t> nodes;
    Pages pivot_codes, sample_codes;
};

struct Batch {
    uint32_t count;
    uint32_t nodes[1024 + 4];
};

}  // namespace tideline

#define SEEN_BITS 12
#define UNDER_WAY 2
#define AHEAD 2
#define CODE_MAX 1568
/// So many of the nearest are kept in registers, where there are some.
#define SORTED_MAX 32

struct tl_graph {
    uint32_t nodes = 0, dimensions = 0;
    enum tl_graph_metric metric = TL_GRAPH_SQUARED_L2;
    uint32_t link_stride = 0;
    /// Bytes of a node's record.
    size_t record = 0;
    tideline::Pages links;
    tideline::Sketches sketches;
    tideline::Codes *codes = nullptr;
    tideline::Entries entries;
    /// Nodes' vectors, `dimensions` floats each; unaligned when they are mapped.
    const char *floats = nullptr;
    tideline::Pages resident;
    const uint8_t *file = nullptr;
    size_t file_length = 0, faiss_length = 0;

    const uint32_t *list(uint32_t node) const { return (const uint32_t *)(links.data + node * record); }
    const uint8_t *sketch(uint32_t node) const { return links.data + node * record + link_stride * sizeof(uint32_t); }
    uint32_t blocks() const { return (link_stride + 63) / 64; }
    const uint32_t &degree(uint32_t node) const { return *(const uint32_t *)(links.data + (node + 1) * record - 4); }
    const char *vector(uint32_t node) const { return floats + (size_t)node * dimensions * sizeof(float); }
    ~tl_graph();
};

struct tl_seeker {
    // Candidates: a 4-ary heap of distance << 32 | node.
    std::vector<uint64_t> heap;
    size_t open = 0;
    // The nearest that pass, sorted; then UINT64_MAX.
    std::vector<uint64_t> best;
    uint32_t best_count = 0;
    // Whose neighbours were looked at, exactly: what `seen` forgets would otherwise be looked at for ever.
    std::vector<uint32_t> expanded;
    std::vector<uint32_t> expanded_places;
    uint32_t expansions = 0;
    // Nodes met of late, direct mapped: it may forget.
    uint32_t epoch = 0;
    alignas(64) uint32_t seen[1 << SEEN_BITS] = {};
    alignas(64) int16_t query[CODE_MAX];
    alignas(64) uint32_t distances[1024 + 64] = {};
    /// What an agreeing group of four signs is worth, for the node that is looked at; and what must come together.
    alignas(64) uint8_t worth[16 * 16];
    alignas(64) uint8_t needed[16];
    float unit[TL_GRAPH_DIMENSIONS_MAX];
    // Nodes whose records were asked for, as distance << 32 | node; then batches whose codes were.
    uint32_t limit = 0;
    uint32_t taken_first = 0, taken_count = 0, batch_first = 0, batch_count = 0;
    uint64_t taken[AHEAD];
    tideline::Batch batches[UNDER_WAY];
};

namespace tideline {

/// One form of everything that is worth SIMD.
struct Kernel {
    uint32_t (*distance)(const int16_t *query, const uint8_t *code, uint32_t stride);
    /// Of `count` nodes; `result` has room up to a multiple of 4.
    void (*distances)(
        const int16_t *query, const uint8_t *codes, uint32_t stride, const uint32_t *nodes, uint32_t count,
        uint32_t *result);
    float (*squared_l2)(const float *query, const char *vector, uint32_t dimensions);
    float (*product)(const float *query, const char *vector, uint32_t dimensions);
    /// Fills the seeker's `best`; its query is set.
    void (*seek)(const tl_graph &graph, tl_seeker &seeker, const tl_seek &seek);
    /// Bit d is set where a[d] > b[d], of 64 or 32 coordinates.
    uint64_t (*above)(const uint8_t *a, const uint8_t *b, uint32_t bits);
};

extern const Kernel scalar_kernel;
#if defined(__x86_64__)
extern const Kernel avx2_kernel, avx512_kernel;
#endif
const Kernel &current_kernel();

/// The ground level and what FAISS needs above it.
struct Topology {
    uint32_t links_max = 0;
    /// `links_max` a node, UINT32_MAX after the last.
    std::vector<uint32_t> ground;
    std::vector<int> levels;
    /// Links above the ground, node by node, level by level, `links` each, −1 after the last.
    std::vector<size_t> upper_first;
    std::vector<int> upper;
    uint32_t links = 0;
    uint32_t entry = 0;
    int effort = 0;
};

void write_faiss(
    const char *path, const Topology &topology, const float *rows, const uint32_t *order, uint32_t count,
    uint32_t dimensions, enum tl_graph_metric metric);

/// An HNSW graph over the codes, the same each time with one thread.
Topology insert_all(const Codes &codes, const tl_graph_plan &plan);
/// Extends the ground level by two-hop candidates, under pruning.
void enrich(Topology &topology, const Codes &codes, uint32_t links_max, uint32_t threads);
/// Sees to it that every node is reached from the entry.
void connect(Topology &topology, const Codes &codes);
/// Numbers nodes so that neighbours follow each other, depth first from the entry; `order[i]` is the old number of the new
/// node i.
void renumber(Topology &topology, uint32_t *order);

void make_entries(tl_graph &graph);
/// Room for records is there; links and degrees are set.
void make_sketches(tl_graph &graph);

inline void fail(tl_graph_error *error, const char *what) {
    if (error == nullptr) return;
    std::strncpy(error->text, what, sizeof error->text - 1);
    error->text[sizeof error->text - 1] = 0;
}

/// Runs `body`; what it throws becomes the error and the other result.
template <class Result, class Body>
Result guarded(tl_graph_error *error, Result otherwise, Body body) {
    try {
        return body();
    } catch (const std::bad_alloc &) {
        fail(error, "no memory");
    } catch (const std::exception &exception) {
        fail(error, exception.what());
    } catch (...) {
        fail(error, "an exception without a message");
    }
    return otherwise;
}

}  // namespace tideline
