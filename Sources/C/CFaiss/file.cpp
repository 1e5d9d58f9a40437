#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstdio>
#include <memory>
#include <string>

#include "Internal.h"

// FAISS's `IndexHNSWFlat`, as its impl/index_write.cpp (1.7.3) lays it out: little-endian, no padding.
//
//   "IHNf" header hnsw storage
//   header   dimensions i32, count i64, twice 1 << 20 as i64, trained u8, metric i32 (0: inner product, 1: L2)
//   hnsw     vectors (their count as u64, then elements): chances f64, links up to each level i32, levels i32 (from 1
//            on), offsets u64, links i32; then entry i32, top level i32, efConstruction i32, efSearch i32, beam i32
//   storage  "IxF2" or "IxFI", header, count of floats u64, floats

namespace tideline {

// MARK: Writing

namespace {

struct Output {
    FILE *file;
    explicit Output(const char *path) : file(std::fopen(path, "wb")) {
        if (file == nullptr) throw std::runtime_error(std::string("cannot be made: ") + std::strerror(errno));
    }
    ~Output() { if (file != nullptr) std::fclose(file); }
    void bytes(const void *data, size_t size) {
        if (size > 0 && std::fwrite(data, 1, size, file) != size)
            throw std::runtime_error(std::string("cannot be written: ") + std::strerror(errno));
    }
    template <class T> void value(T value) { bytes(&value, sizeof value); }
    template <class T> void vector(const std::vector<T> &values) {
        value<uint64_t>(values.size());
        bytes(values.data(), values.size() * sizeof(T));
    }
    void header(uint32_t dimensions, uint32_t count, enum tl_graph_metric metric) {
        value<int32_t>((int32_t)dimensions);
        value<int64_t>(count);
        value<int64_t>(1 << 20);
        value<int64_t>(1 << 20);
        value<uint8_t>(1);
        value<int32_t>(metric == TL_GRAPH_SQUARED_L2 ? 1 : 0);
    }
    void close() {
        const bool failed = std::fflush(file) != 0 || std::fclose(file) != 0;
        file = nullptr;
        if (failed) throw std::runtime_error(std::string("cannot be written: ") + std::strerror(errno));
    }
};

}  // namespace

void write_faiss(
    const char *path, const Topology &topology, const float *rows, const uint32_t *order, uint32_t count,
    uint32_t dimensions, enum tl_graph_metric metric) {
    Output out(path);
    int top = 1;
    for (int level : topology.levels) top = level > top ? level : top;
    std::vector<double> chances;
    std::vector<int32_t> up_to = {0};
    const double factor = 1 / std::log((double)topology.links);
    for (int level = 0; level < top || level < 8; level++) {
        chances.push_back(std::exp(-level / factor) * (1 - std::exp(-1 / factor)));
        up_to.push_back((int32_t)(topology.links_max + (uint32_t)level * topology.links));
    }
    out.bytes("IHNf", 4);
    out.header(dimensions, count, metric);
    out.vector(chances);
    out.vector(up_to);
    out.vector(topology.levels);
    std::vector<uint64_t> offsets(count + 1);
    for (uint32_t i = 0; i < count; i++) offsets[i + 1] = offsets[i] + (uint64_t)up_to[topology.levels[i]];
    out.vector(offsets);
    out.value<uint64_t>(offsets[count]);
    for (uint32_t i = 0; i < count; i++) {
        out.bytes(topology.ground.data() + (size_t)i * topology.links_max, topology.links_max * sizeof(uint32_t));
        const size_t first = topology.upper_first[i];
        out.bytes(topology.upper.data() + first, (topology.upper_first[i + 1] - first) * sizeof(int));
    }
    out.value<int32_t>((int32_t)topology.entry);
    out.value<int32_t>(top - 1);
    out.value<int32_t>(topology.effort);
    out.value<int32_t>(64);
    out.value<int32_t>(1);
    out.bytes(metric == TL_GRAPH_SQUARED_L2 ? "IxF2" : "IxFI", 4);
    out.header(dimensions, count, metric);
    out.value<uint64_t>((uint64_t)count * dimensions);
    for (uint32_t i = 0; i < count; i++) out.bytes(rows + (size_t)order[i] * dimensions, dimensions * sizeof(float));
    out.close();
}

// MARK: Reading

namespace {

/// A file in memory. Nothing is believed: every size is held against what is left.
struct Input {
    const uint8_t *data;
    size_t left;

    const uint8_t *bytes(size_t size) {
        if (size > left) throw std::runtime_error("the file ends early");
        const uint8_t *start = data;
        data += size;
        left -= size;
        return start;
    }
    template <class T> T value() {
        T value;
        std::memcpy(&value, bytes(sizeof value), sizeof value);
        return value;
    }
    /// Elements of a vector, and how many.
    template <class T> const uint8_t *vector(uint64_t &count) {
        count = value<uint64_t>();
        if (count > left / sizeof(T)) throw std::runtime_error("a list is longer than the file");
        return bytes(count * sizeof(T));
    }
    void name(const char *expected) {
        if (std::memcmp(bytes(4), expected, 4) != 0) throw std::runtime_error("no HNSW index of FAISS");
    }
};

template <class T> T at(const uint8_t *elements, uint64_t index) {
    T value;
    std::memcpy(&value, elements + index * sizeof(T), sizeof value);
    return value;
}

void ensure(bool holds, const char *otherwise) {
    if (!holds) throw std::runtime_error(otherwise);
}

void header(Input &in, const tl_graph &graph) {
    ensure(in.value<int32_t>() == (int32_t)graph.dimensions, "the parts differ in dimensions");
    ensure(in.value<int64_t>() == (int64_t)graph.nodes, "the parts differ in their count");
    in.bytes(16);
    ensure(in.value<uint8_t>() == 1, "an index that is not trained");
    ensure(in.value<int32_t>() == (graph.metric == TL_GRAPH_SQUARED_L2 ? 1 : 0), "another metric");
}

/// Takes over the ground level, after checking the levels.
void links(Input &in, tl_graph &graph) {
    uint64_t chance_count, up_to_count, level_count, offset_count, link_count;
    in.vector<double>(chance_count);
    const uint8_t *up_to = in.vector<int32_t>(up_to_count);
    const uint8_t *levels = in.vector<int32_t>(level_count);
    const uint8_t *offsets = in.vector<uint64_t>(offset_count);
    const uint8_t *links = in.vector<int32_t>(link_count);
    ensure(up_to_count >= 2 && up_to_count <= 128, "an impossible number of levels");
    ensure(level_count == graph.nodes && offset_count == (uint64_t)graph.nodes + 1, "the parts differ in their count");
    ensure(at<int32_t>(up_to, 0) == 0, "levels out of order");
    for (uint64_t i = 1; i < up_to_count; i++)
        ensure(at<int32_t>(up_to, i) >= at<int32_t>(up_to, i - 1), "levels out of order");
    const int32_t width = at<int32_t>(up_to, 1);
    ensure(width > 0 && width <= 1000, "an impossible number of links");
    graph.link_stride = ((uint32_t)width + 15) / 16 * 16;
    ensure((uint64_t)graph.nodes * (uint64_t)width <= link_count, "links are missing");
    graph.sketches.bits = graph.dimensions + (graph.metric == TL_GRAPH_INNER_PRODUCT) <= 32 ? 32 : 64;
    graph.record = (graph.link_stride * sizeof(uint32_t) + graph.blocks() * graph.sketches.block_bytes() + 4 + 63)
        / 64 * 64;
    graph.links = Pages(graph.nodes * graph.record);
    uint64_t first = 0;
    for (uint32_t node = 0; node < graph.nodes; node++) {
        const int32_t level = at<int32_t>(levels, node);
        ensure(level >= 1 && (uint64_t)level < up_to_count, "a node of an impossible level");
        const int32_t all = at<int32_t>(up_to, (uint64_t)level);
        ensure(all >= width && at<uint64_t>(offsets, node) == first, "links out of order");
        ensure((uint64_t)all <= link_count - first, "links are missing");
        auto *list = (uint32_t *)(graph.links.data + node * graph.record);
        uint32_t degree = 0;
        bool ended = false;
        for (int32_t i = 0; i < all; i++) {
            const int32_t link = at<int32_t>(links, first + (uint64_t)i);
            ensure(link >= -1 && link < (int32_t)graph.nodes, "a link to a node that is not there");
            if (i >= width) continue;
            ended = ended || link < 0;
            list[i] = ended ? UINT32_MAX : (uint32_t)link;
            degree += !ended;
        }
        *(uint32_t *)(graph.links.data + (node + 1) * graph.record - 4) = degree;
        for (uint32_t i = (uint32_t)width; i < graph.link_stride; i++) list[i] = UINT32_MAX;
        first += (uint64_t)all;
    }
    ensure(first == link_count && at<uint64_t>(offsets, graph.nodes) == first, "links out of order");
    const int32_t entry = in.value<int32_t>();
    ensure(entry >= 0 && entry < (int32_t)graph.nodes, "an entry that is not there");
    in.bytes(16);
}

void read(tl_graph &graph, bool resident) {
    Input in{graph.file, graph.file_length};
    in.name("IHNf");
    ensure(in.left >= 12, "the file ends early");
    const int32_t dimensions = at<int32_t>(in.data, 0);
    ensure(dimensions >= TL_GRAPH_DIMENSIONS_MIN && dimensions <= TL_GRAPH_DIMENSIONS_MAX,
           "dimensions must be 2 to 1536");
    int64_t count;
    std::memcpy(&count, in.data + 4, sizeof count);
    ensure(count > 0 && count <= INT32_MAX / 2, "an impossible count of vectors");
    graph.dimensions = (uint32_t)dimensions;
    graph.nodes = (uint32_t)count;
    ensure((uint64_t)count * (uint64_t)dimensions * sizeof(float) < in.left, "the file ends early");
    header(in, graph);
    links(in, graph);
    in.name(graph.metric == TL_GRAPH_SQUARED_L2 ? "IxF2" : "IxFI");
    header(in, graph);
    uint64_t numbers;
    const uint8_t *floats = in.vector<float>(numbers);
    ensure(numbers == (uint64_t)graph.nodes * graph.dimensions, "vectors are missing");
    graph.floats = (const char *)floats;
    graph.faiss_length = graph.file_length - in.left;
    if (resident) {
        graph.resident = Pages(numbers * sizeof(float));
        std::memcpy(graph.resident.data, floats, numbers * sizeof(float));
        graph.floats = (const char *)graph.resident.data;
    }
    graph.codes = new Codes(graph.floats, graph.nodes, graph.dimensions, graph.metric);
    make_entries(graph);
    make_sketches(graph);
}

}  // namespace

}  // namespace tideline

tl_graph::~tl_graph() {
    delete codes;
    if (file != nullptr) munmap((void *)file, file_length);
}

tl_graph *tl_graph_open(const char *path, enum tl_graph_metric metric, bool resident, tl_graph_error *error) {
    using namespace tideline;
    return guarded(error, (tl_graph *)nullptr, [&] {
        auto graph = std::make_unique<tl_graph>();
        graph->metric = metric;
        const int descriptor = ::open(path, O_RDONLY | O_CLOEXEC);
        if (descriptor < 0) throw std::runtime_error(std::string("cannot be opened: ") + std::strerror(errno));
        struct stat status;
        const bool known = fstat(descriptor, &status) == 0 && S_ISREG(status.st_mode);
        void *memory = MAP_FAILED;
        if (known && status.st_size > 0)
            memory = mmap(nullptr, (size_t)status.st_size, PROT_READ, MAP_PRIVATE, descriptor, 0);
        ::close(descriptor);
        if (!known || status.st_size == 0) throw std::runtime_error("an empty file, or none");
        if (memory == MAP_FAILED) throw std::runtime_error(std::string("cannot be mapped: ") + std::strerror(errno));
        graph->file = (const uint8_t *)memory;
        graph->file_length = (size_t)status.st_size;
        read(*graph, resident);
        return graph.release();
    });
}

void tl_graph_close(tl_graph *graph) { delete graph; }

tl_graph_facts tl_graph_describe(const tl_graph *graph) {
    tl_graph_facts facts = {};
    facts.nodes = graph->nodes;
    facts.dimensions = graph->dimensions;
    facts.metric = graph->metric;
    facts.link_bytes = graph->links.size;
    facts.code_bytes = graph->codes->data.size;
    facts.float_bytes = graph->resident.size;
    facts.entry_bytes = graph->entries.pivot_codes.size + graph->entries.sample_codes.size
        + (graph->entries.first.size() + graph->entries.nodes.size()) * sizeof(uint32_t);
    facts.file_bytes = graph->faiss_length;
    return facts;
}

const uint8_t *tl_graph_file(const tl_graph *graph, size_t *length) {
    *length = graph->file_length;
    return graph->file;
}

void tl_graph_vector(const tl_graph *graph, uint32_t node, float *vector) {
    std::memcpy(vector, graph->vector(node), graph->dimensions * sizeof(float));
}

uint64_t tl_file_end(const char *path, uint8_t *bytes, size_t count) {
    const int descriptor = ::open(path, O_RDONLY | O_CLOEXEC);
    if (descriptor < 0) return 0;
    struct stat status;
    bool read = fstat(descriptor, &status) == 0 && S_ISREG(status.st_mode) && (uint64_t)status.st_size >= count;
    for (size_t done = 0; read && done < count;) {
        const ssize_t part =
            pread(descriptor, bytes + done, count - done, status.st_size - (off_t)count + (off_t)done);
        if (part <= 0) read = false; else done += (size_t)part;
    }
    ::close(descriptor);
    return read ? (uint64_t)status.st_size : 0;
}
