"""Compares Tideline's forest with XGBoost's own prediction: every objective and booster, each installed version.

    python forest_matrix.py TOOL PYTHON…

TOOL is `ForestBench` (raw floats) or `tideline` (CSV). Each PYTHON has one version of XGBoost. Each case is trained,
saved as JSON and as UBJ, and scored on 10,000 rows: missing values, every threshold of the model and its neighbours.
Equal: all outputs within 1e-6 of max(1, |x|). Refused: exit 2 with a reason that is no failure to parse.
"""

import json
import os
import subprocess
import sys
import tempfile

ROWS = 10_000
OBJECTIVES = """reg:squarederror reg:squaredlogerror reg:logistic reg:pseudohubererror reg:absoluteerror
reg:quantileerror reg:gamma reg:tweedie binary:logistic binary:logitraw binary:hinge count:poisson multi:softmax
multi:softprob rank:pairwise rank:ndcg rank:map survival:cox survival:aft""".split()


def cases():
    for objective in OBJECTIVES:
        for booster in ("gbtree", "dart", "gblinear"):
            for base in (None, 0.3):
                yield f"{objective} {booster} base {base or 'estimated'}", dict(objective=objective, booster=booster, base_score=base), {}
    for depth in range(1, 13):
        yield f"depth {depth}", dict(objective="binary:logistic", max_depth=depth), dict(rounds=40)
    for leaves in (4, 31, 200):
        yield f"loss-guided {leaves} leaves", dict(objective="reg:squarederror", grow_policy="lossguide", max_leaves=leaves, max_depth=0, tree_method="hist"), dict(rounds=40)
    for rounds in (1, 300, 2000):
        yield f"{rounds} trees", dict(objective="binary:logistic", max_depth=6, eta=0.05), dict(rounds=rounds)
    yield "2000 trees dart", dict(objective="reg:squarederror", booster="dart", max_depth=3, rate_drop=0.01, one_drop=1), dict(rounds=300)
    yield "100 features", dict(objective="reg:squarederror", max_depth=6), dict(features=100, rounds=200)
    yield "300 features", dict(objective="multi:softprob", max_depth=5), dict(features=300, rounds=100)
    yield "1024 bins", dict(objective="reg:squarederror", max_depth=8, max_bin=1024, tree_method="hist"), dict(rounds=200)
    yield "exact thresholds", dict(objective="reg:squarederror", max_depth=6, tree_method="exact"), dict(rounds=300)
    yield "approx", dict(objective="binary:logistic", max_depth=6, tree_method="approx"), dict(rounds=50)
    yield "pruned (gamma)", dict(objective="reg:squarederror", max_depth=8, gamma=5.0, tree_method="exact"), dict(rounds=50)
    yield "parallel trees", dict(objective="reg:squarederror", num_parallel_tree=5, subsample=0.6, colsample_bynode=0.5), {}
    yield "random forest, 3 classes", dict(objective="multi:softprob", num_parallel_tree=4, subsample=0.6), dict(rounds=2)
    yield "early stopping", dict(objective="binary:logistic", max_depth=6, eta=0.5), dict(rounds=200, stop=5)
    yield "early stopping dart", dict(objective="binary:logistic", booster="dart", rate_drop=0.1), dict(rounds=60, stop=5)
    yield "no missing values", dict(objective="binary:logistic", max_depth=6), dict(missing=0.0)
    yield "constant label", dict(objective="reg:squarederror"), dict(constant=True)
    yield "huge and tiny values", dict(objective="reg:squarederror", max_depth=6, tree_method="exact"), dict(extreme=True)
    yield "two targets", dict(objective="reg:squarederror"), dict(targets=2)
    yield "multi-output trees", dict(objective="reg:squarederror", multi_strategy="multi_output_tree", tree_method="hist"), dict(targets=2)
    for onehot in (1, 5, 100):
        for depth in (3, 6, 9):
            yield f"categorical, one-hot below {onehot}, depth {depth}", dict(objective="reg:squarederror", max_cat_to_onehot=onehot, max_depth=depth, tree_method="hist"), dict(categorical=True, rounds=40)
    yield "categorical dart", dict(objective="binary:logistic", booster="dart", rate_drop=0.2, tree_method="hist"), dict(categorical=True)
    yield "named categories (data frame)", dict(objective="reg:squarederror", tree_method="hist"), dict(frame=True)


def label(np, objective, y):
    if objective.startswith(("binary", "reg:logistic", "rank")):
        return (y > 0).astype("f")
    if objective.startswith("multi"):
        return np.clip(np.floor(y + 1), 0, 2)
    if objective in ("reg:gamma", "survival:cox", "survival:aft"):
        return np.abs(y) + 0.1
    if objective in ("reg:tweedie", "count:poisson", "reg:squaredlogerror"):
        return np.abs(np.round(y))
    return y


def thresholds(np, node, features):
    found = [[] for _ in range(features)]

    def walk(o):
        if isinstance(o, dict):
            if "split_conditions" in o:
                for left, feature, t in zip(o["left_children"], o["split_indices"], o["split_conditions"]):
                    if left != -1 and np.isfinite(t):
                        found[feature].append(t)
            for v in o.values():
                walk(v)
        elif isinstance(o, list) and o and isinstance(o[0], (dict, list)):
            for v in o:
                walk(v)

    walk(node)
    return [np.unique(np.array(f, "f")) for f in found]


def run_case(np, xgb, tool, name, parameters, how, folder):
    r = np.random.default_rng(len(name) * 7 + 1)
    features, n = how.get("features", 12), 2000
    x = r.normal(size=(n + ROWS, features)).astype("f")
    if how.get("extreme"):
        x = (x * 10.0 ** r.integers(-38, 38, x.shape)).astype("f")
        x[~np.isfinite(x)] = 1.0
    types = None
    if how.get("categorical") or how.get("frame"):
        types = ["q"] * features
        for f, size in ((1, 3), (2, 40), (3, 300)):
            x[:, f] = r.integers(0, size, n + ROWS)
            types[f] = "c"
    x[r.random(x.shape) < how.get("missing", 0.1)] = np.nan
    y = (np.nan_to_num(x[:, 0]).clip(-3, 3) + np.sin(np.nan_to_num(x[:, 1])) + (np.nan_to_num(x[:, 2]).clip(0, 99) % 3) - 1 + r.normal(size=n + ROWS) / 2).astype("f")
    if how.get("constant"):
        y[:] = 3
    objective = parameters["objective"]
    p = {k: v for k, v in parameters.items() if v is not None}
    p.update(nthread=1, seed=5, verbosity=0)
    if objective.startswith("multi"):
        p["num_class"] = 3
    if objective == "reg:quantileerror":
        p["quantile_alpha"] = np.array([0.1, 0.5, 0.9])
    y = label(np, objective, y)
    if how.get("targets"):
        y = np.stack([y, y[::-1]], 1)
    fit, rest = x[:n], x[n:].copy()
    if how.get("frame"):
        import pandas as pd

        fit = pd.DataFrame({f"c{i}": fit[:, i] for i in range(features)})
        for f in (1, 2, 3):
            fit[f"c{f}"] = fit[f"c{f}"].fillna(0).astype(int).astype(str).astype("category")
        try:
            d = xgb.DMatrix(fit, y[:n], enable_categorical=True)
        except AttributeError as error:  # XGBoost 1.7 beside NumPy 2
            return [("not trained", str(error)[:90])]
    else:
        d = xgb.DMatrix(fit, y[:n], feature_types=types, enable_categorical=types is not None)
    if objective == "survival:aft":
        d.set_float_info("label_lower_bound", y[:n])
        d.set_float_info("label_upper_bound", y[:n] + 1)
    if objective.startswith("rank:"):
        d.set_group([20] * (n // 20))
    more = {}
    if how.get("stop"):
        more = dict(early_stopping_rounds=how["stop"], evals=[(xgb.DMatrix(x[n:n + 1000], y[n:n + 1000]), "v")], verbose_eval=False)
    try:
        booster = xgb.train(p, d, how.get("rounds", 10), **more)
    except Exception as error:
        return [("not trained", str(error).split("\n")[0][-90:])]
    path = os.path.join(folder, "model")
    booster.save_model(path + ".json")
    booster.save_model(path + ".ubj")
    with open(path + ".json") as file:
        written = json.load(file)
    found = thresholds(np, written, features)
    recodes = bool(written["learner"]["gradient_booster"].get("model", {}).get("cats", {}).get("enc"))
    # Half of the rows stand on thresholds, or one step of Float32 beside.
    for row in range(ROWS // 2):
        f = r.integers(features)
        if len(found[f]) and not (types and types[f] == "c"):
            t = found[f][r.integers(len(found[f]))]
            rest[row, f] = (t, np.nextafter(t, np.float32(-np.inf)), np.nextafter(t, np.float32(np.inf)))[row % 3]
    if types:
        rest[:2000, 3] = r.choice(np.array([-1, 299, 300, 1000, 2.7, 1e9, -0.0], "f"), 2000)
    rest[~np.isfinite(rest) & ~np.isnan(rest)] = 0
    # A model that recodes names must be refused; older ones take the codes as they are.
    types = booster.feature_types if how.get("frame") else types
    wanted = None if recodes else booster.predict(xgb.DMatrix(rest, feature_types=types, enable_categorical=types is not None, feature_names=booster.feature_names)).reshape(ROWS, -1)
    results = []
    for kind in ("json", "ubj"):
        if "ForestBench" in os.path.basename(tool):
            rest.tofile(path + ".f32")
            done = subprocess.run([tool, "score", f"{path}.{kind}", path + ".f32"], capture_output=True)
            parse = lambda out: np.frombuffer(out, "f")
        else:
            with open(path + ".csv", "w") as file:
                file.write(",".join(booster.feature_names or [f"f{i}" for i in range(features)]) + "\n")
                for row in rest:
                    file.write(",".join("" if np.isnan(v) else str(v) for v in row) + "\n")
            done = subprocess.run([tool, "model", "score", f"{path}.{kind}", path + ".csv"], capture_output=True)
            parse = lambda out: np.array([float(v) for line in out.split() for v in line.split(b",")], "f")
        reason = done.stderr.decode().strip()
        if done.returncode == 2:
            results.append(("wrong" if "broken" in reason else "refused", reason[-110:]))
        elif done.returncode != 0:
            results.append(("wrong", f"exit {done.returncode}: {reason[-110:]}"))
        elif wanted is None:
            results.append(("wrong", "named categories were neither applied nor refused"))
        else:
            got = parse(done.stdout)
            if got.size != wanted.size:
                results.append(("wrong", f"{got.size} outputs instead of {wanted.size}"))
                continue
            off = np.abs(got.reshape(wanted.shape) - wanted) / np.maximum(1, np.abs(wanted))
            worst = float(off.max())
            results.append(("equal" if worst <= 1e-6 else "wrong", f"{worst:.1e}, bit-equal {np.mean(got.reshape(wanted.shape) == wanted):.4f}"))
    return results


def worker(tool):
    import warnings

    warnings.filterwarnings("ignore")
    import numpy as np
    import xgboost as xgb

    tally = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, parameters, how in cases():
            try:
                results = run_case(np, xgb, tool, name, parameters, how, folder)
            except ImportError as error:
                results = [("not trained", str(error))]
            for result, _ in results:
                tally[result] = tally.get(result, 0) + 1
            same = results[0] if len(set(results)) == 1 else ("/".join(x[0] for x in results), " | ".join(x[1] for x in results))
            print(f"{xgb.__version__:7} {name:52} {same[0]:12} {same[1]}", flush=True)
    print("TALLY " + json.dumps(tally), flush=True)


def main():
    if sys.argv[1] == "--worker":
        return worker(sys.argv[2])
    total = {}
    for python in sys.argv[2:]:
        child = subprocess.Popen([python, __file__, "--worker", sys.argv[1]], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        for line in child.stdout:
            if line.startswith("TALLY "):
                for key, count in json.loads(line[6:]).items():
                    total[key] = total.get(key, 0) + count
            else:
                print(line, end="", flush=True)
        if child.wait() != 0:
            sys.exit(f"{python} failed")
    print(f"{total.get('not trained', 0)} cases that this XGBoost does not train itself")
    print(f"{total.get('equal', 0)} equal, {total.get('refused', 0)} refused by name, {total.get('wrong', 0)} wrong")
    sys.exit(1 if total.get("wrong") else 0)


main()
