#include <faiss/IndexHNSW.h>
#include <faiss/index_io.h>
#include <faiss/impl/DistanceComputer.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>

#include "Internal.h"

using namespace tideline;

namespace {

/// Distances between stored vectors by their codes: FAISS's own take four times as long.
struct CodeDistance final : faiss::DistanceComputer {
    const Codes &codes;
    const float *rows;
    const Kernel &kernel = current_kernel();
    alignas(64) int16_t query[CODE_MAX];

    CodeDistance(const Codes &codes, const float *rows) : codes(codes), rows(rows) {}

    void decode(idx_t node, int16_t *code) const {
        const uint8_t *row = codes.row((uint32_t)node);
        for (uint32_t d = 0; d < codes.stride; d++) code[d] = row[d];
    }
    /// FAISS asks for rows that it was given, nothing else.
    void set_query(const float *row) override { decode((idx_t)((size_t)(row - rows) / codes.dimensions), query); }
    float operator()(idx_t node) override {
        return (float)kernel.distance(query, codes.row((uint32_t)node), codes.stride);
    }
    float symmetric_dis(idx_t a, idx_t b) override {
        alignas(64) int16_t code[CODE_MAX];
        decode(a, code);
        return (float)kernel.distance(code, codes.row((uint32_t)b), codes.stride);
    }
};

/// Storage that holds nothing of its own. Its metric is L2 to FAISS: codes have it whatever the vectors' metric.
struct CodeStorage final : faiss::Index {
    const Codes &codes;
    const float *rows;

    CodeStorage(const Codes &codes, const float *rows)
        : faiss::Index(codes.dimensions, faiss::METRIC_L2), codes(codes), rows(rows) {}
    void add(idx_t n, const float *) override { ntotal += n; }
    void reset() override { ntotal = 0; }
    void search(idx_t, const float *, idx_t, float *, idx_t *, const faiss::SearchParameters *) const override {
        throw std::logic_error("storage is not searched");
    }
    faiss::DistanceComputer *get_distance_computer() const override { return new CodeDistance(codes, rows); }
};

Topology built(const Codes &codes, const float *rows, const tl_graph_plan &plan) {
    CodeStorage storage(codes, rows);
    faiss::IndexHNSW index(&storage, (int)plan.links);
    index.own_fields = false;
    index.is_trained = true;
    index.hnsw.efConstruction = (int)plan.effort;
    const int before = omp_get_max_threads();
    omp_set_num_threads((int)plan.threads);
    try {
        index.add(codes.count, rows);
    } catch (...) {
        omp_set_num_threads(before);
        throw;
    }
    omp_set_num_threads(before);
    const faiss::HNSW &hnsw = index.hnsw;
    Topology topology;
    topology.links = plan.links;
    topology.links_max = (uint32_t)hnsw.nb_neighbors(0);
    topology.effort = (int)plan.effort;
    topology.entry = (uint32_t)hnsw.entry_point;
    topology.levels.assign(hnsw.levels.begin(), hnsw.levels.end());
    topology.ground.resize((size_t)codes.count * topology.links_max);
    topology.upper_first.resize(codes.count + 1);
    for (uint32_t node = 0; node < codes.count; node++) {
        const int *list = hnsw.neighbors.data() + hnsw.offsets[node];
        const size_t all = hnsw.offsets[node + 1] - hnsw.offsets[node];
        uint32_t *ground = topology.ground.data() + (size_t)node * topology.links_max;
        bool ended = false;
        for (uint32_t i = 0; i < topology.links_max; i++) {
            ended = ended || list[i] < 0;
            ground[i] = ended ? UINT32_MAX : (uint32_t)list[i];
        }
        topology.upper_first[node] = topology.upper.size();
        topology.upper.insert(topology.upper.end(), list + topology.links_max, list + all);
    }
    topology.upper_first[codes.count] = topology.upper.size();
    return topology;
}

void check(const tl_graph_plan &plan, uint32_t count) {
    if (count == 0) throw std::invalid_argument("a graph of nothing");
    if (count > INT32_MAX / 2) throw std::invalid_argument("too many vectors for one graph");
    if (plan.dimensions < TL_GRAPH_DIMENSIONS_MIN || plan.dimensions > TL_GRAPH_DIMENSIONS_MAX)
        throw std::invalid_argument("dimensions must be 2 to 1536");
    if (plan.links < 4 || plan.links > 128 || plan.links_max < 8 || plan.links_max > 256 || plan.effort < 8
        || plan.threads < 1 || plan.threads > 256)
        throw std::invalid_argument("a plan out of its range");
}

uint64_t mixed(uint64_t a, uint64_t b) {
    const unsigned __int128 product = (unsigned __int128)(a ^ 0x9E3779B97F4A7C15u) * (b ^ 0xD6E8FEB86659FD93u);
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

}  // namespace

bool tl_graph_build(
    const float *rows, uint32_t count, const tl_graph_plan *plan, const char *path, uint32_t *order,
    tl_graph_error *error) {
    return guarded(error, false, [&] {
        check(*plan, count);
        const Codes codes((const char *)rows, count, plan->dimensions, plan->metric);
        Topology topology = built(codes, rows, *plan);
        enrich(topology, codes, plan->links_max, plan->threads);
        connect(topology, codes);
        renumber(topology, order);
        write_faiss(path, topology, rows, order, count, plan->dimensions, plan->metric);
        return true;
    });
}

uint32_t tl_graph_group(
    const float *rows, uint32_t count, uint32_t dimensions, uint32_t *node_of, tl_graph_error *error) {
    return guarded(error, 0u, [&] {
        size_t size = 1024;
        while (size < 2 * (size_t)count) size *= 2;
        std::vector<uint32_t> table(size, UINT32_MAX);
        std::vector<uint32_t> first;
        for (uint32_t row = 0; row < count; row++) {
            const float *vector = rows + (size_t)row * dimensions;
            uint64_t hash = dimensions;
            for (uint32_t d = 0; d < dimensions; d++) {
                const float value = vector[d] + 0.0f;
                uint32_t bits;
                std::memcpy(&bits, &value, sizeof bits);
                hash = mixed(hash, bits);
            }
            size_t place = hash & (size - 1);
            for (;; place = (place + 1) & (size - 1)) {
                if (table[place] == UINT32_MAX) {
                    table[place] = (uint32_t)first.size();
                    first.push_back(row);
                    break;
                }
                const float *other = rows + (size_t)first[table[place]] * dimensions;
                if (std::equal(vector, vector + dimensions, other)) break;
            }
            node_of[row] = table[place];
        }
        return (uint32_t)first.size();
    });
}

bool tl_graph_faiss_search(
    const char *path, const float *query, uint32_t k, uint32_t effort, tl_found *found, tl_graph_error *error) {
    return guarded(error, false, [&] {
        std::unique_ptr<faiss::Index> index(faiss::read_index(path));
        auto *graph = dynamic_cast<faiss::IndexHNSW *>(index.get());
        if (graph == nullptr) throw std::invalid_argument("no HNSW index");
        graph->hnsw.efSearch = (int)effort;
        std::vector<float> distances(k);
        std::vector<faiss::Index::idx_t> nodes(k);
        const int before = omp_get_max_threads();
        omp_set_num_threads(1);
        index->search(1, query, k, distances.data(), nodes.data());
        omp_set_num_threads(before);
        for (uint32_t i = 0; i < k; i++) found[i] = {distances[i], (uint32_t)nodes[i]};
        return true;
    });
}
