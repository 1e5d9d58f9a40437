"""Recomputes every feature and score of a log in plain Python and compares; Tests/recompute calls it.

It follows docs/pipelines.md and shares no code with the product: the past of an entity is a list of its events, a
window is those of them that lie between two tile edges. A batch saw its own partition's past, and of the others that up
to the frontier which it recorded, whichever core committed it.
"""

import argparse
import json
import math
import os
import re
import sys
import time
from collections import OrderedDict, defaultdict
from datetime import datetime, timedelta, timezone
from fractions import Fraction

import numpy as np
import xgboost
import yaml

TOLERANCE = 1e-6
CHUNK = 10_000
UNITS = {"us": 1, "ms": 1000, "s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000}
TIME_UNITS = {"s": 1_000_000, "ms": 1000, "us": 1, "ns": Fraction(1, 1000)}
# Width of a tile, how many a ring has, and the least a window has.
LEVELS = [(UNITS["m"], 64), (UNITS["h"], 32), (UNITS["d"], 32)]
LEAST_TILES = 5


def duration(text):
    number, unit = re.fullmatch(r"([0-9_]+)(us|ms|s|m|h|d)", str(text)).groups()
    return int(number.replace("_", "")) * UNITS[unit]


def listed(value):
    return value if isinstance(value, list) else [value]


class Refused(Exception):
    """The event is a dead letter."""


class Number(str):
    """A number's digits as they stand in the JSON."""


class Object(dict):
    """A JSON object that remembers which of its keys stood twice."""

    def __init__(self, pairs):
        super().__init__(pairs)
        self.repeated = {key for key, _ in pairs if sum(other == key for other, _ in pairs) > 1} \
            if len(self) < len(pairs) else ()


def constant(text):
    raise Refused(f"{text} is no JSON")


def microseconds(text, assume_utc):
    match = re.fullmatch(
        r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.(\d+))?(?:([Zz])|([+-])(\d\d):(\d\d))?", text)
    if not match or not (assume_utc or match[8] or match[9]):
        raise Refused(f"{text} is no time")
    try:
        moment = datetime(*(int(part) for part in match.groups()[:6]), tzinfo=timezone.utc)
    except ValueError as error:
        raise Refused(str(error)) from error
    if match[9]:
        moment -= (1 if match[9] == "+" else -1) * timedelta(hours=int(match[10]), minutes=int(match[11]))
    whole = (moment - datetime(1970, 1, 1, tzinfo=timezone.utc)) // timedelta(seconds=1)
    return whole * 1_000_000 + int((match[7] or "").ljust(6, "0")[:6])


class Pipeline:
    """The parts of a pipeline file that say what features are."""

    def __init__(self, path):
        with open(path, encoding="utf-8") as file:
            text = yaml.safe_load(file)
        self.event = text["event"]
        self.tenants = text.get("tenants", ["default"])
        self.entities = {name: value["path"] for name, value in text["entities"].items()}
        self.fields = {
            name: (value.get("path", name), value.get("type"), value.get("required", False))
            for name, value in text.get("fields", {}).items()}
        limits = text.get("limits", {})
        self.future = duration(limits.get("future", "5m"))
        self.event_bytes = int(limits.get("event_bytes", 262_144))
        self.duplicate_ids = int(limits.get("duplicate_ids", 1_000_000))
        self.duplicate_window = duration(limits.get("duplicate_window", "24h"))
        score = text.get("score", {})
        self.model = os.path.join(os.path.dirname(path), score["model"]) if "model" in score else None
        self.threshold = float(score.get("threshold", 0.5))
        self.features = [feature for item in text["features"] for feature in self.expand(item)]

    @staticmethod
    def expand(item):
        """The columns that one item of `features` makes: name, kind, what it needs."""
        (kind, value), = item.items()
        if kind in ("value", "log"):
            for name in listed(value):
                yield (name if kind == "value" else f"log({name})", kind, name)
        elif kind == "clock":
            for name in listed(value):
                yield (f"clock.{name}", kind, name)
        elif kind == "since_last":
            for name in listed(value):
                yield (f"{name}.since_last", kind, name)
        elif kind == "ratio":
            for over in listed(value["over"]):
                yield (f"{value['entity']}.{value['of']}.ratio.{over}", kind, (value["entity"], value["of"], over))
        else:
            entity = value["entity"]
            for over in listed(value["over"]):
                if "distinct" in value:
                    name = value["distinct"]
                    yield (f"{entity}.{name}.distinct.{over}", "distinct", (entity, name, over))
                    continue
                for what in listed(value["compute"]):
                    of = "" if what == "count" else value["of"] + "."
                    yield (f"{entity}.{of}{what}.{over}", what, (entity, value.get("of"), over))

    def decode(self, text):
        """An event's parts, read as docs/pipelines.md says (How values are read)."""
        try:
            size = len(text.encode("utf-8"))
            event = json.loads(text, object_pairs_hook=Object, parse_constant=constant, parse_int=Number,
                               parse_float=Number)
        except (ValueError, RecursionError) as error:
            raise Refused(str(error)) from error
        if not isinstance(event, Object) or size > self.event_bytes:
            raise Refused("no object, or too long")
        got = {"id": self.text(event, self.event["id"], 128, needed=True), "time": self.time(event)}
        tenant = self.text(event, self.event["tenant"], 32) if "tenant" in self.event else self.tenants[0]
        if tenant not in self.tenants:
            raise Refused("unknown tenant")
        got["tenant"] = tenant
        for index, (name, path) in enumerate(self.entities.items()):
            got[name] = self.text(event, path, 64, needed=index == 0)
        for name, (path, kind, required) in self.fields.items():
            got[name] = self.number(event, path) if kind == "number" else self.text(event, path, math.inf)
            if required and (got[name] is None or got[name] != got[name]):
                raise Refused(f"{name} is missing")
        return got

    @staticmethod
    def find(event, path):
        value = event
        for name in path.split("."):
            if not isinstance(value, Object):
                return None
            if name in value.repeated:
                raise Refused(f"{path} stands twice")
            value = value.get(name)
        return value

    def text(self, event, path, most, needed=False):
        value = self.find(event, path)
        if isinstance(value, bool):
            value = "true" if value else "false"
        if isinstance(value, (dict, list)):
            raise Refused(f"{path} is no text")
        if needed and not value or value is not None and len(value.encode("utf-8")) > most:
            raise Refused(f"{path} is missing or too long")
        return value

    def number(self, event, path):
        value = self.find(event, path)
        if value is None or value in ("", "NaN", "nan"):
            return math.nan
        if isinstance(value, (dict, list)):
            raise Refused(f"{path} is no number")
        try:
            value = float(value)
        except ValueError as error:
            raise Refused(str(error)) from error
        if math.isinf(value):
            raise Refused(f"{path} is beyond Float64")
        return value

    def time(self, event):
        value, unit = self.find(event, self.event["time"]["path"]), self.event["time"]["unit"]
        if value is None or isinstance(value, (bool, dict, list)) or isinstance(value, Number) and unit == "rfc3339":
            raise Refused("no time")
        if isinstance(value, Number) or unit != "rfc3339" and re.fullmatch(r"-?\d+", value):
            scaled = Fraction(value) * TIME_UNITS[unit]
            moment = round(scaled) if re.search(r"[.eE]", value) else math.floor(scaled)
        else:
            moment = microseconds(value, self.event.get("assume_utc", False))
        if not 2 * UNITS["d"] <= moment < microseconds("2200-01-01T00:00:00Z", False):
            raise Refused("a time out of range")
        return moment


MASK = (1 << 64) - 1


def hash64(data, seed):
    """The project's 64-bit hash, which decides a distinct value's register: 64 × 64 multiplications, folded."""
    def fold(a, b):
        product = a * b
        return (product ^ (product >> 64)) & MASK
    k1, k2 = 0xE7037ED1A0B428DB, 0x8EBC6AF09C88C6E3
    value = seed ^ 0x9E3779B97F4A7C15
    words = [int.from_bytes(data[start:start + 8], "little") for start in range(0, len(data), 8)]
    if len(data) >= 64:
        chains = [value, (value + k1) & MASK, (value + k2) & MASK, value ^ k2]
        whole = len(data) // 32 * 4
        for place, word in enumerate(words[:whole]):
            chains[place % 4] = fold(chains[place % 4] ^ word, k1)
        a, b, c, d = chains
        value, words = fold(a ^ fold(b ^ fold(c ^ d, k1), k1), k1), words[whole:]
    for word in words:
        value = fold(value ^ word, k1)
    return fold(value ^ len(data), k2)


REGISTERS = {}


def register(text):
    """HyperLogLog: the register of a value and the rank of its first one bit, from 1, held in four bits."""
    if text not in REGISTERS:
        value = max(1, hash64(text.encode("utf-8"), 0x64697374))
        rest = value & ((1 << 58) - 1)
        REGISTERS[text] = value >> 58, min(15, 59 - rest.bit_length())
    return REGISTERS[text]


def estimate(texts):
    """How many different texts, as HyperLogLog with 64 registers says; linear counting while registers are free."""
    ranks = [0] * 64
    for text in texts:
        place, rank = register(text)
        ranks[place] = max(ranks[place], rank)
    raw = 0.709 * 64 * 64 / math.fsum(2.0 ** -rank for rank in ranks)
    empty = ranks.count(0)
    return 64 * math.log(64 / empty) if raw <= 160 and empty else raw


class Past:
    """One entity's events, in the order of the log."""

    def __init__(self):
        self.events = []
        self.newest = None
        # The entity's newest tile of each level, from all partitions: a ring's last tiles up to it are kept.
        self.ends = [0 for _ in LEVELS]

    def add(self, event, moment):
        """Adds an event, and says for each level whether it is older than the ring."""
        tiles = [moment // width for width, _ in LEVELS]
        lost = []
        for level, (tile, (_, ring)) in enumerate(zip(tiles, LEVELS)):
            lost.append(tile <= self.ends[level] - ring)
            self.ends[level] = max(self.ends[level], tile)
        self.events.append((tiles, event))
        self.newest = max(moment, self.newest or moment)
        return lost

    def window(self, level, length, moment):
        """The events from the beginning of the tile that holds t − L to the end of the tile that holds t."""
        width, ring = LEVELS[level]
        first, last = (moment - length) // width, moment // width
        oldest = self.ends[level] - ring
        return [event for tiles, event in self.events
                if first <= tiles[level] <= last and tiles[level] > oldest]


def level_of(length):
    return next(level for level, (width, ring) in enumerate(LEVELS)
                if length % width == 0 and LEAST_TILES <= length // width < ring)


def divided(a, b):
    if b:
        return a / b
    return math.nan if a == 0 or a != a or b != b else math.copysign(math.inf, a)


def statistic(what, window, field):
    if what == "count":
        return len(window)
    values = [event[field] for event in window if event[field] == event[field]]
    if what == "sum":
        return math.fsum(values)
    if not values:
        return math.nan
    if what == "max":
        return max(values)
    if what == "min":
        return min(values)
    mean = math.fsum(values) / len(values)
    return mean if what == "mean" else math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values))


def clock(name, moment):
    at = datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(microseconds=moment)
    hour = moment % UNITS["d"] / UNITS["h"]
    return {"hour": hour, "weekday": at.weekday(), "night": at.hour < 6, "weekend": at.weekday() >= 5}[name]


class Recomputation:
    def __init__(self, pipeline):
        self.pipeline = pipeline
        # The past as each partition's batches see it.
        self.past = defaultdict(lambda: defaultdict(Past))
        self.known = defaultdict(OrderedDict)
        # What each batch added, by partition: entity, whether it is shared, event and moment.
        self.added = defaultdict(list)
        # How far each partition's past holds the others'.
        self.seen = defaultdict(dict)
        self.shared = set(list(pipeline.entities)[1:])
        self.spans = {needs[2]: duration(needs[2]) for _, _, needs in pipeline.features if isinstance(needs, tuple)}
        self.levels = {over: level_of(length) for over, length in self.spans.items()}
        self.used = {
            entity: {self.levels[needs[2]] for _, _, needs in pipeline.features
                     if isinstance(needs, tuple) and needs[0] == entity} for entity in pipeline.entities}

    def begin(self, partition, frontier):
        """Brings the partition's past up to what its next batch read. Says what cannot be."""
        seen = self.seen[partition]
        faults = [f"read {seq} of partition {other}, which has {len(self.added[other])}"
                  for other, seq in frontier.items() if seq > len(self.added[other])]
        if any(seen.get(other, 0) > seq for other, seq in frontier.items()):
            # Another core has taken the partition over, and was behind the one before it.
            self.past[partition].clear()
            seen.clear()
            for batch in self.added[partition]:
                for key, _, event, moment in batch:
                    self.past[partition][key].add(event, moment)
        for other, seq in frontier.items():
            for batch in self.added[other][seen.get(other, 0):seq]:
                for key, shared, event, moment in batch:
                    if shared:
                        self.past[partition][key].add(event, moment)
            seen[other] = seq
        self.added[partition].append([])
        return faults

    def take(self, partition, item):
        """What the log should say of an input: its outcome, and for a scored one its flags and row."""
        try:
            event = self.pipeline.decode(item["event"])
        except Refused:
            return "deadLetter", None, None
        key = event["tenant"], event["id"]
        if key in self.known[partition]:
            return "duplicate", None, None
        self.known[partition][key] = item["appendTime"]
        flags, moment = set(), event["time"]
        if moment > item["appendTime"] + self.pipeline.future:
            flags.add("fromFuture")
            moment = item["appendTime"]
        # The primary entity's events all lie in its own partition.
        pasts, before = {}, {}
        for name in self.pipeline.entities:
            if not event[name]:
                continue
            key = event["tenant"], name, event[name]
            past = self.past[partition][key]
            self.added[partition][-1].append((key, name in self.shared, event, moment))
            pasts[name], before[name] = past, past.newest
            lost = past.add(event, moment)
            if any(lost[level] for level in self.used[name]):
                flags.add("late")
        return "scored", flags, self.row(event, moment, pasts, before)

    def row(self, event, moment, pasts, before):
        windows, row = {}, []
        for _, kind, needs in self.pipeline.features:
            if kind == "value":
                row.append(event[needs])
            elif kind == "log":
                row.append(math.log1p(event[needs]) if event[needs] >= 0 else math.nan)
            elif kind == "clock":
                row.append(clock(needs, moment))
            elif kind == "since_last":
                newest = before.get(needs)
                row.append(math.nan if newest is None else max(0, moment - newest) / 1_000_000)
            else:
                entity, field, over = needs
                if entity not in pasts:
                    row.append(math.nan)
                    continue
                if (entity, over) not in windows:
                    windows[entity, over] = pasts[entity].window(self.levels[over], self.spans[over], moment)
                window = windows[entity, over]
                if kind == "distinct":
                    row.append(estimate({other[field] for other in window if other[field]}))
                elif kind == "ratio":
                    row.append(divided(event[field], statistic("mean", window, field)))
                else:
                    row.append(statistic(kind, window, field))
        return row

    def commit(self, partition, now):
        """Forgets ids that are too many or too old, as a batch ends."""
        known = self.known[partition]
        while known and (len(known) > self.pipeline.duplicate_ids
                         or next(iter(known.values())) < now - self.pipeline.duplicate_window):
            known.popitem(last=False)


class Comparison:
    """Committed rows against recomputed ones, a chunk at a time; the score is xgboost's of the recomputed row."""

    def __init__(self, names, pipeline):
        self.names, self.pipeline = names, pipeline
        self.booster = xgboost.Booster(model_file=pipeline.model) if pipeline.model else None
        columns = names + (["score"] if self.booster else [])
        self.worst, self.bad, self.columns = np.zeros(len(columns)), np.zeros(len(columns), int), columns
        self.rows, self.differing, self.exact, self.examples = 0, 0, 0, []
        self.pending = []

    def add(self, place, committed, score, row):
        self.pending.append((place, [*committed, score], row))
        if len(self.pending) == CHUNK:
            self.flush()

    def flush(self):
        if not self.pending:
            return
        # float64 first: None becomes NaN, "Infinity" becomes infinite; then the Float32 that the text stands for.
        committed = np.array([row for _, row, _ in self.pending], dtype=np.float64).astype(np.float32)
        rows = np.array([row for _, _, row in self.pending], dtype=np.float64).astype(np.float32)
        if self.booster:
            order = [self.names.index(name) for name in self.booster.feature_names]
            scores = self.booster.predict(
                xgboost.DMatrix(rows[:, order], missing=np.nan, feature_names=self.booster.feature_names))
            rows = np.column_stack([rows, scores])
        else:
            committed = committed[:, :-1]
        a, b = committed.astype(np.float64), rows.astype(np.float64)
        with np.errstate(invalid="ignore"):
            difference = np.abs(a - b) / np.maximum(1, np.abs(b))
        difference[(a == b) | (np.isnan(a) & np.isnan(b))] = 0
        difference[np.isnan(difference)] = np.inf
        wrong = difference > TOLERANCE
        self.worst = np.maximum(self.worst, difference.max(axis=0))
        self.bad += wrong.sum(axis=0)
        self.exact += int((difference == 0).sum())
        self.rows += len(rows)
        self.differing += int(wrong.any(axis=1).sum())
        for row, column in np.argwhere(wrong)[:max(0, 10 - len(self.examples))]:
            self.examples.append(
                f"{self.pending[row][0]} {self.columns[column]}: the log has {float(a[row, column])}, "
                f"expected {float(b[row, column])}")
        self.pending = []


def main():
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    parser = argparse.ArgumentParser(description="Compares a log's features and scores with a plain recomputation.")
    parser.add_argument("rows", help="what `tideline features rows` wrote")
    parser.add_argument("--pipeline", default=os.path.join(root, "pipelines/cards.yaml"))
    options = parser.parse_args()
    began = time.time()
    pipeline = Pipeline(options.pipeline)
    recomputation = Recomputation(pipeline)
    counts, faults, positions = defaultdict(int), [], {}
    # Bytes that are no UTF-8 come through as they are: such an event must be a dead letter.
    with open(options.rows, encoding="utf-8", errors="surrogateescape") as file:
        names = json.loads(file.readline())["features"]
        if names != [name for name, _, _ in pipeline.features]:
            sys.exit("recompute: the rows are of another pipeline")
        comparison = Comparison(names, pipeline)
        for line in file:
            batch = json.loads(line)
            partition = batch["partition"]
            frontier = {int(other): seq for other, seq in batch["frontier"].items()}
            found = recomputation.begin(partition, frontier)
            if batch["seq"] != positions.get(partition, 0) + 1:
                found.append(f"follows {positions.get(partition, 0)}")
            faults += [f"batch {partition}/{batch['seq']} {text}" for text in found]
            positions[partition] = batch["seq"]
            for item in batch["events"]:
                place = f"{partition}/{item['offset']}"
                outcome, flags, row = recomputation.take(partition, item)
                counts[item["outcome"]] += 1
                if outcome != item["outcome"]:
                    faults.append(f"{place} is {item['outcome']}, expected {outcome}")
                elif outcome == "scored":
                    for flag in flags:
                        counts[flag] += 1
                    if flags != set(item["flags"]) - {"flagged", "degraded"}:
                        faults.append(f"{place} is marked {item['flags']}, expected {sorted(flags)}")
                    if item["score"] is not None and ("flagged" in item["flags"]) != (
                            item["score"] > np.float32(pipeline.threshold)):
                        faults.append(f"{place} is marked {item['flags']} at a score of {item['score']}")
                    comparison.add(place, item["features"], item["score"], row)
            recomputation.commit(partition, batch["commitTime"])
        comparison.flush()
    for name, worst, bad in zip(comparison.columns, comparison.worst, comparison.bad):
        print(f"{name:32} worst {worst:.2e}" + (f"  {bad} differ" if bad else ""))
    for text in comparison.examples + faults[:10]:
        print(f"DIFFERS: {text}")
    compared = comparison.rows * len(comparison.columns)
    print(f"batches {sum(positions.values())}, scored {counts['scored']}, duplicates {counts['duplicate']}, "
          f"dead letters {counts['deadLetter']}, late {counts['late']}, from the future {counts['fromFuture']}")
    print(f"rows {comparison.rows}, values compared {compared}, exactly equal {comparison.exact}, "
          f"worst difference {comparison.worst.max():.2e}, rows that differ {comparison.differing}, "
          f"other faults {len(faults)}, {time.time() - began:.0f} s")
    if comparison.differing or faults or not comparison.rows:
        print("DIFFERS")
        return 1
    print(f"equal within {TOLERANCE:g}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
