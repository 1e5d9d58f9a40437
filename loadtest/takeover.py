"""Cores of a Kafka log are killed; how long their partitions stand still, and whether the others' do."""

import datetime
import json
import os
import random
import signal
import tempfile
import threading
import time

from world import World, get, own_pipeline


def require():
    """Fails where the client is not there."""
    import confluent_kafka  # noqa: F401


class Producer(threading.Thread):
    """So many events a second, each straight to its partition, with the time at which it was made in its id."""

    def __init__(self, kafka, topic, partitions, rate):
        super().__init__(daemon=True)
        from confluent_kafka import Producer as Client
        self.client = Client({"bootstrap.servers": kafka, "enable.idempotence": True, "linger.ms": 1})
        self.topic, self.partitions, self.rate, self.ending = topic, partitions, rate, threading.Event()
        self.made = 0

    def run(self):
        began = time.time()
        while not self.ending.is_set():
            due = int((time.time() - began) * self.rate)
            while self.made < due:
                now = time.time()
                customer = self.made % 4000
                moment = datetime.datetime.fromtimestamp(now, datetime.timezone.utc).isoformat(timespec="milliseconds")
                event = {"transaction_id": f"{self.made}-{now:.4f}", "time": moment.replace("+00:00", "Z"),
                         "customer_id": f"c-{customer}", "terminal_id": f"m-{self.made % 97}",
                         "amount": 1.5 + self.made % 300}
                self.client.produce(self.topic, json.dumps(event), partition=customer % self.partitions)
                self.made += 1
            self.client.poll(0)
            time.sleep(0.001)
        self.client.flush(30)


class Observer(threading.Thread):
    """Reads committed scores, and notes when one came, of which partition, and when its event was made."""

    def __init__(self, kafka, topic, partitions):
        super().__init__(daemon=True)
        from confluent_kafka import Consumer, TopicPartition
        self.client = Consumer({"bootstrap.servers": kafka, "group.id": "observer", "enable.auto.commit": False,
                                "isolation.level": "read_committed", "fetch.wait.max.ms": 20})
        self.client.assign([TopicPartition(topic, number, 0) for number in range(partitions)])
        self.seen, self.ending = [[] for _ in range(partitions)], threading.Event()

    def run(self):
        while not self.ending.is_set():
            for message in self.client.consume(1000, 0.02):
                if message.error():
                    continue
                score = json.loads(message.value())
                self.seen[message.partition()].append((time.time(), float(score["id"].split("-")[1])))
        self.client.close()

    def first(self, partition, after):
        """When the first score of an event that was made after a moment came."""
        return next((came for came, made in self.seen[partition] if made > after), None)

    def longest_silence(self, partition, begin, end):
        times = [begin, *(came for came, _ in self.seen[partition] if begin <= came <= end), end]
        return max(b - a for a, b in zip(times, times[1:]))


class Asker(threading.Thread):
    """Asks the regions in turn, a hundred times a second."""

    def __init__(self, urls):
        super().__init__(daemon=True)
        self.urls, self.asked, self.failed, self.ending = urls, 0, 0, threading.Event()

    def run(self):
        while not self.ending.is_set():
            try:
                get(self.urls[self.asked % len(self.urls)] + "/v1/events?limit=1", timeout=2)
            except OSError:
                self.failed += 1
            self.asked += 1
            time.sleep(0.01)


def partitions_of(place, name):
    """The partitions that a core says are its own."""
    return [head["partition"] for head in get(place + "/v1/status")["heads"]]


def quantile(values, q):
    values = sorted(values)
    return values[min(len(values) - 1, int(q * len(values)))] if values else float("nan")


def measure(kafka, kills, standbys, rate=1000, cores=2, partitions=4, seed=1, planned=False):
    """Kills a core that has partitions `kills` times, once all are well again. Seconds of each."""
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        pipeline = own_pipeline(folder, "takeover", "10ms")
        name = os.path.basename(pipeline)[:-5]
        options = ["--kafka", kafka, "--pipeline", pipeline, "--cores", str(cores), "--partitions", str(partitions)]
        if standbys:
            options += ["--standbys", str(standbys)]
        with World(0, *options) as world:
            count = cores + standbys
            names = ["core", *(f"core-{number}" for number in range(1, count))]
            logs = os.path.join(world.folder.name, "world/logs")
            ports = {}
            for core in names:
                with open(os.path.join(logs, core + ".log"), encoding="utf-8") as file:
                    ports[core] = next(word for line in file for word in line.split() if word.startswith("url=http"))[4:]
            producer = Producer(kafka, name + ".events", partitions, rate)
            observer = Observer(kafka, f"tideline.{name}.scores", partitions)
            asker = Asker(list(world.regions.values()))
            for thread in (producer, observer, asker):
                thread.start()
            found = {"first": [], "others": [], "usual": []}

            def owned():
                """Who has what; an exception while someone is away."""
                return {core: partitions_of(ports[core], core) for core in names}

            for number in range(kills):
                deadline = time.time() + 60
                while True:
                    try:
                        own = owned()
                        if sum(map(len, own.values())) == partitions and sum(map(bool, own.values())) == cores:
                            break
                    except OSError:
                        pass
                    if time.time() > deadline:
                        raise SystemExit(f"takeover: the cores did not come back together within 60 s; logs: {logs}")
                    time.sleep(0.1)
                time.sleep(chance.uniform(2.0, 3.0))
                own = owned()
                victim = chance.choice([core for core in names if own[core]])
                others = [partition for core in names if core != victim for partition in own[core]]
                with open(world.endpoints, encoding="utf-8") as file:
                    pid = json.load(file)["pids"][victim]
                usual = [observer.longest_silence(partition, time.time() - 1.5, time.time()) for partition in others]
                killed = time.time()
                os.kill(pid, signal.SIGTERM if planned else signal.SIGKILL)
                while any(observer.first(partition, killed) is None for partition in own[victim]):
                    if time.time() > killed + 30:
                        raise SystemExit(f"takeover: {own[victim]} of {victim} stand still; logs: {logs}")
                    time.sleep(0.01)
                seconds = max(observer.first(partition, killed) for partition in own[victim]) - killed
                time.sleep(0.3)
                found["first"].append(seconds)
                found["others"] += [observer.longest_silence(partition, killed, time.time()) for partition in others]
                found["usual"] += usual
                print(f"  {number + 1}: {victim} {seconds:.3f} s, others {max(found['others'][-len(others):]):.3f} s",
                      flush=True)
            for thread in (producer, observer, asker):
                thread.ending.set()
                thread.join(40)
            stages = {}
            for core in names:
                with open(os.path.join(logs, core + ".log"), encoding="utf-8") as file:
                    for line in file:
                        if "took over" in line:
                            for word in line.split():
                                if word.endswith(tuple("0123456789")) and "Milliseconds=" in word:
                                    stage, value = word.split("=")
                                    stages.setdefault(stage, []).append(int(value))
            found["asked"], found["failed"], found["stages"] = asker.asked, asker.failed, stages
            return found


def rows(found):
    first = found["first"]
    table = [("kills", len(first), ""), ("kill to the first score, p50", quantile(first, 0.5), "s"),
             ("kill to the first score, p99", quantile(first, 0.99), "s"), ("the longest", max(first), "s"),
             ("others' longest silence meanwhile, p50", quantile(found["others"], 0.5), "s"),
             ("others' longest silence meanwhile, worst", max(found["others"], default=0.0), "s"),
             ("their longest silence before, worst", max(found["usual"], default=0.0), "s"),
             ("questions to regions answered", found["asked"] - found["failed"], ""),
             ("questions failed", found["failed"], "")]
    for stage, values in found["stages"].items():
        table.append((f"stage {stage[:-12]}, p50", quantile(values, 0.5) / 1000, "s"))
        table.append((f"stage {stage[:-12]}, p99", quantile(values, 0.99) / 1000, "s"))
    return table
