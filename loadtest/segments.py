"""Snapshots and segments under load: a million vectors in a region, swaps under queries, bytes that are shipped."""

import json
import os
import random
import re
import socket
import subprocess
import tempfile
import time
import urllib.request

from world import ROOT, TOOL, World, get, resident_bytes

QUERY_BENCH = os.path.join(ROOT, ".build/release/QueryBench")


def quantile(values, q):
    values = sorted(values)
    return values[min(len(values) - 1, int(q * len(values)))] if values else float("nan")


def metrics(url):
    with urllib.request.urlopen(url + "/metrics", timeout=10) as answer:
        lines = [line for line in answer.read().decode().splitlines() if not line.startswith("#")]
    return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines}


def total(figures, name):
    return sum(value for key, value in figures.items() if key.startswith(name + "{"))


def wait(what, condition, seconds):
    began = time.time()
    while not condition():
        if time.time() - began > seconds:
            raise SystemExit(f"loadtest: {what} did not come within {seconds} s")
        time.sleep(0.25)
    return time.time() - began


def ask(url, paths, concurrency, seconds, rate=0):
    """Rows of (due, latency, status), microseconds."""
    with tempfile.TemporaryDirectory(prefix="tideline-queries-") as folder:
        with open(folder + "/paths", "w", encoding="utf-8") as file:
            file.write("\n".join(paths) + "\n")
        subprocess.run([QUERY_BENCH, url.split("//")[1], folder + "/paths", str(concurrency), str(seconds), str(rate),
                        folder + "/out"], check=True)
        with open(folder + "/out", encoding="utf-8") as file:
            return [tuple(map(int, line.split())) for line in file]


def event_ids(url, count, seed=1):
    """Ids from all over a region's history."""
    ids, cursor = [], ""
    while True:
        page = get(f"{url}/v1/events?limit=1000{cursor}", timeout=30)
        ids += [event["id"] for event in page["events"]]
        if "cursor" not in page:
            return random.Random(seed).sample(ids, min(count, len(ids)))
        cursor = f"&cursor={page['cursor']}"


def fill(world, count):
    """Sends so many events as fast as the core takes them, and waits until each region has them."""
    events = world.folder.name + "/events.ndjson"
    subprocess.run([TOOL, "generate", "--out", events, "--rate", "5000", "--seconds", str(count // 5000)], check=True,
                   cwd=ROOT, stderr=subprocess.DEVNULL)
    subprocess.run([TOOL, "replay", events, "--to", world.core], check=True, cwd=ROOT, stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL)
    os.remove(events)
    wait("all events in all regions",
         lambda: all(state["vectors"] >= count * 0.999 for state in world.region_status().values()), 300)


def million(arguments, table):
    """A region with a million vectors: memory, queries over HTTP, threads, and a new region that begins."""
    count = arguments.count
    rows = []
    with World(0, "--sealer", f"--rows {max(1000, count // 2)} --rows-min 1000 --interval 10 --fan-out 2 "
                              f"--threads {os.cpu_count()}") as world:
        began = time.time()
        fill(world, count)
        filled = time.time() - began
        eu = world.regions["eu"]
        sealed = wait("one segment", lambda: (lambda s: s["vectorsInTail"] < 1000 and s["segments"] <= 2)(
            get(eu + "/v1/status")["snapshot"]), 900)
        time.sleep(5)
        status = get(eu + "/v1/status")["snapshot"]
        vectors = status["vectorsSealed"] + status["vectorsInTail"]
        rows += [("events sent and visible in three regions", vectors, ""), ("  in", filled, "s"),
                 ("  then sealed and merged in", sealed, "s"), ("segments", status["segments"], ""),
                 ("memory of segments", status["memoryBytes"] / vectors, "bytes a vector"),
                 ("  mapped from files", status["fileBytes"] / vectors, "bytes a vector"),
                 ("resident memory of the edge", resident_bytes(world.pids["edge-eu"]) / 2**20, "MiB")]
        ids = event_ids(eu, 2000)
        similar = [f"/v1/similar?id={name}&k=10" for name in ids]
        ask(eu, similar, 8, 3)
        threads = len(os.listdir(f"/proc/{world.pids['edge-eu']}/task"))
        for concurrency in [1, 8]:
            answers = ask(eu, similar, concurrency, arguments.seconds)
            times = [latency for _, latency, status in answers if status == 200]
            rows += [(f"GET /v1/similar, {concurrency} at once", len(times) / arguments.seconds, "answers/s"),
                     ("  p50", quantile(times, 0.5) / 1000, "ms"), ("  p99", quantile(times, 0.99) / 1000, "ms"),
                     ("  failed", len(answers) - len(times), "")]
        answers = ask(eu, similar, 64, 5)
        during = len(os.listdir(f"/proc/{world.pids['edge-eu']}/task"))
        rows += [("threads of the edge", threads, ""), ("  after 64 clients at once", during, ""),
                 ("  of those clients' questions failed", sum(1 for *_, status in answers if status != 200), "")]
        rows += new_region(world, count)
    return table(f"Segments: {count:,} events' vectors in a region",
                 "a world of three regions on the same cores; QueryBench keeps 1, 8, 64 connections busy for "
                 f"{arguments.seconds} s with 2,000 sampled ids, k = 10, recall .99", rows)


def new_region(world, count):
    """Starts a region that has nothing: seconds to its first answer and to `fresh`, and the bytes that came."""
    folder = world.folder.name + "/new"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    nats = json.load(open(world.endpoints, encoding="utf-8"))["nats"]
    url = f"http://127.0.0.1:{port}"
    began = time.time()
    with open(world.folder.name + "/new.log", "w", encoding="utf-8") as log:
        edge = subprocess.Popen([TOOL, "edge", "--region", "new", "--dir", folder, "--nats", nats, "--port", str(port),
                                 "--trust", world.folder.name + "/world/keys/snapshot.pub"], cwd=ROOT, stdout=log,
                                stderr=log)
    try:
        first, progress = None, []
        while True:
            try:
                status = get(url + "/v1/status")
            except OSError:
                time.sleep(0.02)
                continue
            if "bootstrap" in status:
                progress.append(status["bootstrap"])
            if first is None and status["state"] != "bootstrapping":
                first = time.time() - began
            if status["state"] == "fresh" and status.get("vectors", 0) >= count * 0.999:
                break
            if time.time() - began > 300:
                raise SystemExit("loadtest: the new region is not fresh after 300 s")
            time.sleep(0.02)
        fresh = time.time() - began
        fetched = total(metrics(url), "tideline_snapshot_fetched_bytes_total")
        return [("a new region: bytes fetched", fetched / 2**20, "MiB"), ("  seconds to its first answer", first, "s"),
                ("  to fresh, with every vector", fresh, "s"), ("  looks at its progress that had some", len(progress), "")]
    finally:
        edge.terminate()
        edge.wait(30)


def swaps(arguments, table):
    """Queries while events come and a snapshot is put in place every 20 s."""
    rate, every = arguments.swap_rate, 20
    seconds = max(60, arguments.seconds * 6)
    with World(rate, "--sealer", f"--rows 10000000 --rows-min 500 --interval {every} --keep 100") as world:
        eu = world.regions["eu"]
        wait("a first snapshot", lambda: get(eu + "/v1/status")["snapshot"]["number"], 120)
        ids = event_ids(eu, 500)
        paths = [f"/v1/similar?id={name}&k=10" for name in ids] + ["/v1/events?limit=20"]
        answers = ask(eu, paths, 8, seconds, arguments.query_rate)
        log = open(world.folder.name + "/world/logs/edge-eu.log", encoding="utf-8").read()
        states = world.region_status()
        days = time.strftime("%Y-%m-%d ", time.gmtime())
        moments = [time.mktime(time.strptime(days + clock, "%Y-%m-%d %H:%M:%S")) - time.timezone + int(milli) / 1000
                   for clock, milli in re.findall(r"^(\d\d:\d\d:\d\d)\.(\d+) info edge-eu: snapshot in place", log, re.M)]
        moments = [m for m in moments if answers[0][0] / 1e6 < m < answers[0][0] / 1e6 + seconds]
        inside = [latency for due, latency, status in answers if any(-2 <= due / 1e6 - m <= 1 for m in moments)]
        outside = [latency for due, latency, status in answers if not any(-2 <= due / 1e6 - m <= 1 for m in moments)]
        failed = sum(1 for *_, status in answers if status != 200)
        rows = [("events", rate, "events/s"), ("questions", arguments.query_rate, "a second"),
                ("  asked", len(answers), ""), ("  failed", failed, ""),
                ("snapshots put in place meanwhile", len(moments), ""),
                ("p50 while one is fetched, checked and swapped", quantile(inside, 0.5) / 1000, "ms"),
                ("  at other times", quantile(outside, 0.5) / 1000, "ms"),
                ("p99 while one is fetched, checked and swapped", quantile(inside, 0.99) / 1000, "ms"),
                ("  at other times", quantile(outside, 0.99) / 1000, "ms"),
                ("  ratio", quantile(inside, 0.99) / quantile(outside, 0.99), "")]
        for name, state in sorted(states.items()):
            rows.append((f"commit to findable in {name}, p99", state["commitToVisibleMilliseconds"]["p99"], "ms"))
        shipped = shipping(world)
    rows += [("shipped to a region, a sealed vector", shipped["ours"][-1], "bytes"),
             ("  if each snapshot were shipped whole", shipped["whole"][-1], "bytes")]
    if arguments.graph:
        with open(arguments.graph, "w", encoding="utf-8") as file:
            file.write(graph(shipped))
    return table("Swaps: queries while snapshots are put in place",
                 f"8 connections, {seconds} s; a swap's span is from 2 s before it is in place to 1 s after; the time of "
                 "an answer counts from when its question was due", rows)


def shipping(world):
    """Bytes of vectors' files that regions had to fetch, snapshot by snapshot, over the vectors sealed by then."""
    snapshots = []
    folder = world.folder.name + "/world/sealer/snapshots/manifests"
    for name in os.listdir(folder):
        with open(os.path.join(folder, name), "rb") as file:
            snapshots.append(json.loads(file.read().split(b"\n", 1)[1]))
    snapshots.sort(key=lambda manifest: int(manifest["number"]))
    held, ours, whole, result = set(), 0, 0, {"vectors": [], "ours": [], "whole": []}
    for manifest in snapshots:
        for segment in manifest["segments"]:
            file = segment.get("file", segment)
            whole += file["bytes"]
            if file["sha256"] not in held:
                ours += file["bytes"]
            held.add(file["sha256"])
        vectors = sum(segment["rows"] for segment in manifest["segments"])
        if vectors:
            result["vectors"].append(vectors)
            result["ours"].append(ours / vectors)
            result["whole"].append(whole / vectors)
    return result


def graph(shipped):
    """An SVG of bytes a sealed vector over the vectors sealed."""
    width, height, left, bottom = 720, 360, 70, 50
    top = max(shipped["whole"]) * 1.05
    right = max(shipped["vectors"])

    def point(vectors, value):
        return (f"{left + (width - left - 20) * vectors / right:.1f},"
                f"{height - bottom - (height - bottom - 40) * value / top:.1f}")

    def line(key, colour, dash):
        points = " ".join(point(v, b) for v, b in zip(shipped["vectors"], shipped[key]))
        return f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2.5" stroke-dasharray="{dash}"/>'

    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
             'font-size="13" role="img" aria-label="Bytes shipped to a region for each sealed vector">',
             '<rect width="100%" height="100%" fill="#fff"/>',
             f'<text x="{left}" y="22" font-size="15">Shipped to a region, bytes a sealed vector</text>']
    for step in range(5):
        value = top * step / 4
        x, y = point(0, value).split(",")
        parts.append(f'<line x1="{x}" y1="{y}" x2="{width - 20}" y2="{y}" stroke="#ddd"/>'
                     f'<text x="{left - 8}" y="{float(y) + 4}" text-anchor="end">{value:,.0f}</text>')
        x, y = point(right * step / 4, 0).split(",")
        parts.append(f'<text x="{x}" y="{height - bottom + 20}" text-anchor="middle">{right * step / 4:,.0f}</text>')
    parts.append(f'<text x="{(width + left) / 2}" y="{height - 10}" text-anchor="middle">vectors sealed so far</text>')
    parts += [line("whole", "#b45309", "6 4"), line("ours", "#1d4ed8", "")]
    parts.append(f'<text x="{width - 24}" y="{float(point(0, shipped["whole"][-1]).split(",")[1]) - 8}" fill="#b45309" '
                 'text-anchor="end">the whole index each time</text>')
    parts.append(f'<text x="{width - 24}" y="{float(point(0, shipped["ours"][-1]).split(",")[1]) - 8}" fill="#1d4ed8" '
                 'text-anchor="end">only files that the region lacks</text></svg>\n')
    return "\n".join(parts)
