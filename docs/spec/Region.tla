------------------------------- MODULE Region -------------------------------
(* One partition of the log as a region follows it: in order, without gaps, one lineage at a time; with snapshots; dying
   and coming back with an older view; and the topic may be made again, which is a log of another lineage.

   The bus loses, doubles and reorders, and any number of relays publish, late ones too: so whatever was committed may
   arrive at any time, any number of times, or never. The model has no queue: a batch of any log that there ever was is
   delivered whenever the checker likes, a heartbeat with any head that there ever was, a snapshot of any prefix. *)
EXTENDS Naturals, Sequences, FiniteSets

CONSTANTS Lineages,   \* how many logs there are, one after another
          Batches,    \* of each
          Crashes,
          Bug         \* "none", or the name of a planted bug

VARIABLES heads,      \* committed batches of each log
          made,       \* the log that is there now
          active,     \* the replica that serves: Region.active
          beside,     \* the one that is built beside it: Region.next
          crashes
vars == <<heads, made, active, beside, crashes>>

(* A replica: rows, what its feed knows and holds, and where the vectors of its rows are. A row is [lineage, seq]. *)
None == [lineage |-> 0, rows |-> <<>>, head |-> 0, held |-> {}, sealed |-> 0, segments |-> {}, tail |-> {},
         ended |-> {}]
Row(l, s) == [lineage |-> l, seq |-> s]
Applied(r) == Len(r.rows)
Prefix(l, n) == [s \in 1..n |-> Row(l, s)]
Complete(r) == Applied(r) >= r.head
Least(S) == CHOOSE s \in S : \A t \in S : s <= t
MaxOf(a, b) == IF a > b THEN a ELSE b

Init == /\ heads = [l \in 1..Lineages |-> 0] /\ made = 1 /\ active = None /\ beside = None /\ crashes = 0

(* TransactionalLog.commit, EmbeddedLog.commit. *)
Commit == /\ heads[made] < Batches /\ heads' = [heads EXCEPT ![made] = @ + 1]
          /\ UNCHANGED <<made, active, beside, crashes>>
(* The topic is made again (KafkaCluster founds another lineage), or the folder of an embedded log is new. *)
MadeAgain == /\ made < Lineages /\ made' = made + 1 /\ UNCHANGED <<heads, active, beside, crashes>>

(* ReplicaVectors.put: what a segment holds is not taken a second time. The planted bug 'sent-again-is-new' puts it into
   the tail, which ends the row in the segment. *)
Put(r, s) ==
  IF s \in r.segments /\ Bug # "sent-again-is-new" THEN r
  ELSE [r EXCEPT !.tail = @ \cup {s}, !.ended = IF s \in r.segments THEN @ \cup {s} ELSE @]
(* Replica.apply, ReplicaFeed.didApply: the row, its vector, then what was held and follows. *)
RECURSIVE Apply(_, _, _)
Apply(r, l, s) ==
  LET a == Put([r EXCEPT !.rows = Append(@, Row(l, s)), !.head = MaxOf(@, s), !.held = @ \ {s}], s)
  IN IF Applied(a) + 1 \in a.held /\ Bug # "held-forgotten" THEN Apply(a, l, Applied(a) + 1) ELSE a
(* ReplicaFeed.verdict: drop, apply or hold. *)
Receive(r, l, s) ==
  IF s <= Applied(r) \/ s \in r.held THEN r
  ELSE IF s = Applied(r) + 1 \/ Bug = "gap-not-noticed" THEN Apply(r, l, s)
  ELSE [r EXCEPT !.held = @ \cup {s}, !.head = MaxOf(@, s)]
Of(r, l) == r.lineage # 0 /\ (r.lineage = l \/ Bug = "lineage-not-compared")

(* Region.receive: from the bus, or the answer to a repair (Relay.repair, from the log). The planted bug
   'sent-before-commit': the relay sends a batch that is not committed yet. *)
Batch(l, s) ==
  /\ s <= heads[l] \/ (Bug = "sent-before-commit" /\ l = made /\ s = heads[l] + 1)
  /\ IF Of(active, l) THEN active' = Receive(active, l, s) /\ UNCHANGED beside
     ELSE Of(beside, l) /\ beside' = Receive(beside, l, s) /\ UNCHANGED active
  /\ UNCHANGED <<heads, made, crashes>>

(* Region.hear, ReplicaFeed.heard: a heartbeat says how far the log is. *)
Heard(l, h) ==
  /\ l <= made /\ h <= heads[l]
  /\ IF active.lineage = l THEN active' = [active EXCEPT !.head = MaxOf(@, h)] /\ UNCHANGED beside
     ELSE beside.lineage = l /\ beside' = [beside EXCEPT !.head = MaxOf(@, h)] /\ UNCHANGED active
  /\ UNCHANGED <<heads, made, crashes>>

(* Region.begin, Region.follow: a log that is not followed yet is followed beside the one that serves, from a snapshot
   of it (Bootstrap, SnapshotTerms.check), from a folder of it that is still there, or from nothing (n = 0). *)
Begin(l, h, n, of, isSnapshot) ==
  /\ l <= made /\ h <= heads[l] /\ n <= heads[of] /\ of <= made
  /\ active.lineage # l /\ beside.lineage # l
  /\ of = l \/ (Bug = "snapshot-of-any-lineage" /\ isSnapshot)
  /\ LET r == [None EXCEPT !.lineage = l, !.rows = Prefix(of, n), !.head = MaxOf(h, n),
                           !.sealed = IF isSnapshot THEN n ELSE 0,
                           !.segments = IF isSnapshot THEN 1..n ELSE {}, !.tail = IF isSnapshot THEN {} ELSE 1..n]
     IN IF active.lineage = 0 THEN active' = r /\ UNCHANGED beside ELSE beside' = r /\ UNCHANGED active
  /\ UNCHANGED <<heads, made, crashes>>

(* Region.promote: the log beside takes over once it has all that it was told of. *)
Promote ==
  /\ beside.lineage # 0
  /\ (Complete(beside) /\ Applied(beside) > 0) \/ Bug = "promoted-at-once"
  /\ active' = beside /\ beside' = None
  /\ UNCHANGED <<heads, made, crashes>>

(* SnapshotFollower.take, ReplicaVectors.install: a newer snapshot of the same log, once its rows are here. Rows of the
   tail that it holds go. *)
Install(n) ==
  /\ active.lineage # 0 /\ n <= heads[active.lineage]
  /\ n <= Applied(active) \/ Bug = "snapshot-before-its-rows"
  /\ n > active.sealed \/ (Bug = "older-snapshot" /\ n > 0)
  /\ active' = [active EXCEPT !.sealed = n, !.segments = 1..n,
                              !.tail = {s \in @ : s > n}, !.ended = {s \in @ : s <= n}]
  /\ UNCHANGED <<heads, made, beside, crashes>>

(* The process dies and comes back: Region.init, Replica.init. The view is an older one (no write-ahead log), the
   snapshot that was in place is there, vectors that no segment holds come back from the rows (Replica.refillTails). The
   one beside is begun again. *)
Crash(n) ==
  /\ crashes < Crashes /\ crashes' = crashes + 1
  /\ active.lineage # 0 /\ n <= Applied(active)
  /\ active' = [active EXCEPT !.rows = SubSeq(@, 1, n), !.head = 0, !.held = {}, !.ended = {},
                              !.tail = {s \in 1..n : s \notin active.segments}]
  /\ beside' = None /\ UNCHANGED <<heads, made>>

Next == \/ Commit \/ MadeAgain \/ Promote
        \/ \E l \in 1..Lineages : \/ \E s \in 1..(Batches + 1) : Batch(l, s)
                                  \/ \E h \in 0..Batches : Heard(l, h)
                                  \/ \E h, n \in 0..Batches, of \in 1..Lineages, is \in BOOLEAN :
                                       Begin(l, h, n, of, is)
        \/ \E n \in 0..Batches : Install(n) \/ Crash(n)
Spec == Init /\ [][Next]_vars

Replicas == {r \in {active, beside} : r.lineage # 0}
(* What a replica holds is a prefix of one log: nothing mixed in, nothing left out, never ahead. *)
OnePrefix == \A r \in Replicas : Applied(r) <= heads[r.lineage] /\ r.rows = Prefix(r.lineage, Applied(r))
(* Each row that is there has its vector, in a segment or in the tail. *)
VectorsWhole == \A n \in 1..Applied(active) : n \in (active.segments \ active.ended) \cup active.tail
(* A row that is found can be shown, but after a crash, until the rows are here again. *)
RowsShown == crashes = 0 => active.segments \subseteq 1..Applied(active)
(* ReplicaFeed.repair: a replica that knows of a batch that it has not asks for the range that begins with the first. *)
FirstHeld(r) == IF r.held = {} THEN r.head + 1 ELSE Least(r.held)
AsksForWhatIsMissing == \A r \in Replicas : ~Complete(r) => FirstHeld(r) - 1 > Applied(r)
(* Between crashes nothing that serves goes back: neither rows nor a snapshot. (Which of two logs is the newer one no
   heartbeat says: a late one of a log that is gone is followed, and takes over if it has all that it was told of.) *)
NeverBack == [][crashes' = crashes /\ active'.lineage = active.lineage =>
                  Applied(active') >= Applied(active) /\ active'.sealed >= active.sealed]_vars
(* Where another log takes over, it has something to answer with. *)
NeverEmptied == [][active.lineage # 0 /\ active'.lineage # active.lineage => Applied(active') > 0]_vars
=============================================================================
