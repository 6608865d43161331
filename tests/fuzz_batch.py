"""Invariant: whatever the bytes, decoding raises ``MalformedFrame`` or gives a batch that joins.

``check`` is the target: bytes in, and it returns whether they were a batch; anything that
escapes it is a finding. ``python -m tests.fuzz_batch [SECONDS] [SEED]`` runs it on mutations
of real batches for as long as you like; ``test_batch.py`` runs it on what hypothesis draws,
and on every finding that was ever kept in ``FINDINGS``.
"""

from __future__ import annotations

import random
import sys
import time
from functools import cache
from typing import Any

from crdtmem.batch import decode_batch
from crdtmem.codec import pack, unpack
from crdtmem.crdt import NESTED
from crdtmem.errors import MalformedFrame
from tests.kernel_node import KernelNode, operation, puts, settle

__all__ = ["FINDINGS", "check", "corpus", "mutated", "reshaped"]

FINDINGS: list[bytes] = []


def check(data: bytes) -> bool:
    """Decode, and where that succeeds join, publish, recover; returns whether it was a batch."""
    try:
        batch = decode_batch(data, known_fields=NESTED)
    except MalformedFrame:
        return False
    header = batch.header
    assert batch.data == data
    assert header.count == sum(segment.count for segment in batch.segments) > 0
    for segment in batch.segments:
        for dot, key, _, _, superseded in segment.deltas():
            assert dot >> 64 == header.replica
            assert type(key) is str
            assert all(0 <= other < 1 << 128 for other in superseded)
    node = KernelNode(replica=header.replica ^ 1 or 2)
    state = node.replica.state
    state.vector.update(header.dependencies)
    state.vector[header.replica] = header.first - 1
    node.replica.tips[header.replica] = (header.first - 1, header.previous_hash)
    node.offer(batch)
    node.run()
    assert state.vector[header.replica] == header.last
    assert not node.alarms
    digest = node.digest
    node.replica.recover_batch(batch)
    node.replica.recovered({})
    assert node.digest == digest
    return True


@cache
def corpus() -> tuple[bytes, ...]:
    """Return batches of every datatype, with siblings, foreign dots, metadata and removals."""
    one, two = KernelNode(3), KernelNode(2**63 + 9, "us-east")
    for round_number in range(3):
        for node in (one, two):
            node.commit(puts({f"k{n}": [n, {"a": None}] for n in range(4)}))
            node.commit(puts({f"b{n}": "x" for n in range(9)}, author="ann", trust=2))
            node.commit(
                operation("counter", "c", "increment", 3),
                operation("counter", "c", "decrement", 1),
                operation("map", "m", "update", {"f": 1.5, "g": b"\x00"}),
                operation("map", "m", "apply", "inner", "set", "add", round_number),
                operation("set", "s", "add", "é"),
                operation("set", "s", "remove", "é"),
                operation("set_remove_wins", "r", "remove", 7),
                operation("log", "l", "extend", [1, 2]),
                operation("bounded_counter", "q", "mint", 5),
                operation("register", "t", "set", 1, expires_at_us=1 << 60, metadata={"c": 0.5}),
                operation_id=b"id%d" % round_number,
            )
            if round_number:
                node.commit(operation("counter", "c", "reset"))
                node.commit(operation("register", "k0", "delete"))
                node.commit(operation("log", "l", "delete"))
        settle(one, two)
    return tuple(batch.data for batch in one.log)


def mutated(data: bytes, random_source: random.Random) -> bytes:
    """Return bytes that differ in a few places, or in length."""
    changed = bytearray(data)
    for _ in range(random_source.randint(1, 4)):
        at = random_source.randrange(len(changed) + 1)
        match random_source.randrange(4):
            case 0:
                changed[at : at + 1] = bytes((random_source.randrange(256),))
            case 1:
                del changed[at : at + random_source.randint(1, 8)]
            case 2:
                changed[at:at] = random_source.randbytes(random_source.randint(1, 4))
            case _:
                start = random_source.randrange(len(changed) + 1)
                changed[at:at] = changed[start : start + random_source.randint(1, 16)]
    return bytes(changed)


def reshaped(data: bytes, random_source: random.Random) -> bytes:
    """Return a batch that is well-formed MessagePack, with one part of it replaced."""
    strangers = (None, True, 0, -1, 1, 1 << 40, (1 << 64) - 1, 0.5, "", "k0", b"", b"x" * 16)
    others: tuple[Any, ...] = (
        *strangers,
        (),
        (0,),
        (1, 1),
        (7, 7, 7),
        {},
        {"i": 1},
        {"e": 5, "a": "b"},
        ("m",),
    )

    def replaced(part: Any, depth: int) -> Any:
        if type(part) is tuple and part and (depth == 0 or random_source.random() < 0.85):
            at = random_source.randrange(len(part))
            return (*part[:at], replaced(part[at], depth + 1), *part[at + 1 :])
        return random_source.choice(others)

    return pack(replaced(unpack(data), 0))


def main(seconds: float, seed: int) -> None:
    """Fuzz until the time is up; a finding is printed before it is raised."""
    source = random.Random(seed)
    until = time.monotonic() + seconds
    tried = accepted = 0
    while time.monotonic() < until:
        change = source.choice((mutated, reshaped))
        data = change(source.choice(corpus()), source)
        try:
            accepted += check(data)
        except BaseException:
            print(f"finding (seed {seed}): {data!r}", flush=True)
            raise
        tried += 1
    print(f"{tried} inputs, {accepted} of them batches, nothing found")


if __name__ == "__main__":
    given = sys.argv[1:] + ["20", "0"][len(sys.argv) - 1 :]
    main(float(given[0]), int(given[1]))
