#!/usr/bin/env python3
"""Nearest neighbours beside other libraries: the same vectors and queries, one thread each.

loadtest/vector_peers.py BENCH --set NAME [--set NAME …]

A set is `card` (32 coordinates as the forest's blocks give them), `clustered` (a mixture, 32 coordinates), or the path of
a .npy or .fvecs file. Every library's knob is sought on 2,000 calibration queries: the least that gives recall@10 of .95
and .99; other queries are timed with it, one at a time and by the library's batch call.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import time

import numpy as np

CALIBRATION, TIMED, K = 2000, 4000, 10


def card(count, rng):
    """Sums of leaves of six trees of depth six a coordinate, over a dozen skewed features."""
    features = rng.lognormal(size=(count, 12)).astype("f") * rng.integers(1, 4, (count, 12))
    result = np.zeros((count, 32), "f")
    for block in range(32):
        for _ in range(6):
            node = np.zeros(count, np.int64)
            for level in range(6):
                feature = rng.integers(0, 12, 1 << level)
                threshold = np.quantile(features, rng.uniform(0.1, 0.9, 1 << level), axis=0)[
                    np.arange(1 << level), feature].astype("f")
                node = 2 * node + (features[np.arange(count), feature[node]] > threshold[node])
            result[:, block] += rng.normal(scale=0.1, size=64).astype("f")[node]
    return result


def clustered(count, rng):
    centres = rng.normal(size=(max(10, count // 500), 32)).astype("f")
    return centres[rng.integers(0, len(centres), count)] + 0.35 * rng.normal(size=(count, 32)).astype("f")


def vectors_of(name, count, rng):
    if name == "card":
        return card(count + CALIBRATION + TIMED, rng)
    if name == "clustered":
        return clustered(count + CALIBRATION + TIMED, rng)
    if name.endswith(".fvecs"):
        raw = np.fromfile(name, "<i4")
        rows = raw.reshape(-1, raw[0] + 1)[:, 1:].view("<f4")
    else:
        rows = np.load(name)
    rows = np.unique(np.ascontiguousarray(rows, "f"), axis=0)
    rng.shuffle(rows)
    return rows[: count + CALIBRATION + TIMED] if count else rows


def truth_of(base, queries):
    import faiss
    index = faiss.IndexFlatL2(base.shape[1])
    index.add(base)
    return index.search(queries, K)[1].astype("<i4")


def recall(found, truth):
    return float(np.mean([len(np.intersect1d(a, b)) / K for a, b in zip(found, truth)]))


def timed(call, queries, rounds=2):
    best, latencies = 1e30, []
    for _ in range(rounds):
        times = []
        start = time.perf_counter()
        for i in range(len(queries)):
            begin = time.perf_counter()
            call(queries[i: i + 1])
            times.append(time.perf_counter() - begin)
        took = time.perf_counter() - start
        if took < best:
            best, latencies = took, times
    return len(queries) / best, np.percentile(latencies, 50) * 1e6, np.percentile(latencies, 99) * 1e6


def batch_rate(call, queries, rounds=3):
    best = 1e30
    for _ in range(rounds):
        start = time.perf_counter()
        call(queries)
        best = min(best, time.perf_counter() - start)
    return len(queries) / best


class Faiss:
    name = "faiss-cpu HNSW"
    knobs = [10, 12, 14, 17, 20, 24, 28, 34, 40, 48, 56, 68, 80, 96, 112, 136, 160, 192, 224, 272, 320, 448]

    def __init__(self, base, threads):
        import faiss
        faiss.omp_set_num_threads(threads)
        self.index = faiss.IndexHNSWFlat(base.shape[1], 32)
        self.index.hnsw.efConstruction = 128
        self.index.add(base)
        faiss.omp_set_num_threads(1)

    def knob(self, value):
        self.index.hnsw.efSearch = value

    def search(self, queries):
        return self.index.search(queries, K)[1]


class Hnswlib(Faiss):
    name = "hnswlib"

    def __init__(self, base, threads):
        import hnswlib
        self.index = hnswlib.Index("l2", base.shape[1])
        self.index.init_index(len(base), M=32, ef_construction=128)
        self.index.add_items(base, num_threads=threads)
        self.index.set_num_threads(1)

    def knob(self, value):
        self.index.set_ef(value)

    def search(self, queries):
        return self.index.knn_query(queries, K, num_threads=1)[0]


class Usearch(Faiss):
    name = "usearch"

    def __init__(self, base, threads):
        from usearch.index import Index
        self.index = Index(ndim=base.shape[1], metric="l2sq", dtype="f32", connectivity=32, expansion_add=128)
        self.index.add(np.arange(len(base)), base, threads=threads)

    def knob(self, value):
        self.index.expansion_search = value

    def search(self, queries):
        return np.atleast_2d(self.index.search(queries if len(queries) > 1 else queries[0], K, threads=1).keys)


class Svs(Faiss):
    name = "scalable-vs Vamana"

    def __init__(self, base, threads):
        import svs
        self.index = svs.Vamana.build(
            svs.VamanaBuildParameters(graph_max_degree=64, window_size=128, alpha=1.2), base, svs.DistanceType.L2,
            num_threads=threads)
        self.index.num_threads = 1

    def knob(self, value):
        self.index.search_window_size = value

    def search(self, queries):
        return self.index.search(queries, K)[0]


class SymphonyQG(Faiss):
    name = "rabitqlib SymphonyQG"

    def __init__(self, base, threads):
        import rabitqlib
        self.pad = max(0, 64 - base.shape[1])
        self.index = rabitqlib.SymqgIndex(base.shape[1] + self.pad, 32)
        self.index.build(self.padded(base), 128, num_threads=threads)

    def padded(self, rows):
        return np.ascontiguousarray(np.pad(rows, ((0, 0), (0, self.pad)))) if self.pad else rows

    def prepare(self, queries):
        return self.padded(queries)

    def knob(self, value):
        self.ef = value

    def search(self, queries):
        search = self.index.search if len(queries) == 1 else self.index.search_batch
        return next(part for part in search(queries, K, self.ef) if part.dtype.kind in "iu")


def resident():
    """Bytes in memory now; the most ever, as getrusage has it, begins with the parent's."""
    with open("/proc/self/statm", encoding="utf-8") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def peer(kind, base, calibration, queries, truth, threads):
    before = resident()
    start = time.perf_counter()
    index = kind(base, threads)
    build = time.perf_counter() - start
    memory = resident() - before
    prepare = getattr(index, "prepare", lambda rows: rows)
    calibration, queries = prepare(calibration), prepare(queries)
    points = []
    for target in (0.95, 0.99):
        for value in kind.knobs:
            index.knob(value)
            if recall(index.search(calibration), truth[:CALIBRATION]) >= target:
                break
        reached = recall(index.search(queries), truth[CALIBRATION:])
        rate, p50, p99 = timed(index.search, queries)
        points.append({"target": target, "knob": value, "recall": reached, "queriesPerSecond": rate,
                       "batchQueriesPerSecond": batch_rate(index.search, queries), "p50Microseconds": p50,
                       "p99Microseconds": p99})
    return {"buildSeconds": build, "memoryMB": memory / 2**20, "points": points}


def one(arguments):
    """A library in a process of its own, so that its memory and threads are its own."""
    folder, name = arguments.one
    load = lambda part: np.load(os.path.join(folder, part + ".npy"))
    kind = {kind.name: kind for kind in PEERS}[name]
    print(json.dumps(peer(kind, load("base"), load("calibration"), load("queries"), load("truth"), arguments.threads)))


PEERS = [Svs, SymphonyQG, Faiss, Hnswlib, Usearch]


def show(name, build, memory, points):
    for p in points:
        batch = f"batch {p['batchQueriesPerSecond']:9,.0f}/s" if "batchQueriesPerSecond" in p else " " * 17
        print(f"  {name:22} @{p['target']:.2f}  recall {p['recall']:.4f}  {p['queriesPerSecond']:9,.0f}/s  "
              f"{batch}  p50 {p['p50Microseconds']:7.1f} µs  p99 {p['p99Microseconds']:7.1f} µs  "
              f"build {build:6.1f} s  {memory:6.0f} MB", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bench", nargs="?")
    parser.add_argument("--set", action="append", default=[], dest="sets")
    parser.add_argument("--count", type=int, default=200_000, help="vectors of a made set, most of a file's [200000]")
    parser.add_argument("--threads", type=int, default=1, help="threads of building [1]")
    parser.add_argument("--kernel", help="form of our search: scalar, avx2 or avx512 [the best]")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--peers", default=",".join(kind.name for kind in PEERS))
    arguments = parser.parse_args()
    if arguments.one:
        one(arguments)
        return
    if not arguments.bench:
        parser.error("BENCH is missing")
    for name in arguments.sets or ["card", "clustered"]:
        rows = vectors_of(name, arguments.count, np.random.default_rng(1))
        queries, base = rows[: CALIBRATION + TIMED], rows[CALIBRATION + TIMED:]
        print(f"{os.path.basename(name)}: {len(base):,} × {base.shape[1]}, L2, k = 10, one thread", flush=True)
        with tempfile.TemporaryDirectory(prefix="tideline-vectors-") as folder:
            parts = {"base": base, "calibration": queries[:CALIBRATION], "queries": queries[CALIBRATION:],
                     "truth": truth_of(base, queries)}
            for part, values in parts.items():
                np.save(os.path.join(folder, part + ".npy"), np.ascontiguousarray(values))
            files = [os.path.join(folder, part + ".npy") for part in parts]
            done = subprocess.run([arguments.bench, *files, "--threads", str(arguments.threads),
                                   *(["--kernel", arguments.kernel] if arguments.kernel else [])], check=True,
                                  capture_output=True, text=True)
            ours = json.loads(done.stdout)
            show("Tideline", ours["sealSeconds"],
                 ours["memoryBytes"] / 2**20,
                 ours["points"])
            print("  " + done.stdout.strip())
            best = {}
            for peer_name in filter(None, arguments.peers.split(",")):
                run = subprocess.run([sys.executable, __file__, "--threads", str(arguments.threads), "--one", folder,
                                      peer_name], capture_output=True, text=True)
                if run.returncode:
                    print(f"  {peer_name}: {run.stderr.strip().splitlines()[-1]}", flush=True)
                    continue
                figures = json.loads(run.stdout.splitlines()[-1])
                show(peer_name, figures["buildSeconds"], figures["memoryMB"], figures["points"])
                for p in figures["points"]:
                    rate = max(p["queriesPerSecond"], p["batchQueriesPerSecond"])
                    if p["recall"] >= p["target"] - 0.005:
                        best[p["target"]] = max(best.get(p["target"], (0, "")), (rate, peer_name))
            for p in ours["points"]:
                rate, who = best.get(p["target"], (float("nan"), "nobody"))
                print(f"  @{p['target']:.2f}: {p['queriesPerSecond'] / rate:.2f} × {who}", flush=True)


if __name__ == "__main__":
    main()
