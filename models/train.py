#!/usr/bin/env python3
"""Trains a pipeline's model on tables that `tideline features export` made.

Writes OUT.json (XGBoost's own format), OUT.golden.json (rows that a loader checks) and OUT.md (the model card). The first
table is split by time: train, a gap (labels come late in life), test. Tables given by --also are trained on whole; those
by --live are only tested on. Seeded: the same tables give the same model.

Columns named `field.NAME` (`--fields` of the export) are never features: `field.scenario` splits the recall by kind of
fraud, the column that --card names makes card precision.
"""
import argparse
import datetime
import json

import numpy as np
import pandas as pd
import xgboost
from sklearn.metrics import average_precision_score, roc_auc_score

BLOCKS = 32
DAY = 86_400_000_000
GOLDEN = 64


def read(path):
    names = pd.read_csv(path, nrows=0).columns
    features = [name for name in names if name not in ("id", "time", "label") and not name.startswith("field.")]
    types = {name: np.float32 for name in features}
    return pd.read_csv(path, dtype={**types, "id": str, "time": np.int64, "label": np.float32}), features


def embed(booster, matrix, trees):
    """The sums of leaf values of 32 consecutive blocks of trees: what the product uses as an event's vector."""
    leaves = booster.predict(matrix, pred_leaf=True).astype(int)
    frame = booster.trees_to_dataframe()
    places = np.zeros((leaves.shape[0], BLOCKS), dtype=np.float32)
    values = {}
    for tree, node, feature, gain in zip(frame["Tree"], frame["Node"], frame["Feature"], frame["Gain"]):
        if feature == "Leaf":
            values.setdefault(tree, {})[node] = gain
    for tree in range(trees):
        table = np.zeros(max(values[tree]) + 1, dtype=np.float32)
        for node, value in values[tree].items():
            table[node] = value
        places[:, tree * BLOCKS // trees] += table[leaves[:, tree]]
    return places


def neighbours_precision(places, labels, rng, k=10, queries=1000):
    """Of a fraud's k nearest neighbours: the part that is fraud too."""
    frauds = np.flatnonzero(labels)
    chosen = rng.choice(frauds, min(queries, len(frauds)), replace=False)
    norms = (places**2).sum(axis=1)
    hits = []
    for index in chosen:
        distance = norms - 2 * places @ places[index]
        distance[index] = np.inf
        hits.append(labels[np.argpartition(distance, k)[:k]].mean())
    return float(np.mean(hits))


def card_precision(test, scores, card, top=100):
    """Of each day's `top` cards by their highest score: the part with a fraud that day; and the most that can be had."""
    frame = pd.DataFrame({"day": test["time"] // DAY, "card": test[card], "score": scores, "label": test["label"]})
    cards = frame.groupby(["day", "card"]).max().reset_index()
    days = [day for _, day in cards.groupby("day") if len(day) >= top]
    reached = [day.nlargest(top, "score")["label"].mean() for day in days]
    possible = [min(1.0, day["label"].sum() / top) for day in days]
    return float(np.mean(reached)), float(np.mean(possible))


def threshold_for(scores, labels, precision):
    """The lowest threshold, in steps of .01, at which so much of what is flagged is fraud, for it and all above."""
    chosen = 0.99
    for step in range(99, 0, -1):
        flagged = scores > step / 100
        if flagged.sum() >= 20 and labels[flagged].mean() < precision:
            break
        chosen = step / 100
    return chosen


def flagged_row(name, test, scores, threshold):
    labels = test["label"].to_numpy()
    flagged = scores > threshold
    precision = labels[flagged].mean() if flagged.any() else float("nan")
    cells = [f"{flagged.mean():.2%}", f"{precision:.1%}", f"{labels[flagged].sum() / labels.sum():.1%}"]
    if "field.scenario" in test:
        kinds = test["field.scenario"].to_numpy()
        cells += [f"{flagged[kinds == kind].mean():.1%}" for kind in (1, 2, 3)]
    return f"| {name} | {roc_auc_score(labels, scores):.4f} | " + " | ".join(cells) + " |"


def notes(path):
    """What was written by hand below the figures of the last card: it stays."""
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except FileNotFoundError:
        return []
    place = text.find("\n## ")
    return [] if place < 0 else text[place:].rstrip("\n").split("\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table")
    parser.add_argument("--also", nargs="*", default=[], help="tables to train on whole")
    parser.add_argument("--live", nargs="*", default=[], help="tables to test on only")
    parser.add_argument("--out", default="models/cards")
    parser.add_argument("--trees", type=int, default=200)
    parser.add_argument("--depth", type=int, default=6)
    parser.add_argument("--warm-days", type=int, default=30, help="days that only fill the windows")
    parser.add_argument("--gap-days", type=int, default=7)
    parser.add_argument("--test-days", type=int, default=14)
    parser.add_argument("--precision", type=float, default=0.75, help="of what is flagged, the part that is to be fraud")
    parser.add_argument("--card", default="field.customer", help="column that names the card")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    table, features = read(arguments.table)
    day = (table["time"] - table["time"].min()) // DAY
    last = int(day.max())
    test_from = last - arguments.test_days + 1
    train = table[(day >= arguments.warm_days) & (day < test_from - arguments.gap_days)]
    test = table[day >= test_from]
    also = [read(path)[0] for path in arguments.also]
    whole = pd.concat([train] + also)
    rows, total = len(train), len(table)
    del table, also, train
    booster = xgboost.train(
        {
            "objective": "binary:logistic", "max_depth": arguments.depth, "eta": 0.1, "tree_method": "hist",
            "min_child_weight": 5, "subsample": 0.8, "colsample_bytree": 0.8, "seed": arguments.seed, "nthread": 2,
        },
        xgboost.DMatrix(whole[features], label=whole["label"]), num_boost_round=arguments.trees)
    booster.set_attr(trained=datetime.date.today().isoformat())
    booster.save_model(arguments.out + ".json")
    golden = test[features].sample(GOLDEN, random_state=arguments.seed)
    outputs = booster.predict(xgboost.DMatrix(golden))
    values = [[None if np.isnan(value) else float(value) for value in row] for row in golden.to_numpy()]
    with open(arguments.out + ".golden.json", "w", encoding="utf-8") as file:
        json.dump({"rows": values, "outputs": [[float(value)] for value in outputs]}, file)
    matrix = xgboost.DMatrix(test[features])
    scores = booster.predict(matrix)
    labels = test["label"].to_numpy()
    near = neighbours_precision(embed(booster, matrix, arguments.trees), labels, np.random.default_rng(arguments.seed))
    threshold = threshold_for(scores, labels, arguments.precision)
    lines = [
        f"# Model card: {arguments.out.split('/')[-1]}",
        "",
        f"- Kind: XGBoost {xgboost.__version__}, binary:logistic, {arguments.trees} trees of depth {arguments.depth}, "
        f"seed {arguments.seed}",
        f"- Made: {datetime.date.today().isoformat()} by `models/train.py`",
        f"- Data: {total:,} simulated transactions of {last + 1} days; {rows:,} rows to train on (from day "
        f"{arguments.warm_days}), {len(test):,} to test on (last {arguments.test_days} days), {arguments.gap_days} days "
        "between them",
        f"- Trained on besides: {len(whole) - rows:,} rows of {len(arguments.also)} other tables",
        f"- Fraud in the test set: {labels.mean():.2%}",
        f"- Threshold: **{threshold}**, the lowest from which on {arguments.precision:.0%} of what is flagged is fraud",
        "",
        "| Measure on the test set | Value |",
        "|---|---|",
        f"| AUC | {roc_auc_score(labels, scores):.4f} |",
        f"| average precision | {average_precision_score(labels, scores):.4f} |",
    ]
    if arguments.card in test:
        reached, possible = card_precision(test, scores, arguments.card)
        lines.append(f"| card precision@100, mean of days (the most that can be had) | {reached:.3f} ({possible:.3f}) |")
    lines += [
        f"| neighbours' precision@10 (32-block embedding, of frauds) | {near:.3f} |",
        "",
        f"| Flagged at {threshold} | AUC | of events | of them fraud | of the fraud | scenario 1 | 2 | 3 |",
        "|---|---|---|---|---|---|---|---|",
        flagged_row("test set", test, scores, threshold),
    ]
    for path in arguments.live:
        live = read(path)[0]
        found = booster.predict(xgboost.DMatrix(live[features]))
        lines.append(flagged_row(f"`{path.split('/')[-1]}`", live, found, threshold))
    lines += notes(arguments.out + ".md")
    with open(arguments.out + ".md", "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
