// Every form of the nearest neighbours' kernels that this machine can run, over the same graphs: graphs that are built,
// code distances, results and expansions must be equal. `Tests/avx512` runs it where AVX-512 is emulated.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <random>
#include <string>
#include <vector>

#include "CFaiss.h"

using std::vector;

namespace {

constexpr uint32_t kRows = 120, kQueries = 4, kNeighbours = 10;

/// Points around centres, as real embeddings stand.
vector<float> clustered(uint32_t dimensions, bool unit, std::mt19937 &random) {
    std::uniform_real_distribution<float> wide(-1, 1), narrow(-.5f, .5f);
    vector<float> centres(20 * dimensions), rows(kRows * dimensions);
    for (float &value : centres) value = wide(random);
    for (uint32_t row = 0; row < kRows; row++) {
        const float *centre = &centres[random() % 20 * dimensions];
        float *vector = &rows[row * dimensions];
        double length = 0;
        for (uint32_t i = 0; i < dimensions; i++) {
            vector[i] = centre[i] + narrow(random);
            length += double(vector[i]) * vector[i];
        }
        for (uint32_t i = 0; unit && i < dimensions; i++) vector[i] = float(vector[i] / std::sqrt(length));
    }
    return rows;
}

bool is_odd(const void *, uint32_t node) { return node % 2 == 1; }

/// What one form says of a graph, number by number.
vector<uint32_t> ask(const char *path, tl_graph_metric metric, const vector<float> &queries, uint32_t dimensions) {
    tl_graph_error error;
    tl_graph *graph = tl_graph_open(path, metric, true, &error);
    if (graph == nullptr) {
        std::fprintf(stderr, "%s: %s\n", path, error.text);
        std::exit(2);
    }
    tl_seeker *seeker = tl_seeker_make();
    vector<uint32_t> said;
    for (size_t at = 0; at < queries.size(); at += dimensions) {
        const float *query = &queries[at];
        for (uint32_t node = 0; node < tl_graph_describe(graph).nodes; node++)
            said.push_back(tl_graph_code_distance(graph, query, node));
        // Two, three and four registers, and more than there are.
        for (uint32_t shortlist : {3u, 16u, 20u, 31u, 40u})
            for (tl_graph_passes passes : {tl_graph_passes(nullptr), &is_odd}) {
                const uint32_t k = std::min(kNeighbours, shortlist);
                const tl_seek seek = {k, .3f, 200, shortlist, passes, nullptr, UINT32_MAX, nullptr};
                vector<tl_found> found(kNeighbours);
                uint32_t count = tl_graph_search(graph, seeker, query, &seek, found.data());
                // Distances of floats are summed in another order: equal ones may change places.
                vector<uint32_t> nodes;
                for (uint32_t i = 0; i < count; i++) nodes.push_back(found[i].node);
                std::sort(nodes.begin(), nodes.end());
                said.push_back(tl_seeker_expansions(seeker));
                said.insert(said.end(), nodes.begin(), nodes.end());
            }
    }
    tl_seeker_free(seeker);
    tl_graph_close(graph);
    return said;
}

}  // namespace

int main(int, char **arguments) {
    const std::string folder = arguments[1];
    const int best = tl_graph_best_kernel();
    const char *const names[] = {"scalar", "AVX2", "AVX-512"};
    std::printf("forms up to %s\n", names[best]);
    size_t compared = 0, failed = 0;
    for (uint32_t dimensions : {2u, 16u, 31u, 32u, 33u, 50u, 64u, 100u, 128u, 768u})
        for (tl_graph_metric metric : {TL_GRAPH_SQUARED_L2, TL_GRAPH_INNER_PRODUCT, TL_GRAPH_COSINE}) {
            std::mt19937 random(dimensions * 3 + metric);
            const vector<float> rows = clustered(dimensions, metric == TL_GRAPH_COSINE, random);
            vector<float> queries(rows.begin(), rows.begin() + kQueries * dimensions);
            // A query that is far longer than all vectors.
            if (metric != TL_GRAPH_COSINE)
                for (uint32_t i = 0; i < dimensions; i++) queries[i] *= 1000;
            vector<vector<uint32_t>> orders, answers;
            std::string path = folder + "/graph";
            for (int form = 0; form <= best; form++) {
                tl_graph_use_kernel(tl_graph_kernel(form));
                const tl_graph_plan plan = {dimensions, metric, 16, 32, 32, 1};
                vector<uint32_t> order(kRows);
                tl_graph_error error;
                if (!tl_graph_build(rows.data(), kRows, &plan, path.c_str(), order.data(), &error)) {
                    std::fprintf(stderr, "%s\n", error.text);
                    return 2;
                }
                orders.push_back(order);
            }
            for (int form = 0; form <= best; form++) {
                tl_graph_use_kernel(tl_graph_kernel(form));
                answers.push_back(ask(path.c_str(), metric, queries, dimensions));
                compared += answers[form].size();
                if (orders[form] == orders[0] && answers[form] == answers[0]) continue;
                failed++;
                std::printf("FAILED: %s differs from scalar, %u dimensions, metric %d\n", names[form], dimensions, metric);
            }
            std::printf("%u dimensions, metric %d: %zu numbers compared\n", dimensions, metric, compared);
            std::fflush(stdout);
        }
    std::printf("%s: %zu numbers, %zu failed\n", failed == 0 ? "all forms are equal" : "FAILED", compared, failed);
    return failed == 0 ? 0 : 1;
}
