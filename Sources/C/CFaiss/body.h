// The search, once for each form: whoever includes it has defined the namespace FORM and, in it, `four`, `within`, `keep_all`,
// `squared_l2` and `product`. It is compiled for one instruction set, so nothing of the standard library that is a
// template may be made in here.

namespace tideline {
namespace FORM {

INLINE void push(tl_seeker &s, uint64_t key) {
    if (__builtin_expect(s.open == s.heap.size(), 0)) grow(s);
    uint64_t *heap = s.heap.data();
    size_t hole = s.open++;
    while (hole > 0) {
        size_t parent = (hole - 1) >> 2;
        if (heap[parent] <= key) break;
        heap[hole] = heap[parent];
        hole = parent;
    }
    heap[hole] = key;
}

INLINE uint64_t pop(tl_seeker &s) {
    uint64_t *heap = s.heap.data();
    const uint64_t top = heap[0];
    const size_t count = --s.open;
    const uint64_t key = heap[count];
    size_t hole = 0;
    for (size_t child = 1; child < count; child = 4 * hole + 1) {
        size_t least = child;
        if (child + 3 < count) {
            size_t a = heap[child + 1] < heap[child] ? child + 1 : child;
            size_t b = heap[child + 3] < heap[child + 2] ? child + 3 : child + 2;
            least = heap[b] < heap[a] ? b : a;
        } else {
            for (size_t other = child + 1; other < count; other++) if (heap[other] < heap[least]) least = other;
        }
        if (heap[least] >= key) break;
        heap[hole] = heap[least];
        hole = least;
    }
    heap[hole] = key;
    return top;
}

/// Takes a node among the nearest, when it passes. Each once: equal keys are one node.
INLINE void keep(tl_seeker &s, const tl_seek &o, uint64_t key) {
    uint64_t *best = s.best.data();
    if (s.best_count == o.rerank && key >= best[s.best_count - 1]) return;
    const uint32_t node = (uint32_t)key;
    if (node == o.excluded || (o.passes != nullptr && !o.passes(o.context, node))) return;
    uint32_t place = s.best_count;
    while (place > 0 && best[place - 1] > key) place--;
    if (place > 0 && best[place - 1] == key) return;
    uint32_t last = s.best_count < o.rerank ? s.best_count++ : o.rerank - 1;
    for (; last > place; last--) best[last] = best[last - 1];
    best[place] = key;
}

/// True the first time.
INLINE bool expand(tl_seeker &s, uint32_t node) {
    const uint32_t mask = (uint32_t)s.expanded.size() - 1;
    uint32_t *table = s.expanded.data();
    uint32_t place = (node * 2654435769u) >> 7 & mask;
    while (table[place] != 0) {
        if (table[place] == node + 1) return false;
        place = (place + 1) & mask;
    }
    table[place] = node + 1;
    s.expanded_places[s.expansions++] = place;
    return true;
}

/// How far an open candidate may be. What rounding to codes adds to every distance counts for the nearest, too.
INLINE uint32_t limit_of(const tl_seeker &s, const tl_seek &o, float noise) {
    if (s.best_count < o.k) return 0xFFFFFFFFu;
    const float limit = ((float)(s.best[o.k - 1] >> 32) + noise) * (1 + o.gamma);
    return limit < 4294967040.0f ? (uint32_t)limit : 0xFFFFFFFFu;
}

/// Sets what neighbours of a node must be worth to be nearer than `far`, as the sketch of each has it: the node lies
/// `distance` from the query (squared, as all here).
template <int BITS>
INLINE void aim(const tl_graph &g, tl_seeker &s, const uint8_t *code, uint32_t distance, uint32_t far) {
    const Sketches &k = g.sketches;
    // What |r| sums to is foretold from its length: everything would wait for that sum.
    const float length = __builtin_sqrtf((float)distance), fine = 255 * 32768.0f / (k.reach * length + 1);
    const uint32_t whole = fine < 32767 ? (uint32_t)fine : 32767;
    const float total = (float)weigh<BITS>(s.query, code, whole, s.worth);
    const float beyond = (float)distance - (float)far, free = 2 * k.margin * length;
    const float factor = 0.25f / 32768 * (float)whole / k.scale;
    for (int i = 0; i < 16; i++) {
        const float need = (beyond * k.inverse[i] + k.lengths[i] - free) * factor + 0.5f * total;
        s.needed[i] = (uint8_t)(need < 0 ? 0 : need > 255 ? 255 : need);
    }
}

/// Pushes the two nearest of the samples under the three nearest pivots.
template <int S>
INLINE void start(const tl_graph &g, tl_seeker &s, const tl_seek &o) {
    const Entries &e = g.entries;
    const uint32_t stride = S ? S : g.codes->stride;
    uint32_t d[4];
    uint64_t lists[3] = {~0ull, ~0ull, ~0ull};
    for (uint32_t p = 0; p < e.pivots; p += 4) {
        const uint8_t *code = e.pivot_codes.data + (size_t)p * stride;
        four<S>(s.query, code, code + stride, code + 2 * stride, code + 3 * stride, stride, d);
        for (uint32_t i = 0; i < 4 && p + i < e.pivots; i++) {
            uint64_t key = (uint64_t)d[i] << 32 | (p + i);
            if (key >= lists[2]) continue;
            if (key < lists[1]) {
                lists[2] = lists[1];
                if (key < lists[0]) { lists[1] = lists[0]; lists[0] = key; } else lists[1] = key;
            } else {
                lists[2] = key;
            }
        }
    }
    uint64_t starts[2] = {~0ull, ~0ull};
    for (int l = 0; l < 3 && lists[l] != ~0ull; l++) {
        const uint32_t end = e.first[(uint32_t)lists[l] + 1];
        for (uint32_t i = e.first[(uint32_t)lists[l]]; i < end; i += 4) {
            const uint8_t *code = e.sample_codes.data + (size_t)i * stride;
            four<S>(s.query, code, code + stride, code + 2 * stride, code + 3 * stride, stride, d);
            for (uint32_t j = 0; j < 4 && i + j < end; j++) {
                uint64_t key = (uint64_t)d[j] << 32 | e.nodes[i + j];
                if (key >= starts[1] || (uint32_t)key == o.excluded) continue;
                if (key < starts[0]) { starts[1] = starts[0]; starts[0] = key; } else starts[1] = key;
            }
        }
    }
    for (uint64_t key : starts) {
        if (key == ~0ull) continue;
        __builtin_prefetch(g.list((uint32_t)key));
        push(s, key);
        keep(s, o, key);
    }
}

/// Asks for the record of the nearest open candidate; false when there is none to look at.
INLINE bool take(const tl_graph &g, tl_seeker &s, const tl_seek &o) {
    while (s.open > 0 && (uint32_t)(s.heap[0] >> 32) <= s.limit && s.expansions < o.expansions_max) {
        const uint64_t top = pop(s);
        if (!expand(s, (uint32_t)top)) continue;
        const uint8_t *record = g.links.data + (uint32_t)top * g.record;
        for (size_t at = 0; at < g.record; at += 64) __builtin_prefetch(record + at);
        s.taken[(s.taken_first + s.taken_count++) % AHEAD] = top;
        return true;
    }
    return false;
}

/// Asks for the codes of the promising neighbours of the node that was taken first.
template <int S, int BITS>
INLINE void look(const tl_graph &g, tl_seeker &s, const tl_seek &o) {
    const uint32_t stride = S ? S : g.codes->stride;
    const uint8_t *codes = g.codes->data.data;
    const uint32_t lines = (stride + 63) / 64 < 4 ? (stride + 63) / 64 : 4;
    const uint32_t tag = (s.epoch & ((1u << (SEEN_BITS + 1)) - 1)) << (31 - SEEN_BITS);
    const uint64_t taken = s.taken[s.taken_first];
    s.taken_first = (s.taken_first + 1) % AHEAD;
    s.taken_count--;
    const uint32_t node = (uint32_t)taken;
    const uint32_t worst = s.best_count == o.rerank ? (uint32_t)(s.best[s.best_count - 1] >> 32) : 0xFFFFFFFFu;
    aim<BITS>(g, s, codes + (size_t)node * stride, (uint32_t)(taken >> 32), worst > s.limit ? worst : s.limit);
    const uint32_t *list = g.list(node);
    const uint8_t *block = g.sketch(node);
    const uint32_t degree = g.degree(node);
    Batch &batch = s.batches[(s.batch_first + s.batch_count) % UNDER_WAY];
    uint32_t count = 0;
    for (uint32_t first = 0; first < degree; first += 64, block += 8 * BITS + 32) {
        uint64_t near = promising<BITS>(block, s.worth, s.needed);
        if (degree - first < 64) near &= (1ull << (degree - first)) - 1;
        for (; near != 0; near &= near - 1) {
            const uint32_t next = list[first + (uint32_t)__builtin_ctzll(near)];
            uint32_t *seen = &s.seen[next & ((1u << SEEN_BITS) - 1)];
            const uint32_t mark = tag | next >> SEEN_BITS;
            // No branch: which are fresh cannot be foretold.
            batch.nodes[count] = next;
            count += *seen != mark;
            *seen = mark;
            const uint8_t *code = codes + (size_t)next * stride;
            for (uint32_t line = 0; line < lines; line++) __builtin_prefetch(code + 64 * line);
        }
    }
    if (count == 0) return;
    batch.count = count;
    for (uint32_t i = 0; i < 3; i++) batch.nodes[count + i] = batch.nodes[count - 1];
    s.batch_count++;
}

/// Takes the oldest of the batches under way among the nearest and the candidates.
template <int S>
INLINE void compare(const tl_graph &g, tl_seeker &s, const tl_seek &o) {
    const uint32_t stride = S ? S : g.codes->stride;
    const uint8_t *codes = g.codes->data.data;
    const float noise = (float)stride / 6;
    const Batch &batch = s.batches[s.batch_first];
    s.batch_first = (s.batch_first + 1) % UNDER_WAY;
    s.batch_count--;
    for (uint32_t i = 0; i < batch.count; i += 4) {
        const uint32_t *n = batch.nodes + i;
        four<S>(
            s.query, codes + (size_t)n[0] * stride, codes + (size_t)n[1] * stride, codes + (size_t)n[2] * stride,
            codes + (size_t)n[3] * stride, stride, s.distances + i);
    }
    const uint32_t worst = s.best_count == o.rerank ? (uint32_t)(s.best[s.best_count - 1] >> 32) : 0xFFFFFFFFu;
    // All that are near are kept before any becomes a candidate: by then the limit is what they make it.
    if (o.passes != nullptr || o.excluded != UINT32_MAX || !keep_all(s, o, batch, worst)) {
        for (uint32_t i = 0; i < batch.count; i += 64) {
            uint64_t near = within(s.distances + i, batch.count - i, worst);
            for (; near != 0; near &= near - 1) {
                const uint32_t j = i + (uint32_t)__builtin_ctzll(near);
                keep(s, o, (uint64_t)s.distances[j] << 32 | batch.nodes[j]);
            }
        }
    }
    s.limit = limit_of(s, o, noise);
    for (uint32_t i = 0; i < batch.count; i += 64) {
        uint64_t near = within(s.distances + i, batch.count - i, s.limit);
        for (; near != 0; near &= near - 1) {
            const uint32_t j = i + (uint32_t)__builtin_ctzll(near);
            if (batch.nodes[j] != o.excluded) push(s, (uint64_t)s.distances[j] << 32 | batch.nodes[j]);
        }
    }
}

template <int S, int BITS>
static void walk(const tl_graph &g, tl_seeker &s, const tl_seek &o) {
    start<S>(g, s, o);
    s.limit = limit_of(s, o, (float)(S ? S : g.codes->stride) / 6);
    for (;;) {
        while (s.taken_count < AHEAD && take(g, s, o)) {}
        if (s.taken_count > 0 && s.batch_count < UNDER_WAY) {
            look<S, BITS>(g, s, o);
        } else if (s.batch_count > 0) {
            compare<S>(g, s, o);
        } else {
            return;
        }
    }
}

static void seek(const tl_graph &graph, tl_seeker &seeker, const tl_seek &seek) {
    switch (graph.codes->stride) {
    case 32: walk<32, 32>(graph, seeker, seek); break;
    case 64: walk<64, 64>(graph, seeker, seek); break;
    case 128: walk<128, 64>(graph, seeker, seek); break;
    default: walk<0, 64>(graph, seeker, seek); break;
    }
}

static uint32_t distance(const int16_t *query, const uint8_t *code, uint32_t stride) {
    uint32_t d[4];
    if (stride == 32) four<32>(query, code, code, code, code, stride, d);
    else if (stride == 64) four<64>(query, code, code, code, code, stride, d);
    else four<0>(query, code, code, code, code, stride, d);
    return d[0];
}

static void distances(
    const int16_t *query, const uint8_t *codes, uint32_t stride, const uint32_t *nodes, uint32_t count, uint32_t *result) {
    for (uint32_t i = 0; i < count; i += 4) {
        const uint8_t *row[4];
        for (uint32_t j = 0; j < 4; j++) row[j] = codes + (size_t)nodes[i + j < count ? i + j : count - 1] * stride;
        if (stride == 32) four<32>(query, row[0], row[1], row[2], row[3], stride, result + i);
        else if (stride == 64) four<64>(query, row[0], row[1], row[2], row[3], stride, result + i);
        else four<0>(query, row[0], row[1], row[2], row[3], stride, result + i);
    }
}

}  // namespace FORM
}  // namespace tideline
