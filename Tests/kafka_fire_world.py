"""What Tests/kafka-fire sets on fire: a broker of its own, a bus, regions, a relay, cores in slots, and their feed."""
import array
import collections
import json
import os
import random
import re
import signal
import socket
import subprocess
import threading
import time
import urllib.request

ERROR = re.compile(r"^\S+ (?:error|warning) \S+ (.*)$")
# What a core says when it finds that another has its slot or a partition of it.
FENCED = ("joining the group anew", "lost to another worker", "taken by another worker meanwhile",
          "the slot was taken by another worker", "the scoring loop has ended")


class Failure(Exception):
    """The torture ends here: something is wrong that more faults would only hide."""


def get(url, timeout=5):
    with urllib.request.urlopen(url, timeout=timeout) as answer:
        return json.load(answer)


def free_ports(count):
    """Ports below the range that clients take theirs from: a server that is away keeps its own."""
    found, chance = [], random.Random()
    while len(found) < count:
        port = chance.randrange(15_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in found:
            found.append(port)
    return found


class Process:
    """One incarnation of a program: its output has a file of its own, and it ends with this script."""

    def __init__(self, name, command, output):
        self.name, self.output, self.began, self.asked = name, output, time.time(), False
        environment = dict(os.environ, TIDELINE_PARENT=str(os.getpid()), MALLOC_ARENA_MAX="2")
        with open(output, "w", encoding="utf-8") as file:
            self.popen = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=environment,
                                          start_new_session=True)
        self.pid = self.popen.pid

    def signal(self, number):
        """Returns whether the process was there to get it."""
        if self.popen.poll() is not None:
            return False
        self.asked = self.asked or number in (signal.SIGKILL, signal.SIGTERM)
        self.popen.send_signal(number)
        return True

    @property
    def ended(self):
        """The exit code, or nothing while it runs."""
        return self.popen.poll()

    def text(self, start=0):
        with open(self.output, "rb") as file:
            file.seek(start)
            return file.read().decode(errors="replace")

    def last_error(self):
        """The last error's or warning's text; of a crash the last line."""
        lines = self.text().splitlines()
        told = ([line for line in lines if re.match(r"^\S+ error ", line)]
                or [line for line in lines if ERROR.match(line)])
        return ERROR.match(told[-1])[1] if told else (lines[-1] if lines else "nothing said")


class Slot:
    """A core's place: whoever is in it, and the folder that is used now."""

    def __init__(self, number):
        self.number, self.process, self.side, self.mark = number, None, 0, 0
        # Started again when it ends; held: an action is about to start it itself.
        self.wanted, self.held, self.start_at, self.delay = False, False, 0.0, 1.0


class World:
    REGIONS = ("eu", "us", "ap")
    PARTITIONS = 4

    def __init__(self, folder, tool, root, pipeline, arguments, tell):
        self.folder, self.tool, self.root, self.pipeline, self.tell = folder, tool, root, pipeline, tell
        self.name = os.path.basename(pipeline)[:-len(".yaml")]
        self.topic = self.name + ".events"
        self.broker_program = arguments.broker.split()
        self.nodes, self.proxy_program, self.cores = arguments.nodes, arguments.proxy, arguments.cores
        self.slots = [Slot(number) for number in range(4)]
        self.others, self.start_at, self.started = {}, {}, 0
        self.zombies, self.fenced, self.silent = [], [], []
        self.self_ended = collections.Counter()
        self.crashes, self.stops = [], []
        self.broker_port, self.proxy_port, self.api_port, self.nats_port, *edges = free_ports(4 + len(self.REGIONS))
        self.regions = {name: f"http://127.0.0.1:{port}" for name, port in zip(self.REGIONS, edges)}
        self.bootstrap = ""
        os.makedirs(folder + "/logs")
        os.makedirs(folder + "/world")

    # MARK: starting

    def start_process(self, name, command):
        self.started += 1
        return Process(name, command, f"{self.folder}/logs/{name}-{self.started:04}.log")

    def start_broker(self):
        """The whole cluster, the proxy before it: the brokers talk to themselves by the address that they advertise."""
        more = ["--nodes", str(self.nodes)] if self.nodes > 1 else ["--port", str(self.broker_port)]
        if self.proxy_program:
            self.others["proxy"] = self.start_process(
                "proxy", [self.tool, "_child", self.proxy_program, "-host", "127.0.0.1", "-port", str(self.api_port)])
            self.wait_for("toxiproxy", lambda: self.toxi("GET", "/version") is not None, 10)
            self.toxi("POST", "/proxies", {
                "name": "kafka", "listen": f"127.0.0.1:{self.proxy_port}", "upstream": f"127.0.0.1:{self.broker_port}"})
            more += ["--set", f"advertised.listeners=PLAINTEXT://127.0.0.1:{self.proxy_port}"]
        made = subprocess.run([*self.broker_program, "start", "--dir", self.folder + "/broker", *more],
                              capture_output=True, text=True, check=False, timeout=180)
        if made.returncode:
            raise Failure(f"the broker did not start: {made.stdout}{made.stderr}")
        self.bootstrap = f"127.0.0.1:{self.proxy_port}" if self.proxy_program else made.stdout.split()[-1]

    def broker(self, *verb):
        """A verb of the broker's program, running."""
        with open(f"{self.folder}/logs/broker.log", "a", encoding="utf-8") as file:
            return subprocess.Popen([*self.broker_program, *verb[:1], "--dir", self.folder + "/broker", *verb[1:]],
                                    stdin=subprocess.DEVNULL, stdout=file, stderr=file)

    def toxi(self, method, path, body=None):
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.api_port}{path}", method=method,
            data=None if body is None else json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.read().decode()

    def make_topics(self):
        run = subprocess.run(
            [self.tool, "topics", "create", "--kafka", self.bootstrap, "--pipeline", self.pipeline, "--partitions",
             str(self.PARTITIONS)], capture_output=True, text=True, check=False, timeout=120)
        if run.returncode:
            raise Failure(f"topics create: {run.stdout}{run.stderr}")

    def start_other(self, name):
        nats = ["--nats", f"nats://127.0.0.1:{self.nats_port}"]
        if name == "nats":
            command = [self.tool, "_child", nats_server(), "-c", self.root + "/deploy/regions/nats.conf", "-a",
                       "127.0.0.1", "-p", str(self.nats_port), "-sd", self.folder + "/nats"]
        elif name == "relay":
            command = [self.tool, "relay", "--pipeline", self.pipeline, "--kafka", self.bootstrap, *nats]
        else:
            region = name[len("edge-"):]
            peers = ",".join(f"{other}={url}" for other, url in self.regions.items() if other != region)
            command = [self.tool, "edge", "--region", region, "--dir", self.folder + "/world", "--pipeline",
                       self.pipeline, "--port", self.regions[region].rsplit(":", 1)[1], "--peers", peers, *nats]
        self.start_at.pop(name, None)
        self.others[name] = self.start_process(name, command)

    def start_core(self, slot):
        slot.process = self.start_process(
            f"core-{slot.number}",
            [self.tool, "core", "--dir", f"{self.folder}/core-{slot.number}-{slot.side}", "--pipeline", self.pipeline,
             "--kafka", self.bootstrap, *(["--cores", str(self.cores)] if self.cores else
                                          ["--slot", str(slot.number)]),
             "--port", "0", "--nats", f"nats://127.0.0.1:{self.nats_port}"])
        slot.wanted, slot.held = True, False

    def running(self):
        return [slot for slot in self.slots if slot.wanted and not slot.held and slot.process
                and slot.process.ended is None]

    def took_slot(self, zombie, mark):
        """Whether another process has the slot that a core had when it was stopped, which had then written so much."""
        if not self.cores:
            return True
        had = re.findall(r"the slot is ours slot=([0-9]+)|the slot was (taken)", zombie.text()[:mark])
        if not had or not had[-1][0]:
            return False
        return any(f"the slot is ours slot={had[-1][0]}\n" in slot.process.text() and slot.process.began > zombie.began
                   or f"the slot is ours slot={had[-1][0]}\n" in slot.process.text(slot.mark)
                   for slot in self.slots if slot.process and slot.process is not zombie)

    # MARK: tending

    def tend(self):
        """What a supervisor does: starts what has ended, and notes why it did."""
        now = time.time()
        for slot in self.slots:
            process = slot.process
            if process and process.ended is not None:
                slot.process = None
                if not process.asked:
                    self.note_end(process)
                    slot.delay = min(slot.delay * 2, 8) if now - process.began < 4 else 1.0
                slot.start_at = now + slot.delay
            if slot.wanted and not slot.held and not slot.process and now >= slot.start_at:
                self.start_core(slot)
        for name, process in list(self.others.items()):
            if process.ended is None or process.asked:
                continue
            if name not in self.start_at:
                self.note_end(process)
                if name in ("nats", "proxy"):
                    raise Failure(f"{name} has ended by itself: {process.output}")
                self.start_at[name] = now + 1
            elif now >= self.start_at[name]:
                self.start_other(name)
        for zombie in list(self.zombies):
            self.watch(zombie, now)

    def note_end(self, process):
        reason = re.sub(r"[0-9]+", "N", process.last_error())[:160]
        kind = process.name.split("-")[0]
        self.tell(f"{process.name} pid {process.pid} has ended by itself, {process.ended}: {process.last_error()}")
        self.self_ended[kind, reason] += 1
        # 1: what it does failed; 2: it could not begin, as when the brokers are away.
        if process.ended not in (0, 1, 2):
            self.crashes.append(f"{process.name} ended with {process.ended}: {process.output}")
            raise Failure(self.crashes[-1])

    def watch(self, zombie, now):
        """A core that stood still while another took its slot: it has to notice. It is ended after a while."""
        process, resumed, mark = zombie
        said = [text for text in FENCED if text in process.text(mark)]
        # One that was in a call to a broker that is away hears nothing before that is back.
        if process.ended is None and now - resumed < (25 if said else 75):
            return
        self.zombies.remove(zombie)
        if process.ended == -signal.SIGKILL and process.asked and not said:
            self.tell(f"zombie pid {process.pid}: was killed before it had time to notice")
            return
        (self.fenced if said else self.silent).append(process.output)
        how = f"ended by itself, {process.ended}" if process.ended is not None else "is ended now"
        self.tell(f"zombie pid {process.pid}: {', '.join(said) or 'SAID NOTHING'}; {how}")
        if process.ended is not None and process.ended not in (0, 1, 2) and not process.asked:
            raise Failure(f"a zombie ended with {process.ended}: {process.output}")
        process.signal(signal.SIGKILL)
        process.popen.wait()

    def wait_for(self, what, condition, seconds, step=0.1):
        began, last = time.time(), ""
        while time.time() - began < seconds:
            if self.others.get("nats"):
                self.tend()
            try:
                if condition():
                    return time.time() - began
            except (OSError, ValueError, KeyError) as error:
                last = f"; the last look: {error}"
            time.sleep(step)
        raise Failure(f"{what} did not come within {seconds:.0f} s{last}")

    # MARK: looking

    def region_ends(self):
        """Of each region that answers: its state, and where the input ends that it has applied, by partition."""
        found = {}
        for name, url in self.regions.items():
            try:
                status = get(url + "/v1/status", 2)
                found[name] = status["state"], {p["partition"]: p["endOffset"] for p in status.get("partitions", [])}
            except (OSError, ValueError):
                pass
        return found

    def core_lines(self):
        """How the cores stand by their own words, for whoever looks for a defect."""
        lines = []
        for slot in self.slots:
            if not slot.process:
                lines.append(f"core-{slot.number}: away")
                continue
            url = re.search(r"ready url=(\S+)", slot.process.text())
            try:
                status = get(url[1] + "/v1/status", 2) if url else {"it is": "not ready"}
            except (OSError, ValueError) as error:
                status = {"no answer": str(error)}
            kept = {key: status[key] for key in status if key not in ("stages", "role", "pipeline", "lineage")}
            lines.append(f"core-{slot.number} pid {slot.process.pid} {slot.process.output}: {json.dumps(kept)}")
        return lines

    # MARK: the end

    def end(self):
        """Ends everything, in the order of the flow. Returns what did not end as it was asked to."""
        wrong = []
        for slot in self.slots:
            slot.wanted = False
        parts = [slot.process for slot in self.slots] + [self.others.get(name) for name in (
            "relay", "edge-eu", "edge-us", "edge-ap", "nats", "proxy")]
        for process, _, _ in self.zombies:
            process.signal(signal.SIGKILL)
            process.popen.wait()
        for process in filter(None, parts):
            process.signal(signal.SIGCONT)
            if process.name != "proxy":
                self.end_process(process, wrong)
            else:
                self.stop_broker()
                process.signal(signal.SIGKILL)
                process.popen.wait()
        if not self.proxy_program:
            self.stop_broker()
        return wrong

    def end_process(self, process, wrong):
        process.signal(signal.SIGTERM)
        try:
            code = process.popen.wait(40)
        except subprocess.TimeoutExpired:
            process.popen.kill()
            code = process.popen.wait()
        if code not in (0, 1 if process.name == "nats" else 0):
            wrong.append(f"{process.name}: {code}, {process.output}")

    def stop_broker(self):
        for verb in ("thaw", "stop"):
            try:
                self.broker(verb).wait(60)
            except subprocess.TimeoutExpired:
                self.broker("kill").wait(60)


def nats_server():
    for folder in os.environ.get("PATH", "").split(":") + ["/usr/sbin", "/usr/local/sbin", "/usr/local/bin"]:
        if os.access(folder + "/nats-server", os.X_OK):
            return folder + "/nats-server"
    raise Failure("nats-server is not installed: run `make setup`")


class Feed(threading.Thread):
    """An idempotent producer: so many events a second, some of them again and a few that nobody can read."""

    POISON = (b"{broken", b'{"transaction_id":"p-1","time":"2026-01-01T00:00:00Z","customer_id":"c-1"}',
              b"\x00\xff\xfe", b"",
              b'{"transaction_id":"p-2","time":"yesterday","customer_id":"c-1","terminal_id":"m-1","amount":1}',
              b'[1,2,3]', b'{"transaction_id":"p-3","time":"2026-01-01T00:00:00Z","customer_id":"c-1","amount":"x"}')

    def __init__(self, world, seed, rate):
        super().__init__(daemon=True, name="feed")
        self.world, self.rate, self.chance = world, rate, random.Random(seed)
        self.producer, self.ending, self.fatal, self.refused = None, threading.Event(), 0, 0
        # Of each valid id: its partition, and where it was acknowledged first; -1 where it was not.
        self.places, self.offsets = bytearray(), array.array("q")
        self.bad, self.repeated, self.acknowledged = {}, {}, 0
        self.ends = [0] * world.PARTITIONS
        self.error = None

    def connect(self):
        from confluent_kafka import Producer
        self.producer = Producer({
            "bootstrap.servers": self.world.bootstrap, "enable.idempotence": True, "linger.ms": 5,
            # With several requests on their way librdkafka 2.0 loses their order for good when a broker dies at once.
            "max.in.flight.requests.per.connection": 1, "message.timeout.ms": 0,
            "queue.buffering.max.messages": 1_000_000, "reconnect.backoff.max.ms": 500, "log_level": 0,
            "error_cb": lambda error: None})

    def send(self, partition, key, value, told):
        while True:
            try:
                self.producer.produce(self.world.topic, value, key, partition, on_delivery=told)
                return
            except BufferError:
                self.producer.poll(0.1)

    def acknowledge(self, error, message, note):
        if error is not None:
            self.refused += 1
            return
        self.acknowledged += 1
        partition, offset = message.partition(), message.offset()
        self.ends[partition] = max(self.ends[partition], offset + 1)
        note(partition, offset)

    def first(self, number, offset):
        self.offsets[number] = offset

    def send_one(self, now):
        chance = self.chance.random()
        if chance < 0.0002:
            value, partition = self.chance.choice(self.POISON), self.chance.randrange(self.world.PARTITIONS)

            def bad(place, offset):
                self.bad[place, offset] = value
            self.send(partition, b"poison", value, lambda error, message: self.acknowledge(error, message, bad))
            return
        repeats = chance < 0.01 and len(self.places) > 100
        if repeats:
            number = len(self.places) - 1 - int(self.chance.random() ** 3 * min(len(self.places), 100_000))
        else:
            number = len(self.places)
        # The same number makes the same event: a second copy lies in the first one's partition.
        own = random.Random(number)
        customer = own.randrange(5000)
        partition = customer % self.world.PARTITIONS
        terminal, amount = own.randrange(10_000), own.randrange(100, 30_000) / 100
        value = (f'{{"transaction_id":"k-{number}","time":"{now}","customer_id":"c-{customer}",'
                 f'"terminal_id":"m-{terminal}","amount":{amount},"scenario":0}}')
        if repeats:
            def note(place, offset):
                self.repeated[place, offset] = number
        else:
            self.places.append(partition)
            self.offsets.append(-1)

            def note(_, offset):
                self.first(number, offset)
        self.send(partition, f"c-{customer}", value, lambda error, message: self.acknowledge(error, message, note))

    def send_many(self, count):
        now = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()) + f".{int(time.time() * 1000) % 1000:03}Z"
        for _ in range(count):
            self.send_one(now)
            self.producer.poll(0)

    def run(self):
        try:
            self.feed()
        except Exception as error:  # noqa: BLE001  The main thread tells it.
            self.error = error

    def feed(self):
        from confluent_kafka import KafkaException
        began, sent = time.time(), 0
        while not self.ending.is_set():
            due = int((time.time() - began) * self.rate) - sent
            try:
                self.send_many(min(due, 5000))
                self.producer.poll(0.01)
            except KafkaException as error:
                # An idempotent producer that has lost its order is of no use: what it held is not acknowledged.
                self.fatal += 1
                self.world.tell(f"the feed's producer is made anew: {error}")
                if self.fatal > 20:
                    raise
                self.forget()
                self.connect()
            sent += min(due, 5000)

    def forget(self):
        """Lets the old producer's messages fail: their outcome stays unknown."""
        from confluent_kafka import KafkaException
        try:
            self.producer.purge()
            self.producer.flush(10)
        except KafkaException as error:
            self.world.tell(f"the old producer: {error}")

    def end(self):
        """Stops, and waits until all that was sent is acknowledged. Returns how many events were not."""
        self.ending.set()
        self.join(60)
        return self.producer.flush(90)

    def acked(self):
        for number, offset in enumerate(self.offsets):
            if offset >= 0:
                yield number, self.places[number], offset
