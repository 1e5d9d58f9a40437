#include <algorithm>
#include <cstring>
#include <thread>

#include "Internal.h"

// What is done to a graph between its building and its file.

namespace tideline {

/// α² of the pruning (Vamana, Subramanya et al. 2019): a candidate goes where one that was taken is nearer to it by this.
static const float slack = 1.44f;
static const uint32_t considered = 200;

namespace {

/// The links of one node, extended.
struct Enriching {
    const Topology &topology;
    const Codes &codes;
    const Kernel &kernel;
    uint32_t links_max;
    std::vector<uint32_t> met;
    uint32_t epoch = 0;
    std::vector<uint64_t> candidates;
    alignas(64) int16_t query[CODE_MAX];
    uint32_t fresh[264], distances[268];

    Enriching(const Topology &topology, const Codes &codes, uint32_t links_max)
        : topology(topology), codes(codes), kernel(current_kernel()), links_max(links_max), met(1 << 14, 0) {}

    const uint32_t *list(uint32_t node) const { return topology.ground.data() + (size_t)node * topology.links_max; }

    void decode(uint32_t node) { codes.decode(node, query); }

    /// True the first time, or the second where two nodes share a place.
    bool meet(uint32_t node) {
        uint32_t &place = met[(node * 2654435769u) >> 18];
        if (place == node + 1) return false;
        place = node + 1;
        return true;
    }

    void add(const uint32_t *nodes, uint32_t count) {
        kernel.distances(query, codes.data.data, codes.stride, nodes, count, distances);
        for (uint32_t i = 0; i < count; i++) candidates.push_back((uint64_t)distances[i] << 32 | nodes[i]);
    }

    /// Those of a list that were not met.
    void add_list(const uint32_t *list) {
        uint32_t count = 0;
        for (uint32_t i = 0; i < topology.links_max && list[i] != UINT32_MAX; i++) {
            __builtin_prefetch(codes.row(list[i]));
            fresh[count] = list[i];
            count += meet(list[i]);
        }
        add(fresh, count);
    }

    void extend(uint32_t node, uint32_t *result) {
        std::fill(met.begin(), met.end(), 0);
        candidates.clear();
        decode(node);
        meet(node);
        const uint32_t *own = list(node);
        for (uint32_t i = 0; i < topology.links_max && own[i] != UINT32_MAX; i++) __builtin_prefetch(list(own[i]));
        add_list(own);
        std::sort(candidates.begin(), candidates.end());
        const size_t links = candidates.size();
        for (size_t i = 0; i < std::min<size_t>(links, 40); i++) add_list(list((uint32_t)candidates[i]));
        choose(links, result);
    }

    /// The node's own links stay, nearest first; others are added under pruning.
    void choose(size_t links, uint32_t *result) {
        const size_t most = std::min(candidates.size(), links + considered);
        std::partial_sort(candidates.begin() + links, candidates.begin() + most, candidates.end());
        candidates.erase(
            std::unique(candidates.begin() + links, candidates.begin() + most), candidates.begin() + most);
        uint32_t taken = 0;
        for (size_t i = 0; i < std::min<size_t>(links, links_max); i++) result[taken++] = (uint32_t)candidates[i];
        for (size_t i = links; i < std::min(candidates.size(), most) && taken < links_max; i++) {
            const uint32_t node = (uint32_t)candidates[i];
            const float far = (float)(candidates[i] >> 32);
            decode(node);
            bool keep = true;
            for (uint32_t t = 0; keep && t < taken; t += 4) {
                const uint32_t part = std::min(4u, taken - t);
                kernel.distances(query, codes.data.data, codes.stride, result + t, part, distances);
                for (uint32_t j = 0; j < part; j++)
                    keep = keep && result[t + j] != node && slack * (float)distances[j] > far;
            }
            if (keep) result[taken++] = node;
        }
        while (taken < links_max) result[taken++] = UINT32_MAX;
    }
};

}  // namespace

void enrich(Topology &topology, const Codes &codes, uint32_t links_max, uint32_t threads) {
    std::vector<uint32_t> ground((size_t)codes.count * links_max);
    std::vector<std::thread> running;
    std::vector<std::exception_ptr> errors(threads);
    for (uint32_t t = 0; t < threads; t++) {
        auto work = [&, t] {
            try {
                Enriching enriching(topology, codes, links_max);
                const uint32_t end = (uint32_t)((uint64_t)codes.count * (t + 1) / threads);
                for (uint32_t node = (uint32_t)((uint64_t)codes.count * t / threads); node < end; node++)
                    enriching.extend(node, ground.data() + (size_t)node * links_max);
            } catch (...) {
                errors[t] = std::current_exception();
            }
        };
        if (t + 1 < threads) running.emplace_back(work); else work();
    }
    for (auto &thread : running) thread.join();
    for (auto &error : errors) if (error) std::rethrow_exception(error);
    topology.ground = std::move(ground);
    topology.links_max = links_max;
}

/// Marks the nodes that are reached over the ground level, and counts them.
static size_t reach(const Topology &topology, std::vector<bool> &met) {
    std::vector<uint32_t> found = {topology.entry};
    met[topology.entry] = true;
    for (size_t at = 0; at < found.size(); at++) {
        const uint32_t *list = topology.ground.data() + (size_t)found[at] * topology.links_max;
        for (uint32_t i = 0; i < topology.links_max && list[i] != UINT32_MAX; i++) {
            if (met[list[i]]) continue;
            met[list[i]] = true;
            found.push_back(list[i]);
        }
    }
    return found.size();
}

void connect(Topology &topology, const Codes &codes) {
    const uint32_t most = topology.links_max;
    for (int round = 0; round < 8; round++) {
        std::vector<bool> met(codes.count);
        if (reach(topology, met) == codes.count) return;
        for (uint32_t node = 0; node < codes.count; node++) {
            if (met[node]) continue;
            // From its nearest neighbours back: in free room, or, of one of them, in place of the farthest link.
            const uint32_t *own = topology.ground.data() + (size_t)node * most;
            bool linked = false;
            for (uint32_t i = 0; i < most && own[i] != UINT32_MAX && !linked; i++) {
                if (!met[own[i]]) continue;
                uint32_t *list = topology.ground.data() + (size_t)own[i] * most;
                uint32_t count = 0;
                while (count < most && list[count] != UINT32_MAX) count++;
                if (count < most) list[count] = node; else list[most - 1 - (uint32_t)round] = node;
                linked = true;
            }
            if (!linked && round > 3) {
                uint32_t *list = topology.ground.data() + (size_t)topology.entry * most;
                list[(node * 2654435769u) % most] = node;
            }
        }
    }
}

/// All nodes, each followed by its nearest neighbour that had no place yet, where there is one.
static std::vector<uint32_t> depth_first(const Topology &topology) {
    const uint32_t count = (uint32_t)topology.levels.size();
    std::vector<bool> placed(count);
    std::vector<uint32_t> sequence, path, next(count, 0);
    auto place = [&](uint32_t node) {
        placed[node] = true;
        sequence.push_back(node);
        path.push_back(node);
    };
    // Whoever is not reached from the entry begins a path of its own.
    for (uint32_t i = 0; i < count; i++) {
        const uint32_t root = i == 0 ? topology.entry : i - (i <= topology.entry);
        if (placed[root]) continue;
        place(root);
        while (!path.empty()) {
            const uint32_t node = path.back();
            const uint32_t *list = topology.ground.data() + (size_t)node * topology.links_max;
            uint32_t &link = next[node];
            while (link < topology.links_max && list[link] != UINT32_MAX && placed[list[link]]) link++;
            if (link < topology.links_max && list[link] != UINT32_MAX) place(list[link]); else path.pop_back();
        }
    }
    return sequence;
}

void renumber(Topology &topology, uint32_t *order) {
    const uint32_t count = (uint32_t)topology.levels.size();
    const std::vector<uint32_t> sequence = depth_first(topology);
    std::vector<uint32_t> number(count);
    for (uint32_t i = 0; i < count; i++) number[sequence[i]] = i;
    Topology result;
    result.links_max = topology.links_max;
    result.links = topology.links;
    result.effort = topology.effort;
    result.entry = number[topology.entry];
    result.ground.resize(topology.ground.size());
    result.levels.resize(count);
    result.upper_first.resize(count + 1);
    result.upper.reserve(topology.upper.size());
    for (uint32_t i = 0; i < count; i++) {
        const uint32_t old = sequence[i];
        const uint32_t *from = topology.ground.data() + (size_t)old * topology.links_max;
        uint32_t *to = result.ground.data() + (size_t)i * topology.links_max;
        for (uint32_t j = 0; j < topology.links_max; j++) to[j] = from[j] == UINT32_MAX ? UINT32_MAX : number[from[j]];
        result.levels[i] = topology.levels[old];
        result.upper_first[i] = result.upper.size();
        for (size_t j = topology.upper_first[old]; j < topology.upper_first[old + 1]; j++)
            result.upper.push_back(topology.upper[j] < 0 ? -1 : (int)number[topology.upper[j]]);
    }
    result.upper_first[count] = result.upper.size();
    std::memcpy(order, sequence.data(), count * sizeof(uint32_t));
    topology = std::move(result);
}

}  // namespace tideline
