"""Times one model in Tideline's forest, libxgboost, ONNX Runtime and TL2cgen, one thread each, in one run.

    python forest_peers.py FORESTBENCH [--trees 200] [--depth 6] [--features 64]

Needs xgboost; onnxruntime, onnxmltools and tl2cgen (with treelite) where they are to be shown. libxgboost and the
code of TL2cgen are called from C, ONNX Runtime from its Python binding (its own cost is in the figure of one row).
Every prediction is compared with XGBoost's first. Ratios are to Tideline's AVX-512 figure, the vector included.
"""

import argparse
import ctypes
import os
import re
import subprocess
import tempfile
import time

import numpy as np
import xgboost as xgb

HARNESS = r"""
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec * 1e6 + t.tv_nsec / 1e3; }

double xgboost_time(const char *library, const char *model, const float *rows, int count, int features, int batch, float *out) {
    void *l = dlopen(library, RTLD_NOW);
    int (*create)(void *, unsigned long, void **) = dlsym(l, "XGBoosterCreate");
    int (*load)(void *, const char *) = dlsym(l, "XGBoosterLoadModel");
    int (*set)(void *, const char *, const char *) = dlsym(l, "XGBoosterSetParam");
    int (*predict)(void *, const char *, const char *, void *, const unsigned long **, unsigned long *, const float **) = dlsym(l, "XGBoosterPredictFromDense");
    void *b;
    if (create(NULL, 0, &b) || load(b, model) || set(b, "nthread", "1")) return -1;
    double best = 1e30;
    for (int round = 0; round < 5; round++) {
        double start = now();
        for (int i = 0; i + batch <= count; i += batch) {
            char array[256];
            snprintf(array, sizeof array, "{\"data\":[%zu,true],\"shape\":[%d,%d],\"typestr\":\"<f4\",\"version\":3}", (size_t)(rows + (size_t)i * features), batch, features);
            const unsigned long *shape; unsigned long dim; const float *result;
            if (predict(b, array, "{\"type\":0,\"training\":false,\"iteration_begin\":0,\"iteration_end\":0,\"missing\":NaN,\"strict_shape\":false,\"cache_id\":0}", NULL, &shape, &dim, &result)) return -1;
            memcpy(out + i, result, batch * sizeof(float));
        }
        double took = (now() - start) / (count / batch * batch);
        if (took < best) best = took;
    }
    return best;
}

/* One row a DMatrix, made beforehand; each predicted once, since a second time would come from a cache. */
double xgboost_prepared_time(const char *library, const char *model, const float *rows, int count, int features, float *out) {
    void *l = dlopen(library, RTLD_NOW);
    int (*create)(void *, unsigned long, void **) = dlsym(l, "XGBoosterCreate");
    int (*load)(void *, const char *) = dlsym(l, "XGBoosterLoadModel");
    int (*set)(void *, const char *, const char *) = dlsym(l, "XGBoosterSetParam");
    int (*matrix)(const float *, unsigned long, unsigned long, float, void **) = dlsym(l, "XGDMatrixCreateFromMat");
    int (*predict)(void *, void *, const char *, const unsigned long **, unsigned long *, const float **) = dlsym(l, "XGBoosterPredictFromDMatrix");
    void *b, **m = malloc(count * sizeof *m);
    if (create(NULL, 0, &b) || load(b, model) || set(b, "nthread", "1")) return -1;
    for (int i = 0; i < count; i++) if (matrix(rows + (size_t)i * features, 1, features, __builtin_nanf(""), m + i)) return -1;
    double start = now();
    for (int i = 0; i < count; i++) {
        const unsigned long *shape; unsigned long dim; const float *result;
        if (predict(b, m[i], "{\"type\":0,\"training\":false,\"iteration_begin\":0,\"iteration_end\":0,\"strict_shape\":false}", &shape, &dim, &result)) return -1;
        out[i] = result[0];
    }
    return (now() - start) / count;
}

union entry { int missing; float value; int rank; };

double tl2cgen_time(const char *library, const float *rows, int count, int features, float *out) {
    void *l = dlopen(library, RTLD_NOW);
    void (*predict)(union entry *, int, float *) = dlsym(l, "predict");
    if (!predict) return -1;
    union entry *data = malloc(features * sizeof *data);
    double best = 1e30;
    for (int round = 0; round < 5; round++) {
        double start = now();
        for (int i = 0; i < count; i++) {
            for (int f = 0; f < features; f++) {
                float x = rows[(size_t)i * features + f];
                if (x != x) data[f].missing = -1; else data[f].value = x;
            }
            out[i] = 0;
            predict(data, 0, out + i);
        }
        double took = (now() - start) / count;
        if (took < best) best = took;
    }
    return best;
}
"""


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("bench")
    parser.add_argument("--trees", type=int, default=200)
    parser.add_argument("--depth", type=int, default=6)
    parser.add_argument("--features", type=int, default=64)
    a = parser.parse_args()
    r = np.random.default_rng(2)
    x = r.normal(size=(30_000, a.features)).astype("f")
    x[r.random(x.shape) < 0.05] = np.nan
    z = np.nan_to_num(x)
    y = (z[:, : a.features // 4].sum(1) + z[:, -1] * z[:, -2] + r.normal(size=len(x)) * 2 > 0).astype("f")
    booster = xgb.train(dict(objective="binary:logistic", max_depth=a.depth, eta=0.1, tree_method="hist"), xgb.DMatrix(x, y), a.trees)
    rows = np.ascontiguousarray(x[:4096])
    wanted = booster.predict(xgb.DMatrix(rows))
    table = []

    def show(name, batch, cost, got):
        off = float(np.abs(got - wanted).max())
        table.append((name, batch, cost, off))

    with tempfile.TemporaryDirectory() as folder:
        model = os.path.join(folder, "model.json")
        booster.save_model(model)
        rows.tofile(model + ".f32")
        done = subprocess.run([a.bench, "score", model, model + ".f32"], capture_output=True, check=True)
        got = np.frombuffer(done.stdout, "f")
        text = subprocess.run([a.bench, "bench", model, model + ".f32"], capture_output=True, check=True, text=True).stdout
        for line in text.splitlines():
            if line.endswith("µs/row"):
                for batch, vector, cost in re.findall(r" (\d+)x(\S*) ([0-9.]+)", line):
                    if vector and batch in ("1", "64"):
                        show(f"Tideline {line.split()[0]}, score and vector", int(batch), float(cost), got)

        source = os.path.join(folder, "h.c")
        with open(source, "w") as file:
            file.write(HARNESS)
        harness = os.path.join(folder, "h.so")
        subprocess.run(["clang", "-O2", "-shared", "-fPIC", source, "-o", harness, "-ldl"], check=True)
        h = ctypes.CDLL(harness)
        h.xgboost_time.restype = h.xgboost_prepared_time.restype = h.tl2cgen_time.restype = ctypes.c_double
        out = np.zeros(len(rows), "f")
        pointer = lambda v: v.ctypes.data_as(ctypes.c_void_p)
        library = os.path.join(os.path.dirname(xgb.__file__), "lib", "libxgboost.so")
        cost = h.xgboost_prepared_time(library.encode(), model.encode(), pointer(rows), len(rows), a.features, pointer(out))
        show(f"libxgboost {xgb.__version__}, matrix made before", 1, cost, out.copy())
        for batch in (1, 64, 256, 4096):
            cost = h.xgboost_time(library.encode(), model.encode(), pointer(rows), len(rows), a.features, batch, pointer(out))
            show(f"libxgboost {xgb.__version__}", batch, cost, out.copy())

        try:
            import tl2cgen
            import treelite

            compiled = treelite.frontend.load_xgboost_model(model)
            path = os.path.join(folder, "tl.so")
            tl2cgen.export_lib(compiled, toolchain="clang", libpath=path, params={"parallel_comp": 8}, verbose=False)
            cost = h.tl2cgen_time(path.encode(), pointer(rows), len(rows), a.features, pointer(out))
            show(f"TL2cgen {tl2cgen.__version__}", 1, cost, out.copy())
        except Exception as error:
            print("TL2cgen:", error)

        try:
            import onnxruntime
            from onnxmltools import convert_xgboost
            from onnxmltools.convert.common.data_types import FloatTensorType

            onnx = convert_xgboost(booster, initial_types=[("x", FloatTensorType([None, a.features]))])
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = options.inter_op_num_threads = 1
            session = onnxruntime.InferenceSession(onnx.SerializeToString(), options)
            for batch in (1, 64, 256, 4096):
                best = 1e30
                for _ in range(5):
                    start, parts = time.perf_counter(), []
                    for i in range(0, len(rows), batch):
                        parts.append(session.run(None, {"x": rows[i : i + batch]})[-1])
                    best = min(best, (time.perf_counter() - start) * 1e6 / len(rows))
                show(f"ONNX Runtime {onnxruntime.__version__}", batch, best, np.concatenate(parts)[:, -1])
        except Exception as error:
            print("ONNX Runtime:", error)

    print(f"{a.trees} trees, depth {a.depth}, {a.features} features, one thread; µs a row, best of the rounds")
    ours = {batch: cost for name, batch, cost, _ in table if "avx512" in name}
    for name, batch, cost, off in table:
        ratio = cost / ours[1 if batch == 1 else 64] if ours else float("nan")
        print(f"{name:42} batches of {batch:5} {cost:9.3f}  x{ratio:7.1f}  largest difference {off:.1e}")


main()
