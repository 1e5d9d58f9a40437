#include <algorithm>
#include <atomic>
#include <cmath>
#include <new>
#include <thread>

#include "Internal.h"

using namespace tideline;

// MARK: Kernels

static std::atomic<int> chosen{-1};

enum tl_graph_kernel tl_graph_best_kernel(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq")
        && __builtin_cpu_supports("avx512vl"))
        return TL_GRAPH_AVX512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return TL_GRAPH_AVX2;
#endif
    return TL_GRAPH_SCALAR;
}

enum tl_graph_kernel tl_graph_current_kernel(void) {
    int kernel = chosen.load(std::memory_order_relaxed);
    if (kernel < 0) {
        kernel = (int)tl_graph_best_kernel();
        chosen.store(kernel, std::memory_order_relaxed);
    }
    return (enum tl_graph_kernel)kernel;
}

bool tl_graph_use_kernel(enum tl_graph_kernel kernel) {
    if (kernel > tl_graph_best_kernel()) return false;
    chosen.store((int)kernel, std::memory_order_relaxed);
    return true;
}

const Kernel &tideline::current_kernel() {
    switch (tl_graph_current_kernel()) {
#if defined(__x86_64__)
    case TL_GRAPH_AVX512: return avx512_kernel;
    case TL_GRAPH_AVX2: return avx2_kernel;
#endif
    default: return scalar_kernel;
    }
}

// MARK: The seeker

tl_seeker *tl_seeker_make(void) {
    return guarded(nullptr, (tl_seeker *)nullptr, [] {
        auto *seeker = new tl_seeker;
        try {
            seeker->heap.resize(4096);
        } catch (...) {
            delete seeker;
            throw;
        }
        return seeker;
    });
}

void tl_seeker_free(tl_seeker *seeker) { delete seeker; }

uint32_t tl_seeker_expansions(const tl_seeker *seeker) { return seeker->expansions; }

static void prepare(tl_seeker &s, const tl_seek &o) {
    for (uint32_t i = 0; i < s.expansions; i++) s.expanded[s.expanded_places[i]] = 0;
    s.expansions = 0;
    if (s.expanded_places.size() < o.expansions_max) {
        size_t size = 256;
        while (size < 2 * (size_t)o.expansions_max + 2) size *= 2;
        s.expanded.assign(size, 0);
        s.expanded_places.resize(o.expansions_max);
    }
    if (s.best.size() < std::max<size_t>(o.rerank, SORTED_MAX)) s.best.resize(std::max<size_t>(o.rerank, SORTED_MAX));
    std::fill_n(s.best.begin(), SORTED_MAX, UINT64_MAX);
    s.open = 0;
    s.best_count = 0;
    s.taken_count = s.batch_count = 0;
    s.epoch++;
    // A mark holds 13 bits of the epoch; 0 with node 0 is what empty places look like.
    if ((s.epoch & ((1u << (SEEN_BITS + 1)) - 1)) == 0) {
        std::memset(s.seen, 0, sizeof s.seen);
        s.epoch++;
    }
}

// MARK: Distances by floats

/// A query as its metric wants it: for the cosine at length 1.
static const float *shaped(const tl_graph &graph, const float *query, float *unit) {
    if (graph.metric != TL_GRAPH_COSINE) return query;
    double norm2 = 0;
    for (uint32_t d = 0; d < graph.dimensions; d++) norm2 += (double)query[d] * query[d];
    const double factor = norm2 > 0 ? 1 / std::sqrt(norm2) : 0;
    for (uint32_t d = 0; d < graph.dimensions; d++) unit[d] = (float)(query[d] * factor);
    return unit;
}

static inline float exact(const tl_graph &graph, const Kernel &kernel, const float *query, uint32_t node) {
    switch (graph.metric) {
    case TL_GRAPH_INNER_PRODUCT: return -kernel.product(query, graph.vector(node), graph.dimensions);
    case TL_GRAPH_COSINE: return kernel.squared_l2(query, graph.vector(node), graph.dimensions) / 2;
    default: return kernel.squared_l2(query, graph.vector(node), graph.dimensions);
    }
}

static inline bool before(const tl_found &a, const tl_found &b) {
    return a.distance < b.distance || (a.distance == b.distance && a.node < b.node);
}

/// Keeps the k nearest, sorted. Returns the new count.
static inline uint32_t insert(tl_found *found, uint32_t count, uint32_t k, tl_found item) {
    if (count == k && !before(item, found[k - 1])) return count;
    uint32_t place = count < k ? count : k - 1;
    while (place > 0 && before(item, found[place - 1])) {
        found[place] = found[place - 1];
        place--;
    }
    found[place] = item;
    return count < k ? count + 1 : k;
}

static inline void prefetch(const tl_graph &graph, uint32_t node) {
    const char *vector = graph.vector(node);
    const size_t bytes = std::min<size_t>(graph.dimensions * sizeof(float), 512);
    for (size_t at = 0; at < bytes; at += 64) __builtin_prefetch(vector + at);
}

// MARK: Searching

static tl_seek bounded(const tl_graph &graph, tl_seek seek) {
    seek.k = std::min(seek.k, graph.nodes);
    seek.rerank = std::min(std::max(seek.rerank, seek.k), graph.nodes);
    seek.expansions_max = std::max(1u, std::min(seek.expansions_max, graph.nodes));
    return seek;
}

/// Under so many coordinates rounding is not what many independent errors sum to, and cosines stray farther.
static const uint32_t few = 12;

/// How many of the nearest by code are compared again by floats: those that rounding may have kept from the first k. A
/// squared distance d of codes is off by rounding with a deviation of about sqrt(4 d / 6), where a step is 1, and of two that are near by a few steps at any rate.
static uint32_t doubtful(const tl_graph &graph, const tl_seeker &seeker, uint32_t k) {
    if (seeker.best_count <= k || graph.codes->width < few) return seeker.best_count;
    const float last = (float)(seeker.best[k - 1] >> 32);
    const float most = last + 3 * std::sqrt(last + (float)graph.codes->stride);
    uint32_t count = k;
    while (count < seeker.best_count && (float)(seeker.best[count] >> 32) <= most) count++;
    return count;
}

/// Compares the nearest by code again, by their floats, and asks for their rows.
static uint32_t ranked(
    const tl_graph &graph, const Kernel &kernel, const tl_seeker &seeker, const float *shape, uint32_t k,
    const tl_row *rows, tl_found *found) {
    const uint32_t doubtful_count = doubtful(graph, seeker, k);
    for (uint32_t i = 0; i < doubtful_count; i++) {
        const uint32_t node = (uint32_t)seeker.best[i];
        prefetch(graph, node);
        if (rows != nullptr) __builtin_prefetch(rows + node);
    }
    uint32_t count = 0;
    for (uint32_t i = 0; i < doubtful_count; i++) {
        const uint32_t node = (uint32_t)seeker.best[i];
        count = insert(found, count, k, {exact(graph, kernel, shape, node), node});
    }
    return count;
}

uint32_t tl_graph_search(
    const tl_graph *graph, tl_seeker *seeker, const float *query, const tl_seek *seek, tl_found *found) {
    return guarded(nullptr, UINT32_MAX, [&]() -> uint32_t {
        if (seek->k == 0 || graph->nodes == 0) return 0;
        const tl_seek options = bounded(*graph, *seek);
        const Kernel &kernel = current_kernel();
        prepare(*seeker, options);
        const float *shape = shaped(*graph, query, seeker->unit);
        graph->codes->encode_query(shape, seeker->query);
        kernel.seek(*graph, *seeker, options);
        return ranked(*graph, kernel, *seeker, shape, options.k, options.rows, found);
    });
}

void tl_rows_prefetch(const uint32_t *first, const tl_row *rows, const tl_found *found, uint32_t count) {
    for (uint32_t i = 0; i < count; i++) __builtin_prefetch(first + found[i].node);
    for (uint32_t i = 0; i < count; i++) __builtin_prefetch(rows + first[found[i].node]);
}

uint32_t tl_graph_scan(
    const tl_graph *graph, const float *query, const uint32_t *nodes, uint32_t count, uint32_t k,
    tl_graph_passes passes, const void *context, uint32_t excluded, tl_found *found) {
    if (k == 0) return 0;
    const Kernel &kernel = current_kernel();
    float unit[TL_GRAPH_DIMENSIONS_MAX];
    const float *shape = shaped(*graph, query, unit);
    const uint32_t total = nodes != nullptr ? count : graph->nodes;
    uint32_t kept = 0;
    for (uint32_t i = 0; i < total; i++) {
        const uint32_t node = nodes != nullptr ? nodes[i] : i;
        if (nodes != nullptr && i + 8 < total) prefetch(*graph, nodes[i + 8]);
        if (node == excluded) continue;
        const tl_found item = {exact(*graph, kernel, shape, node), node};
        if (kept == k && !before(item, found[k - 1])) continue;
        if (passes != nullptr && !passes(context, node)) continue;
        kept = insert(found, kept, k, item);
    }
    return kept;
}

bool tl_graph_truth(
    const tl_graph *graph, const uint32_t *nodes, uint32_t count, uint32_t k, uint32_t threads, tl_found *found,
    tl_graph_error *error) {
    return guarded(error, false, [&] {
        const Kernel &kernel = current_kernel();
        auto work = [&](uint32_t first, uint32_t end) {
            std::vector<float> queries((size_t)(end - first) * graph->dimensions);
            std::vector<uint32_t> kept(end - first, 0);
            for (uint32_t q = first; q < end; q++)
                tl_graph_vector(graph, nodes[q], queries.data() + (size_t)(q - first) * graph->dimensions);
            // So many vectors at a time as stay in the first cache while all queries pass over them.
            const uint32_t block = std::max(1u, 16384 / (graph->dimensions * (uint32_t)sizeof(float)));
            for (uint32_t start = 0; start < graph->nodes; start += block) {
                const uint32_t stop = std::min(graph->nodes, start + block);
                for (uint32_t q = first; q < end; q++) {
                    tl_found *best = found + (size_t)q * k;
                    const float *query = queries.data() + (size_t)(q - first) * graph->dimensions;
                    uint32_t &have = kept[q - first];
                    for (uint32_t node = start; node < stop; node++) {
                        if (node == nodes[q]) continue;
                        have = insert(best, have, k, {exact(*graph, kernel, query, node), node});
                    }
                }
            }
        };
        std::vector<std::thread> running;
        for (uint32_t t = 1; t < threads; t++)
            running.emplace_back(
                work, (uint32_t)((uint64_t)count * t / threads), (uint32_t)((uint64_t)count * (t + 1) / threads));
        work(0, count / threads);
        for (auto &thread : running) thread.join();
        return true;
    });
}

uint32_t tl_graph_code_distance(const tl_graph *graph, const float *query, uint32_t node) {
    alignas(64) int16_t code[CODE_MAX];
    float unit[TL_GRAPH_DIMENSIONS_MAX];
    graph->codes->encode_query(shaped(*graph, query, unit), code);
    return current_kernel().distance(code, graph->codes->row(node), graph->codes->stride);
}

// MARK: Where a search starts

/// Samples every so many nodes, groups them under pivots chosen among them, each to its nearest.
void tideline::make_entries(tl_graph &graph) {
    const Codes &codes = *graph.codes;
    Entries &entries = graph.entries;
    const uint32_t samples = std::max(1u, std::min({graph.nodes, 4096u, std::max(64u, graph.nodes / 16)}));
    const uint32_t pivots = std::max(1u, std::min(128u, samples / 32));
    const size_t stride = codes.stride;
    std::vector<uint32_t> sampled(samples), nearest(samples);
    for (uint32_t i = 0; i < samples; i++) sampled[i] = (uint32_t)((uint64_t)i * graph.nodes / samples);
    entries.pivots = pivots;
    entries.samples = samples;
    entries.pivot_codes = Pages((pivots + 4) * stride);
    entries.sample_codes = Pages((samples + 4) * stride);
    for (uint32_t p = 0; p < pivots; p++)
        std::memcpy(
            entries.pivot_codes.data + p * stride, codes.row(sampled[(uint64_t)p * samples / pivots]), stride);
    const Kernel &kernel = current_kernel();
    entries.first.assign(pivots + 1, 0);
    alignas(64) int16_t query[CODE_MAX];
    for (uint32_t i = 0; i < samples; i++) {
        for (uint32_t d = 0; d < stride; d++) query[d] = codes.row(sampled[i])[d];
        uint32_t least = UINT32_MAX;
        for (uint32_t p = 0; p < pivots; p++) {
            const uint32_t distance =
                kernel.distance(query, entries.pivot_codes.data + p * stride, codes.stride);
            if (distance < least) {
                least = distance;
                nearest[i] = p;
            }
        }
        entries.first[nearest[i] + 1]++;
    }
    for (uint32_t p = 0; p < pivots; p++) entries.first[p + 1] += entries.first[p];
    std::vector<uint32_t> next(entries.first.begin(), entries.first.end() - 1);
    entries.nodes.resize(samples);
    for (uint32_t i = 0; i < samples; i++) {
        const uint32_t place = next[nearest[i]]++;
        entries.nodes[place] = sampled[i];
        std::memcpy(entries.sample_codes.data + place * stride, codes.row(sampled[i]), stride);
    }
}

// MARK: What lists tell of neighbours

/// Standard deviations that a neighbour's estimated cosine may lack. More reads more codes, less expands more nodes.
static const float allowed = 0.5f;

void tideline::make_sketches(tl_graph &graph) {
    const Kernel &kernel = current_kernel();
    const Codes &codes = *graph.codes;
    Sketches &sketches = graph.sketches;
    const uint32_t bits = sketches.bits;
    // Of directions alike in all coordinates, the mean of |x| is sqrt(2/π) of the root of the mean of x².
    const float a = 0.7978846f, part = (float)codes.stride / (float)bits;
    const float sigma = std::sqrt(((1 - a * a) / (a * a) + (part - 1)) / (float)bits);
    sketches.scale = std::sqrt(part) / (a * std::sqrt((float)bits));
    sketches.margin = (codes.width < few ? 2 : allowed) * sigma;
    sketches.reach = 1.07f * a * std::sqrt((float)bits / part);
    alignas(64) int16_t code[CODE_MAX];
    auto decode = [&](uint32_t node) {
        for (uint32_t d = 0; d < codes.stride; d++) code[d] = codes.row(node)[d];
    };
    std::vector<uint32_t> lengths;
    const uint32_t every = std::max(1u, graph.nodes / 2000);
    for (uint32_t node = 0; node < graph.nodes; node += every) {
        decode(node);
        for (uint32_t i = 0; i < graph.degree(node); i++)
            lengths.push_back(kernel.distance(code, codes.row(graph.list(node)[i]), codes.stride));
    }
    if (lengths.empty()) lengths.push_back(1);
    std::sort(lengths.begin(), lengths.end());
    uint32_t bounds[16];
    for (uint32_t i = 0; i < 16; i++) {
        sketches.lengths[i] = std::sqrt((float)std::max(1u, lengths[lengths.size() * (2 * i + 1) / 32]));
        sketches.inverse[i] = 1 / sketches.lengths[i];
        bounds[i] = i == 0 ? 0 : lengths[lengths.size() * i / 16];
    }
    for (uint32_t node = 0; node < graph.nodes; node++) {
        if (node + 1 < graph.nodes)
            for (uint32_t i = 0; i < graph.degree(node + 1); i++)
                __builtin_prefetch(codes.row(graph.list(node + 1)[i]));
        decode(node);
        const uint32_t *list = graph.list(node);
        for (uint32_t i = 0; i < graph.degree(node); i++) {
            const uint32_t j = i % 64;
            auto *block = (uint8_t *)graph.sketch(node) + i / 64 * sketches.block_bytes();
            const uint8_t *other = codes.row(list[i]);
            const uint64_t signs = kernel.above(other, codes.row(node), bits);
            for (uint32_t b = 0; b < bits / 8; b++) block[64 * b + j] = (uint8_t)(signs >> 8 * b);
            const uint32_t length = kernel.distance(code, other, codes.stride);
            uint32_t level = length >= bounds[8] ? 8 : 0;
            for (uint32_t half = 4; half > 0; half /= 2) if (length >= bounds[level + half]) level += half;
            block[8 * bits + j % 32] |= (uint8_t)(level << (j / 32 * 4));
        }
    }
}
