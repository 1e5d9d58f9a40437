#pragma once

/// From now on the calling thread naps when it does nothing but ask for the time, again and again.
///
/// librdkafka before 2.4.0 rounds the wait for its next timer down to whole milliseconds: the last one is spent in a
/// loop (confluentinc/librdkafka#4671), 2 ms of CPU for each transaction. The thread that runs this loop is told to
/// the application when it starts; here it sleeps 250 µs at a time instead, so an operation waits as much at worst.
/// With librdkafka 2.4.0 or later (Debian 13) this target has no user left and can be deleted.
void spin_guard_watch_this_thread(void);
