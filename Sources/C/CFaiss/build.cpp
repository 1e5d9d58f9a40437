#include <faiss/IndexHNSW.h>
#include <faiss/index_io.h>
#include <omp.h>

#include <algorithm>
#include <memory>

#include "Internal.h"

using namespace tideline;

namespace {

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
        Topology topology = insert_all(codes, *plan);
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
