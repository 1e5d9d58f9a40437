#!/usr/bin/env python3
"""Trains a pipeline's model on a table that `tideline features export` made.

Writes MODEL.json (XGBoost's own format), MODEL.golden.json (rows that a loader checks) and MODEL.md (the model card).
The split is by time: train, a gap (labels come late in life), test. Seeded and on one thread: the same table gives the
same model.
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


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table")
    parser.add_argument("--out", default="models/cards")
    parser.add_argument("--trees", type=int, default=200)
    parser.add_argument("--depth", type=int, default=6)
    parser.add_argument("--warm-days", type=int, default=30, help="days that only fill the windows")
    parser.add_argument("--gap-days", type=int, default=7)
    parser.add_argument("--test-days", type=int, default=14)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    table = pd.read_csv(arguments.table)
    features = [name for name in table.columns if name not in ("id", "time", "label")]
    day = (table["time"] - table["time"].min()) // DAY
    last = int(day.max())
    test_from = last - arguments.test_days + 1
    train = table[(day >= arguments.warm_days) & (day < test_from - arguments.gap_days)]
    test = table[day >= test_from]
    booster = xgboost.train(
        {
            "objective": "binary:logistic", "max_depth": arguments.depth, "eta": 0.1, "tree_method": "hist",
            "min_child_weight": 5, "subsample": 0.8, "colsample_bytree": 0.8, "seed": arguments.seed, "nthread": 2,
            "eval_metric": "aucpr",
        },
        xgboost.DMatrix(train[features], label=train["label"]), num_boost_round=arguments.trees)
    booster.set_attr(trained=datetime.date.today().isoformat())
    booster.save_model(arguments.out + ".json")
    matrix = xgboost.DMatrix(test[features])
    scores = booster.predict(matrix)
    labels = test["label"].to_numpy()
    rng = np.random.default_rng(arguments.seed)
    golden = test[features].sample(64, random_state=arguments.seed)
    outputs = booster.predict(xgboost.DMatrix(golden))
    rows = [[None if np.isnan(value) else float(np.float32(value)) for value in row] for row in golden.to_numpy()]
    with open(arguments.out + ".golden.json", "w", encoding="utf-8") as file:
        json.dump({"rows": rows, "outputs": [[float(value)] for value in outputs]}, file)
    auc = roc_auc_score(labels, scores)
    precision = average_precision_score(labels, scores)
    places = embed(booster, matrix, arguments.trees)
    near = neighbours_precision(places, labels, rng)
    flagged = scores > 0.5
    lines = [
        f"# Model card: {arguments.out.split('/')[-1]}",
        "",
        f"- Kind: XGBoost {xgboost.__version__}, binary:logistic, {arguments.trees} trees of depth {arguments.depth}, seed {arguments.seed}",
        f"- Made: {datetime.date.today().isoformat()} by `models/train.py`",
        f"- Data: {len(table):,} simulated transactions of {last + 1} days; {len(train):,} rows to train on "
        f"(from day {arguments.warm_days}), {len(test):,} to test on (last {arguments.test_days} days), "
        f"{arguments.gap_days} days between them",
        f"- Fraud in the test set: {labels.mean():.2%}",
        "",
        "| Measure on the test set | Value |",
        "|---|---|",
        f"| AUC | {auc:.4f} |",
        f"| average precision | {precision:.4f} |",
        f"| neighbours' precision@10 (32-block embedding, of frauds) | {near:.3f} |",
        f"| flagged at 0.5 | {flagged.mean():.3%} of events, {labels[flagged].mean():.1%} of them fraud, "
        f"{labels[flagged].sum() / labels.sum():.1%} of the fraud |",
        "",
        "Limits: the data is simulated, by the generator that also makes the demo's traffic; figures say nothing about",
        "real cards. Labels do not flow back yet, so that a compromised terminal (scenario 2) is seen only through its",
        "amounts and counts, which it does not change: most of what is missed is of that kind.",
        "Card precision@100 needs the card's identity beside the table and is not given here.",
    ]
    with open(arguments.out + ".md", "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
