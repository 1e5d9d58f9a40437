"""Says from a log in Kafka alone, read_committed, whether each event was answered for exactly once: no code of ours.

The ids of valid events are `k-NUMBER`, with numbers from 0 on: what is known of each lies in arrays.
"""
import array
import json
import re
import struct
import time

VALID = re.compile(rb'\{"transaction_id":"k-(\d+)","time":')
SCORE = re.compile(rb'\{"id":"k-(\d+)",.*"partition":(\d+),"seq":(\d+),"inputOffset":(\d+)\}')
# Sources/Changes/ChangeBatchWriter.swift: partition, seq, first and end offset, then the counts.
HEADER = struct.Struct("<24xI12xQQQ16xIII8xI")
HEADER_BYTES = 112
LETTER = struct.Struct("<QqHI")
FAULTS_KEPT = 30


class Check:
    """Told of records in the order input, changes, scores, dead letters, each partition in order of its offsets."""

    def __init__(self, partitions, ids):
        self.partitions, self.ids = partitions, ids
        self.first = array.array("q", [-1]) * ids
        self.place, self.scored = bytearray(ids), bytearray(ids)
        self.again, self.repeats = 0, {}
        # Bad events: all, and those that no dead letter has answered for.
        self.bad, self.poison = {}, {}
        self.ends = [0] * partitions
        # Of each batch, at its seq: where its input ends. Seq 0 is the beginning.
        self.batch_ends = [array.array("q", [0]) for _ in range(partitions)]
        self.counts = {"scored": 0, "duplicates": 0, "dead letters": 0, "gaps": 0}
        self.last = [(0, -1)] * partitions
        self.last_letter = [0] * partitions
        self.scores, self.letters, self.lineages = 0, 0, 0
        self.faults, self.fault_count = [], 0

    def fault(self, text):
        self.fault_count += 1
        if len(self.faults) < FAULTS_KEPT:
            self.faults.append(text)

    def input(self, partition, offset, value):
        if offset != self.ends[partition]:
            self.fault(f"input {partition}: offset {offset} where {self.ends[partition]} was due")
        self.ends[partition] = offset + 1
        valid = VALID.match(value)
        if not valid:
            self.bad[partition, offset] = self.poison[partition, offset] = value
            return
        number = int(valid[1])
        if number >= self.ids:
            self.fault(f"input {partition}@{offset}: id {number} was never sent")
        elif self.first[number] < 0:
            self.first[number], self.place[number] = offset, partition
        else:
            self.again += 1
            self.repeats[partition, offset] = number
            if self.place[number] != partition:
                self.fault(f"input {partition}@{offset}: id {number} lies in partition {self.place[number]}, too")

    def change(self, partition, key, value):
        if key == b"lineage":
            self.lineages += 1
            if partition != 0 or len(self.batch_ends[0]) > 1:
                self.fault(f"changes {partition}: a lineage that is not the first record")
            return
        if key == b"barrier" and not value:
            return
        if len(key) != 8 or len(value) < HEADER_BYTES or value[:4] != b"TLCB":
            self.fault(f"changes {partition}: a record that is no batch, key {key!r}")
            return
        ends = self.batch_ends[partition]
        seq = int.from_bytes(key, "little")
        place, inside, first, end, scored, duplicates, dead, gaps = HEADER.unpack_from(value)
        if seq != len(ends):
            self.fault(f"changes {partition}: seq {seq} where {len(ends)} was due")
        if (place, inside) != (partition, seq):
            self.fault(f"changes {partition}: the batch of key {seq} says partition {place}, seq {inside}")
        if first != ends[-1]:
            self.fault(f"changes {partition}: batch {seq} begins at {first}, not at {ends[-1]}")
        if scored + duplicates + dead + gaps != end - first:
            self.fault(f"changes {partition}: batch {seq} counts {scored}+{duplicates}+{dead}+{gaps} of {end - first}")
        for name, count in zip(self.counts, (scored, duplicates, dead, gaps)):
            self.counts[name] += count
        ends.append(end)

    def inside(self, partition, seq, offset):
        """Whether a batch holds an offset of the input."""
        ends = self.batch_ends[partition]
        return 0 < seq < len(ends) and ends[seq - 1] <= offset < ends[seq]

    def score(self, partition, value):
        self.scores += 1
        line = SCORE.fullmatch(value)
        if not line:
            self.fault(f"scores {partition}: {value[:200]!r}")
            return
        number, place, seq, offset = map(int, line.groups())
        last_seq, last_offset = self.last[partition]
        if seq < last_seq or offset <= last_offset:
            self.fault(f"scores {partition}: seq {seq}, offset {offset} behind seq {last_seq}, offset {last_offset}")
        self.last[partition] = seq, offset
        if place != partition or not self.inside(partition, seq, offset):
            self.fault(f"scores {partition}: id {number} says {place}@{offset}, which batch {seq} does not hold")
        if number >= self.ids or self.first[number] < 0:
            self.fault(f"scores {partition}: id {number} was never in the input")
            return
        if self.scored[number] < 255:
            self.scored[number] += 1
        if self.scored[number] > 1:
            self.fault(f"scores {partition}: id {number} is scored {self.scored[number]} times, here in batch {seq}")
        if (self.place[number], self.first[number]) != (partition, offset):
            self.fault(f"scores {partition}: id {number} is scored for offset {offset}, not {self.first[number]}")

    def letter(self, partition, key, value):
        seq, at = int.from_bytes(key, "little"), 0
        if len(key) != 8 or seq <= self.last_letter[partition]:
            self.fault(f"dead letters {partition}: seq {seq} behind {self.last_letter[partition]}")
        self.last_letter[partition] = seq
        while at < len(value):
            offset, _, reason_bytes, event_bytes = LETTER.unpack_from(value, at)
            start = at + LETTER.size + reason_bytes
            at = start + event_bytes
            self.letters += 1
            expected = self.poison.pop((partition, offset), None)
            if not self.inside(partition, seq, offset):
                self.fault(f"dead letters {partition}: offset {offset}, which batch {seq} does not hold")
            if expected is None:
                self.fault(f"dead letters {partition}: offset {offset} is told twice, or was no bad event")
            elif expected != value[start:at]:
                self.fault(f"dead letters {partition}: offset {offset} has other bytes than the input")

    def finish(self, acked, repeated, bad):
        """What only the whole tells. `acked` gives (number, partition, offset) of each valid event when first sent; the
        others the numbers of those sent again, and the bytes of bad ones, by partition and offset."""
        for number in range(self.ids):
            if self.first[number] >= 0 and self.scored[number] == 0:
                self.fault(f"id {number}, {self.place[number]}@{self.first[number]}, was never scored")
        for partition, offset in self.poison:
            self.fault(f"the bad event {partition}@{offset} is no dead letter")
        for partition in range(self.partitions):
            if self.batch_ends[partition][-1] != self.ends[partition]:
                self.fault(f"changes {partition}: end at {self.batch_ends[partition][-1]}, the input at "
                           f"{self.ends[partition]}")
        found = {"scored": self.scores, "duplicates": self.again, "dead letters": self.letters, "gaps": 0}
        if found != self.counts:
            self.fault(f"the batches count {self.counts}, found were {found}")
        if self.lineages != 1:
            self.fault(f"{self.lineages} lineages")
        for number, partition, offset in acked:
            # Another try of the producer may have come before the one that was acknowledged, never only after it.
            if not 0 <= self.first[number] <= offset or self.place[number] != partition:
                self.fault(f"id {number} was acknowledged at {partition}@{offset} and is not in the input")
        for (partition, offset), number in repeated.items():
            if self.repeats.get((partition, offset), number) != number or offset >= self.ends[partition]:
                self.fault(f"id {number}, sent again, was acknowledged at {partition}@{offset} and is not in the input")
        for (partition, offset), value in bad.items():
            if self.bad.get((partition, offset)) != value:
                self.fault(f"a bad event was acknowledged at {partition}@{offset} and is not in the input")


def records(consumer, topic, partition, seconds=900):
    """A partition's committed records from its first to its end: key, value and offset. What is missing is empty."""
    from confluent_kafka import KafkaError, TopicPartition
    deadline, position = time.time() + seconds, 0
    place = TopicPartition(topic, partition)
    while True:
        try:
            high = consumer.get_watermark_offsets(place, timeout=20)[1]
            break
        except Exception:  # noqa: BLE001  The brokers may just be coming back.
            if time.time() > deadline:
                raise
            time.sleep(1)
    consumer.assign([TopicPartition(topic, partition, 0)])
    while True:
        if time.time() > deadline:
            raise RuntimeError(f"{topic} [{partition}] could be read to {position} of {high} in {seconds} s")
        for message in consumer.consume(10_000, 1):
            error = message.error()
            if error is None:
                position = message.offset() + 1
                yield message.key() or b"", message.value() or b"", message.offset()
            elif error.code() == KafkaError._PARTITION_EOF:
                if message.offset() >= high:
                    return
                # An open transaction holds committed readers back: it is aborted after its time-out.
                consumer.assign([TopicPartition(topic, partition, message.offset())])
                time.sleep(1)


def check_log(bootstrap, pipeline, topic, partitions, ids, *acked):
    """Reads the whole log; `acked` as `Check.finish` takes it. Returns the check and one score's partition and line."""
    from confluent_kafka import Consumer
    consumer = Consumer({
        "bootstrap.servers": bootstrap, "group.id": "kafka-fire-check", "isolation.level": "read_committed",
        "enable.auto.commit": False, "enable.partition.eof": True, "auto.offset.reset": "error"})
    check, sample = Check(partitions, ids), None
    for partition in range(partitions):
        for _, value, offset in records(consumer, topic, partition):
            check.input(partition, offset, value)
    for partition in range(partitions):
        for key, value, _ in records(consumer, f"tideline.{pipeline}.changes", partition):
            check.change(partition, key, value)
    for partition in range(partitions):
        for _, value, _ in records(consumer, f"tideline.{pipeline}.scores", partition):
            check.score(partition, value)
            sample = sample or (partition, value)
    for partition in range(partitions):
        for key, value, _ in records(consumer, f"tideline.{pipeline}.dead-letters", partition):
            check.letter(partition, key, value)
    consumer.close()
    check.finish(*acked)
    return check, sample


# A small log with one fault of each kind: what the check must find before it is believed.

def event(number):
    return b'{"transaction_id":"k-%d","time":"2026-01-01T00:00:00Z"}' % number


def small_log():
    """Five offsets in two batches: three events, one of them twice, and one that cannot be read."""
    def batch(seq, first, end, *counts):
        header = bytearray(HEADER_BYTES)
        HEADER.pack_into(header, 0, 0, seq, first, end, *counts)
        header[:4] = b"TLCB"
        return seq.to_bytes(8, "little"), bytes(header)

    def score(number, seq, offset):
        return json.dumps({"id": f"k-{number}", "tenant": "", "partition": 0, "seq": seq, "inputOffset": offset},
                          separators=(",", ":")).encode()

    letter = LETTER.pack(3, 0, 3, 4) + b"bad" + b"{bad"
    return {
        "input": [(0, event(0)), (1, event(1)), (2, event(0)), (3, b"{bad"), (4, event(2))],
        "changes": [(b"lineage", bytes(16)), batch(1, 0, 3, 2, 1, 0, 0), batch(2, 3, 5, 1, 0, 1, 0)],
        "scores": [score(0, 1, 0), score(1, 1, 1), score(2, 2, 4)],
        "letters": [((2).to_bytes(8, "little"), letter)],
        "acked": [(0, 0, 0), (1, 0, 1), (2, 0, 4)], "repeated": {(0, 2): 0}, "bad": {(0, 3): b"{bad"},
    }


def faults_of(log):
    check = Check(1, 4)
    for offset, value in log["input"]:
        check.input(0, offset, value)
    for key, value in log["changes"]:
        check.change(0, key, value)
    for value in log["scores"]:
        check.score(0, value)
    for key, value in log["letters"]:
        check.letter(0, key, value)
    check.finish(log["acked"], log["repeated"], log["bad"])
    return check.fault_count


def plant(log, name):
    changes, scores = log["changes"], log["scores"]
    if name == "a doubled score":
        scores.append(scores[-1])
    elif name == "a lost score":
        del scores[1]
    elif name == "a scored duplicate":
        scores.insert(2, scores[0].replace(b'"inputOffset":0', b'"inputOffset":2'))
    elif name == "scores out of order":
        scores[0], scores[1] = scores[1], scores[0]
    elif name == "a lost batch":
        del changes[1]
    elif name == "a doubled batch":
        changes.append(changes[-1])
    elif name == "a lost dead letter":
        del log["letters"][0]
    elif name == "a doubled dead letter":
        log["letters"].append(log["letters"][0])
    elif name == "altered bytes of a dead letter":
        key, value = log["letters"][0]
        log["letters"][0] = key, value[:-1] + b"c"
    elif name == "a lost event":
        log["acked"].append((3, 0, 5))
    elif name == "a lost bad event":
        log["bad"][0, 5] = b"{bad"
    return log


PLANTED = ["a doubled score", "a lost score", "a scored duplicate", "scores out of order", "a lost batch",
           "a doubled batch", "a lost dead letter", "a doubled dead letter", "altered bytes of a dead letter",
           "a lost event", "a lost bad event"]


def self_check():
    """Faults that are planted and not found; and whether a sound log is called sound."""
    return [name for name in PLANTED if faults_of(plant(small_log(), name)) == 0] + (
        ["a sound log is refused"] if faults_of(small_log()) else [])
