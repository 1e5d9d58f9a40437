"""Makes the fixtures beside this file: small models of the installed XGBoost, with rows and what it predicts.

    python make.py

Run once with each version (1.7.6, 2.1.4 and 3.2.0 made the committed files). Rows hold missing values, and every
threshold of the model, with its two neighbours. A rows file is a golden-rows file: `rows`, `outputs`, and here
`contributions` too (approx_contribs, the last column is the bias).
"""

import json
import os
import sys

import numpy as np
import xgboost as xgb

HERE = os.path.dirname(os.path.abspath(__file__))
VERSION = xgb.__version__
MAJOR = VERSION.split(".")[0]


def data(seed, categorical=False):
    r = np.random.default_rng(seed)
    x = r.normal(size=(400, 4)).astype("f")
    if categorical:
        x[:, 2] = r.integers(0, 3, 400)
        x[:, 3] = r.integers(0, 40, 400)
    x[r.random(x.shape) < 0.1] = np.nan
    y = np.nan_to_num(x[:, 0]) + np.nan_to_num(x[:, 3]) % 3 + r.normal(size=400)
    return x, y.astype("f")


def threshold_rows(model, base, limit):
    rows = []

    def walk(o):
        if isinstance(o, dict):
            if "split_conditions" in o:
                for left, feature, t in zip(o["left_children"], o["split_indices"], o["split_conditions"]):
                    if left != -1 and np.isfinite(t) and abs(t) > 1e-30:
                        for v in (np.float32(t), np.nextafter(np.float32(t), np.float32(-9e9)), np.nextafter(np.float32(t), np.float32(9e9))):
                            row = base[len(rows) % len(base)].copy()
                            row[feature] = v
                            rows.append(row)
            for v in o.values():
                walk(v)
        elif isinstance(o, list) and o and isinstance(o[0], (dict, list)):
            for v in o:
                walk(v)

    walk(model)
    return rows[:: max(1, len(rows) // limit)][:limit]


def number(v):
    return None if np.isnan(v) else float(str(np.float32(v)))


def table(a):
    return [[number(v) for v in row] for row in a]


def make(name, objective, rounds=4, depth=3, ubj=False, label=None, categorical=False, contributions=False, names=None, **more):
    x, y = data(7, categorical)
    types = ["q", "q", "c", "c"] if categorical else None
    y = y if label is None else label(y).astype("f")
    d = xgb.DMatrix(x, y, feature_types=types, enable_categorical=categorical, feature_names=names)
    if objective == "survival:aft":
        d.set_float_info("label_lower_bound", np.abs(y) + 1)
        d.set_float_info("label_upper_bound", np.abs(y) + 2)
    if objective.startswith("rank:"):
        d.set_group([40] * 10)
    parameters = dict(objective=objective, nthread=1, seed=3, **more)
    if more.get("booster") != "gblinear":
        parameters.update(max_depth=depth)
        if categorical:
            parameters.update(tree_method="hist", max_cat_to_onehot=4)
    booster = xgb.train(parameters, d, rounds)
    path = os.path.join(HERE, f"{MAJOR}-{name}." + ("ubj" if ubj else "json"))
    booster.save_model(path)
    rows = list(x[:10])
    if not ubj:
        with open(path) as file:
            rows += threshold_rows(json.load(file), x, 18)
    if categorical:
        for category in (-1, 39, 41, 100, 1e9, 5.7, -0.0):
            row = x[3].copy()
            row[3] = category
            rows.append(row)
    rows = np.array(rows, "f")
    m = xgb.DMatrix(rows, feature_types=types, enable_categorical=categorical, feature_names=names)
    out = booster.predict(m)
    golden = {"rows": table(rows), "outputs": table(out.reshape(len(rows), -1))}
    if contributions:
        golden["contributions"] = table(booster.predict(m, pred_contribs=True, approx_contribs=True))
    with open(path.rsplit(".", 1)[0] + ".rows.json", "w") as file:
        json.dump(golden, file, separators=(",", ":"))


positive = lambda y: (y > 1) * 1.0
classes = lambda y: np.clip(np.floor(y), 0, 2)
counts = lambda y: np.abs(np.round(y))

make("squarederror", "reg:squarederror", contributions=True, names=["amount", "hour", "ratio", "country"])
make("logistic", "binary:logistic", label=positive, base_score=0.17, contributions=True)
make("softprob", "multi:softprob", label=classes, num_class=3, rounds=2)
make("dart-ubj", "binary:logistic", label=positive, booster="dart", rate_drop=0.5, ubj=True, rounds=8)
make("linear", "reg:squarederror", booster="gblinear")
make("categorical", "reg:squarederror", categorical=True, contributions=True)
make("categorical-ubj", "reg:squarederror", categorical=True, ubj=True)
make("poisson-ubj", "count:poisson", label=counts, ubj=True)
if MAJOR != "1":
    make("quantile", "reg:quantileerror", quantile_alpha=np.array([0.1, 0.5, 0.9]), rounds=2)
if MAJOR == "3":
    make("softmax", "multi:softmax", label=classes, num_class=3, rounds=2)
    make("aft", "survival:aft", label=counts)
    make("hinge", "binary:hinge", label=positive)
    make("rank", "rank:ndcg", label=positive)
    make("tweedie", "reg:tweedie", label=counts)
    make("deep-ubj", "reg:squarederror", depth=9, rounds=3, ubj=True)
    make("parallel", "reg:squarederror", num_parallel_tree=3, subsample=0.5, rounds=2)
    make("linear-softprob-ubj", "multi:softprob", label=classes, num_class=3, booster="gblinear", ubj=True)
    make("multi-output", "reg:quantileerror", quantile_alpha=np.array([0.1, 0.9]), rounds=1, tree_method="hist", multi_strategy="multi_output_tree")
print(VERSION, file=sys.stderr)
