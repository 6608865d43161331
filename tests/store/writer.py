"""A process that writes to a store and tells what was acknowledged, until it is killed.

``python -m tests.store.writer URL COUNT SIZE [die]`` appends transactions of two batches and
one metadata item, and prints the number of each once its sync has returned. COUNT 0 means
for ever. With ``die`` it ends by SIGKILL; otherwise it waits to be killed, or for the end of
its standard input, upon which it closes the store.
"""

from __future__ import annotations

import os
import signal
import sys

from crdtmem.store import BatchRecord, Store, open_store

A, B = 1, 2**63 + 5


def payload(replica: int, number: int, size: int) -> bytes:
    return f"{replica}/{number}/".encode().ljust(size, b"%d" % (number % 10))


def transaction(store: Store, number: int, size: int) -> None:
    for replica in (A, B):
        record = BatchRecord.of(replica, number, number, payload(replica, number, size))
        store.append([record], arrived_at_us=number)
    store.put_metadata({"last": b"%d" % number})
    store.sync()


def keep_in_shape(store: Store, number: int) -> None:
    """Checkpoints and cuts in between, so that kills meet those too."""
    writer = store.begin_checkpoint(b"%d" % number)
    for _ in range(5):
        writer.write(b"chunk" * 1000)
    writer.commit()
    store.cut_sync_log(A, number - 20)
    store.cut_history(A, number - 40)


def main() -> None:
    url, count, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    store = open_store(url)
    if not store.boot.continuous:
        store.claim_identity()
        store.sync()
    number = int(store.metadata().get("last", b"0"))
    last = number + count if count else None
    print("open", store.boot.continuous, flush=True)
    while number != last:
        number += 1
        transaction(store, number, size)
        print(number, flush=True)
        if number % 50 == 0:
            keep_in_shape(store, number)
    if "die" in sys.argv:
        os.kill(os.getpid(), signal.SIGKILL)
    sys.stdin.read()
    store.close()


if __name__ == "__main__":
    main()
