#include <algorithm>
#include <atomic>
#include <cmath>
#include <exception>
#include <memory>
#include <random>
#include <thread>

#include "Internal.h"

// HNSW (Malkov, Yashunin 2016) over codes. Nodes go in by level, the highest first, so that the entry never changes.

namespace tideline {
namespace {

/// Links under way: each node's lists, a lock of a byte for all of them.
struct Lists {
    Topology &topology;
    std::unique_ptr<std::atomic<uint8_t>[]> locks;

    Lists(Topology &topology, uint32_t count) : topology(topology), locks(new std::atomic<uint8_t>[count]) {
        for (uint32_t i = 0; i < count; i++) locks[i].store(0, std::memory_order_relaxed);
    }
    uint32_t *list(uint32_t node, int level) {
        if (level == 0) return topology.ground.data() + (size_t)node * topology.links_max;
        return (uint32_t *)topology.upper.data() + topology.upper_first[node] + (size_t)(level - 1) * topology.links;
    }
    uint32_t most(int level) const { return level == 0 ? topology.links_max : topology.links; }
    void lock(uint32_t node) {
        while (locks[node].exchange(1, std::memory_order_acquire) != 0)
            while (locks[node].load(std::memory_order_relaxed) != 0) std::this_thread::yield();
    }
    void unlock(uint32_t node) { locks[node].store(0, std::memory_order_release); }
    uint32_t copy(uint32_t node, int level, uint32_t *links) {
        const uint32_t *from = list(node, level), limit = most(level);
        lock(node);
        std::memcpy(links, from, limit * sizeof(uint32_t));
        unlock(node);
        uint32_t count = 0;
        while (count < limit && links[count] != UINT32_MAX) count++;
        return count;
    }
};

/// One thread's insertions.
struct Inserter {
    Lists &lists;
    const Codes &codes;
    const Kernel &kernel;
    const uint32_t effort;
    std::vector<uint32_t> met;
    uint32_t epoch = 0;
    // The nearest, sorted: distance << 32 | node << 1 | whether its neighbours were looked at.
    std::vector<uint64_t> pool;
    alignas(64) int16_t query[CODE_MAX];
    alignas(64) int16_t other[CODE_MAX];
    uint32_t links[264], distances[268];

    Inserter(Lists &lists, const Codes &codes, uint32_t effort)
        : lists(lists), codes(codes), kernel(current_kernel()), effort(effort), met(codes.count, 0) {
        pool.reserve(effort + 1);
    }

    void measure(const uint32_t *nodes, uint32_t count) {
        kernel.distances(query, codes.data.data, codes.stride, nodes, count, distances);
    }

    /// The nearest by going downhill.
    uint64_t descend(uint64_t nearest, int level) {
        for (;;) {
            const uint32_t count = lists.copy((uint32_t)nearest, level, links);
            measure(links, count);
            uint64_t best = nearest;
            for (uint32_t i = 0; i < count; i++) best = std::min(best, (uint64_t)distances[i] << 32 | links[i]);
            if (best >> 32 >= nearest >> 32) return nearest;
            nearest = best;
        }
    }

    /// Asks for a list, and for what is beside it to be locked.
    void prefetch(uint32_t node, int level) {
        const uint32_t *list = lists.list(node, level);
        for (uint32_t i = 0; i < lists.most(level); i += 16) __builtin_prefetch(list + i);
        __builtin_prefetch(&lists.locks[node]);
    }

    /// Fills the pool on one level.
    void spread(int level) {
        epoch++;
        for (uint64_t &key : pool) {
            key &= ~1ull;
            met[(uint32_t)key >> 1] = epoch;
        }
        for (size_t at = 0; at < pool.size();) {
            if ((pool[at] & 1) != 0) {
                at++;
                continue;
            }
            const uint32_t node = (uint32_t)pool[at] >> 1;
            pool[at] |= 1;
            const uint32_t all = lists.copy(node, level, links);
            uint32_t count = 0;
            for (uint32_t i = 0; i < all; i++) {
                const uint32_t next = links[i];
                const bool fresh = met[next] != epoch;
                met[next] = epoch;
                links[count] = next;
                count += fresh;
                __builtin_prefetch(codes.row(next));
            }
            for (size_t ahead = at + 1; ahead < std::min(pool.size(), at + 3); ahead++)
                prefetch((uint32_t)pool[ahead] >> 1, level);
            measure(links, count);
            for (uint32_t i = 0; i < count; i++) {
                const uint64_t key = (uint64_t)distances[i] << 32 | links[i] << 1;
                if (pool.size() == effort && key >= pool.back()) continue;
                const size_t place = (size_t)(std::upper_bound(pool.begin(), pool.end(), key) - pool.begin());
                if (pool.size() == effort) pool.pop_back();
                pool.insert(pool.begin() + (ptrdiff_t)place, key);
                at = std::min(at, place);
            }
        }
    }

    /// Of sorted candidates, distance << 32 | node: those nearer to the query than to one chosen before.
    uint32_t choose(const uint64_t *candidates, size_t count, uint32_t most, uint32_t *chosen) {
        uint32_t taken = 0, apart[4];
        for (size_t i = 0; i < count && taken < most; i++) {
            const uint32_t node = (uint32_t)candidates[i], far = (uint32_t)(candidates[i] >> 32);
            codes.decode(node, other);
            bool keep = true;
            for (uint32_t t = 0; keep && t < taken; t += 4) {
                const uint32_t part = std::min(4u, taken - t);
                kernel.distances(other, codes.data.data, codes.stride, chosen + t, part, apart);
                for (uint32_t j = 0; j < part; j++) keep = keep && apart[j] >= far;
            }
            if (keep) chosen[taken++] = node;
        }
        return taken;
    }

    /// A link back; where there is no room, among the best.
    void link(uint32_t node, uint32_t next, int level) {
        uint32_t *list = lists.list(node, level);
        const uint32_t most = lists.most(level);
        lists.lock(node);
        uint32_t count = 0;
        while (count < most && list[count] != UINT32_MAX) count++;
        if (count < most) {
            list[count] = next;
            lists.unlock(node);
            return;
        }
        uint32_t all[264];
        uint64_t sorted[264];
        std::copy_n(list, count, all);
        all[count++] = next;
        codes.decode(node, query);
        measure(all, count);
        for (uint32_t i = 0; i < count; i++) sorted[i] = (uint64_t)distances[i] << 32 | all[i];
        std::sort(sorted, sorted + count);
        const uint32_t taken = choose(sorted, count, most, all);
        for (uint32_t i = 0; i < most; i++) list[i] = i < taken ? all[i] : UINT32_MAX;
        lists.unlock(node);
    }

    void insert(uint32_t node) {
        Topology &topology = lists.topology;
        const int top = topology.levels[topology.entry] - 1, own = topology.levels[node] - 1;
        codes.decode(node, query);
        measure(&topology.entry, 1);
        uint64_t nearest = (uint64_t)distances[0] << 32 | topology.entry;
        int level = top;
        for (; level > own; level--) nearest = descend(nearest, level);
        pool.assign(1, (nearest >> 32 << 32) | (uint32_t)nearest << 1);
        for (; level >= 0; level--) {
            codes.decode(node, query);
            spread(level);
            std::vector<uint64_t> candidates(pool);
            for (uint64_t &key : candidates) key = (key >> 32 << 32) | (uint32_t)key >> 1;
            uint32_t chosen[264];
            const uint32_t count = choose(candidates.data(), candidates.size(), topology.links, chosen);
            lists.lock(node);
            std::copy_n(chosen, count, lists.list(node, level));
            lists.unlock(node);
            for (uint32_t i = 0; i < count; i++) link(chosen[i], node, level);
        }
    }
};

}  // namespace

Topology insert_all(const Codes &codes, const tl_graph_plan &plan) {
    Topology topology;
    topology.links = plan.links;
    topology.links_max = 2 * plan.links;
    topology.effort = (int)plan.effort;
    topology.ground.assign((size_t)codes.count * topology.links_max, UINT32_MAX);
    topology.levels.resize(codes.count);
    topology.upper_first.resize(codes.count + 1);
    std::mt19937 random(12345);
    const double factor = 1 / std::log((double)plan.links);
    for (uint32_t node = 0; node < codes.count; node++) {
        const double chance = ((double)random() + 1) / 4294967297.0;
        const int level = std::min(30, (int)(-std::log(chance) * factor));
        topology.levels[node] = level + 1;
        topology.upper_first[node + 1] = topology.upper_first[node] + (size_t)level * plan.links;
    }
    topology.upper.assign(topology.upper_first[codes.count], -1);
    std::vector<uint32_t> order(codes.count);
    for (uint32_t i = 0; i < codes.count; i++) order[i] = i;
    std::sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) {
        return topology.levels[a] != topology.levels[b] ? topology.levels[a] > topology.levels[b] : a < b;
    });
    topology.entry = order[0];
    Lists lists(topology, codes.count);
    std::atomic<uint32_t> next{1};
    std::vector<std::exception_ptr> errors(plan.threads);
    std::vector<std::thread> running;
    for (uint32_t t = 0; t < plan.threads; t++) {
        auto work = [&, t] {
            try {
                Inserter inserter(lists, codes, plan.effort);
                for (uint32_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < codes.count;)
                    inserter.insert(order[i]);
            } catch (...) {
                errors[t] = std::current_exception();
            }
        };
        if (t + 1 < plan.threads) running.emplace_back(work); else work();
    }
    for (auto &thread : running) thread.join();
    for (auto &error : errors) if (error) std::rethrow_exception(error);
    return topology;
}

}  // namespace tideline
