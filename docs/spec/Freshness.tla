------------------------------ MODULE Freshness ------------------------------
(* When a region may call itself fresh. Cores commit to the log, relays say once in a while how far it is, for as long
   as they may vouch for that; the bus loses, doubles, delays and reorders what they say; a core or a relay may fall silent
   or go on as a zombie; the region stands still, dies, comes back with an older view; the topic may be made again.

   Time is a tick; what the region needs of it are ages. A heartbeat's age is taken from its sending, as the region
   reckons it (SendingTimes): the least that a way takes is not counted, and is 0 here. *)
EXTENDS Naturals, Sequences, FiniteSets, TLC

CONSTANTS Relays, Partitions, Batches,
          Vouch,      \* so long a relay may say what it knows: TransactionalLog.vouchMicroseconds
          Silence,    \* so long a region bears silence: RegionStatus.silenceMicroseconds
          Crashes, Beats,   \* bounds: deaths of the region, heartbeats under way
          Bug         \* "none", or the name of a planted bug

VARIABLES log,        \* of each partition: the age of each batch
          gone,       \* how long ago the topic was made again; 0 where it was not
          known,      \* of each relay and partition: [seq, age], age since it looked
          beats,      \* under way: [partition, seq, age]
          applied,    \* the region's position of each partition
          head,       \* what it was told of: ReplicaFeed.head
          heard,      \* how long ago the newest heartbeat of a partition was sent: RegionStatus.heard
          complete,   \* how long ago it held all that was known then: RegionStatus.completeAt
          crashes
vars == <<log, gone, known, beats, applied, head, heard, complete, crashes>>

Limit == Vouch + Silence
Never == Silence + 1
MaxOf(a, b) == IF a > b THEN a ELSE b
MinOf(a, b) == IF a < b THEN a ELSE b
Older(age, cap) == MinOf(age + 1, cap)

Init == /\ log = [p \in Partitions |-> <<>>] /\ gone = 0
        /\ known = [r \in Relays |-> [p \in Partitions |-> [seq |-> 0, age |-> Vouch + 1]]]
        /\ beats = {} /\ applied = [p \in Partitions |-> 0] /\ head = [p \in Partitions |-> 0]
        /\ heard = [p \in Partitions |-> Never] /\ complete = Never /\ crashes = 0

(* One tick passes for all. *)
Tick ==
  /\ log' = [p \in Partitions |-> [n \in DOMAIN log[p] |-> Older(log[p][n], Limit + 1)]]
  /\ gone' = IF gone = 0 THEN 0 ELSE Older(gone, Limit + 2)
  /\ known' = [r \in Relays |-> [p \in Partitions |-> [known[r][p] EXCEPT !.age = Older(@, Vouch + 1)]]]
  /\ beats' = {[b EXCEPT !.age = Older(@, Never)] : b \in beats}
  /\ heard' = [p \in Partitions |-> Older(heard[p], Never)] /\ complete' = Older(complete, Never)
  /\ UNCHANGED <<applied, head, crashes>>

(* A transaction is committed, by whichever worker. *)
Commit(p) == /\ gone = 0 /\ Len(log[p]) < Batches /\ log' = [log EXCEPT ![p] = Append(@, 0)]
             /\ UNCHANGED <<gone, known, beats, applied, head, heard, complete, crashes>>
(* The topic is made again: of the old log nobody learns any more. Age 1 is 'now'. *)
MadeAgain == /\ gone = 0 /\ gone' = 1
             /\ UNCHANGED <<log, known, beats, applied, head, heard, complete, crashes>>
(* TransactionalLog: a commit of one's own that was acknowledged, or isTakenSilently's look at the changelog's end. A
   worker that is dead, or stands still, does not come to it. *)
Look(r, p) == /\ gone = 0 /\ known' = [known EXCEPT ![r][p] = [seq |-> Len(log[p]), age |-> 0]]
              /\ UNCHANGED <<log, gone, beats, applied, head, heard, complete, crashes>>
(* Relay.step, TransactionalLog.vouchedEnd: the time of sending is taken before the heads are. *)
Heartbeat(r, p) ==
  /\ known[r][p].age <= Vouch \/ (Bug = "vouches-for-ever" /\ known[r][p].seq > 0)
  /\ Cardinality(beats) < Beats
  /\ beats' = beats \cup {[partition |-> p, seq |-> known[r][p].seq, age |-> 0]}
  /\ UNCHANGED <<log, gone, known, applied, head, heard, complete, crashes>>
Lose(b) == /\ beats' = beats \ {b} /\ UNCHANGED <<log, gone, known, applied, head, heard, complete, crashes>>

HeardAt(ages) == CHOOSE age \in {ages[p] : p \in Partitions} :
                   \A p \in Partitions : IF Bug = "one-voice-for-all" THEN age <= ages[p] ELSE age >= ages[p]
IsComplete(at, of) == \A p \in Partitions : at[p] >= of[p]
(* RegionStatus.becameComplete: complete as of when the heartbeat was sent that says so. *)
Completed(at, of, ages) ==
  IF (IsComplete(at, of) \/ Bug = "heard-is-complete") /\ HeardAt(ages) <= Silence THEN MinOf(complete, HeardAt(ages))
  ELSE complete

(* Region.hear. Whatever was heard may come again. *)
Hear(b) ==
  LET p == b.partition
      age == IF Bug = "judged-by-arrival" THEN 0 ELSE b.age
      ages == [heard EXCEPT ![p] = MinOf(@, age)]
      of == [head EXCEPT ![p] = MaxOf(@, b.seq)]
  IN /\ heard' = ages /\ head' = of /\ complete' = Completed(applied, of, ages)
     /\ UNCHANGED <<log, gone, known, beats, applied, crashes>>
(* Region.receive of the next batch, then Region.refresh. *)
Receive(p) ==
  /\ applied[p] < Len(log[p])
  /\ LET at == [applied EXCEPT ![p] = @ + 1]
         of == [head EXCEPT ![p] = MaxOf(@, at[p])]
         ages == IF Bug = "batch-is-a-voice" THEN [heard EXCEPT ![p] = 0] ELSE heard
     IN /\ applied' = at /\ head' = of /\ heard' = ages /\ complete' = Completed(at, of, ages)
  /\ UNCHANGED <<log, gone, known, beats, crashes>>
(* The process dies and comes back with an older view: it has heard nothing yet. *)
Crash(p, n) ==
  /\ crashes < Crashes /\ crashes' = crashes + 1 /\ n <= applied[p]
  /\ applied' = [applied EXCEPT ![p] = n] /\ head' = applied'
  /\ heard' = IF Bug = "voice-outlives-crash" THEN heard ELSE [q \in Partitions |-> Never]
  /\ complete' = Never
  /\ UNCHANGED <<log, gone, known, beats>>

Next == \/ Tick \/ MadeAgain
        \/ \E p \in Partitions : Commit(p) \/ Receive(p) \/ \E n \in 0..Batches : Crash(p, n)
        \/ \E r \in Relays, p \in Partitions : Look(r, p) \/ Heartbeat(r, p)
        \/ \E b \in beats : Hear(b) \/ Lose(b)
Spec == Init /\ [][Next]_vars

(* RegionStatus.state. The planted bug 'fresh-without-voice': all that was told is there, whoever told it when. *)
Fresh == IF Bug = "fresh-without-voice" THEN IsComplete(applied, head)
         ELSE HeardAt(heard) <= Silence /\ (IsComplete(applied, head) \/ complete <= Silence)
(* A region that says fresh holds every batch that was committed longer ago than the limit. *)
FreshHoldsAllOlder == Fresh => \A p \in Partitions : \A n \in DOMAIN log[p] : log[p][n] > Limit => applied[p] >= n
(* And its log is the log, or was within the limit. *)
FreshIsOfThisLog == Fresh => gone <= Limit + 1
Symmetry == Permutations(Relays) \cup Permutations(Partitions)
=============================================================================
