"""A world from the release build, and what its processes use, read from outside: HTTP and /proc."""

import json
import os
import signal
import subprocess
import tempfile
import time
import urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TOOL = os.path.join(ROOT, ".build/release/tideline")
TICKS = os.sysconf("SC_CLK_TCK")


def get(url, timeout=5):
    with urllib.request.urlopen(url, timeout=timeout) as answer:
        return json.load(answer)


def cpu_seconds(pid):
    """User and system time of a process so far."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def thread_cpu_seconds(pid):
    """The same of each thread, by the thread's name."""
    seconds = {}
    for thread in os.listdir(f"/proc/{pid}/task"):
        try:
            with open(f"/proc/{pid}/task/{thread}/stat", encoding="ascii") as file:
                head, rest = file.read().rsplit(")", 1)
        except FileNotFoundError:
            continue
        name, fields = head.split("(", 1)[1], rest.split()
        seconds[name] = seconds.get(name, 0) + (int(fields[11]) + int(fields[12])) / TICKS
    return seconds


def resident_bytes(pid):
    """Anonymous and file pages in memory."""
    with open(f"/proc/{pid}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def own_pipeline(folder, prefix, budget="10ms", base=None):
    """The card pipeline, or another of its name, under a name and with an input topic that no other run has."""
    name = f"{prefix}-{os.getpid()}-{int(time.time() * 1000) % 1_000_000}"
    path = os.path.join(folder, name + ".yaml")
    with open(base or os.path.join(ROOT, "pipelines/cards.yaml"), encoding="utf-8") as file:
        text = file.read()
    text = text.replace("pipeline: cards", f"pipeline: {name}").replace("../models", os.path.join(ROOT, "models"))
    text = text.replace("latency_budget: 10ms", f"latency_budget: {budget}")
    with open(path, "w", encoding="utf-8") as file:
        file.write(text + f"\nkafka: {{ topic: {name}.events }}\n")
    return path


class World:
    """`tideline up` in a folder of its own, on free ports, ended with the block."""

    def __init__(self, rate, *options):
        self.folder = tempfile.TemporaryDirectory(prefix="tideline-loadtest-")
        self.endpoints = os.path.join(self.folder.name, "world.json")
        self.command = [TOOL, "up", "--dir", self.folder.name + "/world", "--ports", "free", "--endpoints",
                        self.endpoints, "--rate", str(rate), *options]

    def __enter__(self):
        with open(os.path.join(self.folder.name, "up.log"), "w", encoding="utf-8") as log:
            self.process = subprocess.Popen(self.command, cwd=ROOT, stdout=log, stderr=log)
        began = time.time()
        while not os.path.exists(self.endpoints):
            if time.time() - began > 60 or self.process.poll() is not None:
                self.__exit__(None, None, None)
                raise SystemExit("loadtest: the world did not start; run `make up` to see why")
            time.sleep(0.05)
        with open(self.endpoints, encoding="utf-8") as file:
            place = json.load(file)
        self.core, self.regions, self.pids = place["core"], place["regions"], place["pids"]
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.folder.cleanup()

    def core_status(self):
        return get(self.core + "/v1/status")

    def region_status(self):
        return {name: get(url + "/v1/status") for name, url in self.regions.items()}

    def cpu(self):
        return {name: cpu_seconds(pid) for name, pid in self.pids.items()}

    def resident(self):
        return {name: resident_bytes(pid) for name, pid in self.pids.items()}
