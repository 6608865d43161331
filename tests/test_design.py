"""The documents say what the program does: their tables against its own, their formats read anew.

The readers below are written from ``DESIGN.md`` alone, on purpose without the program's
codec: whoever writes another implementation has no more.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import struct
import zlib
from typing import Any

import msgpack
import pytest

from crdtmem import cli
from crdtmem.crdt import DATATYPES
from crdtmem.frames import MESSAGES, encode_frame
from crdtmem.limits import DEFAULT_LIMITS
from crdtmem.memory import Memory
from crdtmem.messages import Ping
from crdtmem.policy import SYSTEM_SPACE, Policy, policy_key
from crdtmem.resolve import RESOLVERS
from tests.capabilities import ROOT

DESIGN = (ROOT / "crdtmem" / "DESIGN.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")


def rows(text: str, columns: int) -> list[list[str]]:
    """Return the cells of every table row of that many columns."""
    found = [line.strip().strip("|").split(" | ") for line in text.splitlines() if "|" in line]
    return [[cell.strip() for cell in row] for row in found if len(row) == columns]


# ------------------------------------------------------------------ tables


def test_every_message_is_specified_under_its_code() -> None:
    said: dict[int, str] = {}
    for codes, names, _ in rows(DESIGN.partition("### Streams between nodes")[2], 3):
        if re.fullmatch(r"\d+(, \d+)*", codes):
            said.update(zip(map(int, codes.split(", ")), names.split(", "), strict=True))
    assert said == {code: kind.__name__ for code, kind in MESSAGES.items()}


def test_every_datatype_is_specified_under_its_code() -> None:
    said: dict[str, int] = {}
    for codes, names, _, _ in rows(DESIGN.partition("## The state")[2], 4):
        if re.fullmatch(r"\d+(, \d+)*", codes):
            listed = re.findall(r"`(\w+)`", names)
            said.update(zip(listed, map(int, codes.split(", ")), strict=True))
    assert said == {name: kind.code for name, kind in DATATYPES.items()}


def test_the_readme_names_every_datatype_resolver_command_and_exit_code() -> None:
    missing = [name for name in DATATYPES if f"`{name}`" not in README]
    missing += [name for name, _ in RESOLVERS if f"`{name}`" not in README]
    missing += [name for name in cli.COMMANDS if f"crdtmem {name}" not in README]
    assert missing == []
    said = {int(code): meaning for code, meaning in rows(README, 2) if code.isdigit()}
    documented = dict(re.findall(r"^(\d+) +(\S.*)$", cli.__doc__ or "", re.MULTILINE))
    assert said.keys() == set(map(int, documented))


# ------------------------------------------------------------------ formats


def written() -> tuple[list[Any], Memory]:
    """Write a little of everything, and return the batches and the memory, closed."""

    async def run() -> tuple[list[Any], Memory]:
        async with await Memory.open("memory:", region="eu-west", tune_gc=False) as memory:
            subscription = memory.subscribe()
            space = memory.session(author="ada", trust=2).space("team", "notes")
            await space.put("city", "Rome")
            await space.put("city", "Oslo")
            async with memory.session(author="bob").transaction() as opened:
                inner = opened.space("team", "notes")
                inner.map("trip").set(["hotel", "name"], "Miramar")
                inner.map("trip").apply("stars", "counter", "increment", 4)
                inner.counter("visits").increment(3)
                inner.set("seen").add("forum")
                inner.set("seen").add(7)
                inner.log("journal").append({"b": 1, "a": [None, 2.5, b"\x00"]})
                for number in range(10):
                    inner.put(f"city:{number}", number)
            async with memory.transaction() as again:
                for number in range(10):
                    again.space("team", "notes").put(f"city:{number}", -number)
                    again.space("team", "notes").counter(f"hits:{number}").increment(number)
            await space.set("seen").remove("forum")
            await space.counter("visits").increment(2)
            await space.set_policy(Policy(resolver="majority"))
            return [await subscription.next() for _ in range(7)], memory

    return asyncio.run(run())


def read_batch(data: bytes) -> list[tuple[Any, ...]]:
    """Read a batch as DESIGN.md says: (dot, space, datatype, key, field, value, superseded)."""
    body = msgpack.unpackb(data)
    version, replica, first, count, _, _, others, _, spaces, _, _, transactions = body
    assert version == 1
    replicas = [replica, *others]
    deltas: list[tuple[Any, ...]] = []
    sequence = first
    for _, _, _, segments in transactions:
        for space, datatype, keys, fields, values, superseded, _ in segments:
            if type(values) is dict:
                values = [list(components) for components in zip(*values["c"], strict=True)]
            columns = [column for column in (values, superseded, fields) if type(column) is list]
            if type(keys) is list and len(keys) == 2 and type(keys[1]) is list:
                keys = [keys[0] + rest for rest in keys[1][0].split("\0")]
            length = len(columns[0]) if type(keys) is str else len(keys)
            if type(superseded) is bytes:
                width = len(superseded) // length
                superseded = [
                    int.from_bytes(superseded[at : at + width], "little")
                    for at in range(0, len(superseded), width)
                ]
            for index in range(length):
                field: Any = None
                if fields is None and datatype in (8, 9, 10, 11, 12):
                    field = (replica, sequence)
                elif fields is not None:
                    field = fields[index]
                    if type(field) is int:
                        field = (replica, sequence - field)
                    elif type(field) is list:
                        field = (replicas[field[0]], field[1])
                gone: Any = superseded[index] if superseded else 0
                if type(gone) is int:
                    dots = [(replica, sequence - gone)] if gone else []
                else:
                    dots = [
                        (replicas[of], which)
                        for of, which in zip(gone[::2], gone[1::2], strict=True)
                    ]
                deltas.append(
                    (
                        (replica, sequence),
                        tuple(spaces[space]),
                        datatype,
                        keys if type(keys) is str else keys[index],
                        field,
                        "removed" if values is None else values[index],
                        dots,
                    )
                )
                sequence += 1
    assert sequence == first + count
    return deltas


def digest_of(dots: set[tuple[int, int]]) -> str:
    """Add up the digest of live dots as DESIGN.md says."""
    mask = (1 << 64) - 1

    def mix(number: int) -> int:
        number = (number ^ number >> 30) * 0xBF58476D1CE4E5B9 & mask
        number = (number ^ number >> 27) * 0x94D049BB133111EB & mask
        return number ^ number >> 31

    lanes = []
    for seed in (0x243F6A8885A308D3, 0x13198A2E03707344):
        parts = [
            mix((sequence * 0x9E3779B97F4A7C15 + mix(replica ^ seed)) & mask)
            for replica, sequence in dots
        ]
        lanes.append(sum(parts) & mask)
    return "".join(f"{lane:016x}" for lane in lanes)


def test_batches_and_the_digest_can_be_read_from_the_specification_alone() -> None:
    batches, memory = written()
    live: dict[tuple[int, int], tuple[Any, ...]] = {}
    previous = None
    for batch in batches:
        if previous is not None:
            assert msgpack.unpackb(batch.data)[4] == previous
        previous = hashlib.sha256(batch.data).digest()[:16]
        for dot, *delta in read_batch(batch.data):
            for gone in delta[-1]:
                del live[gone]
            if delta[-2] != "removed":
                live[dot] = tuple(delta[:-1])
    notes = ("team", "notes")
    own = memory.replica_id
    held = {(key, datatype): (field, value) for _, datatype, key, field, value in live.values()}
    assert held["city", 1] == (None, "Oslo")
    assert held["visits", 6][1][1:] == [5]
    assert [held[f"city:{number}", 1][1] for number in range(10)] == [-n for n in range(10)]
    assert [held[f"hits:{number}", 6][1] for number in range(10)] == [[0, n] for n in range(10)]
    assert held["journal", 11][1] == {"a": [None, 2.5, b"\x00"], "b": 1}
    assert held["seen", 8] == (msgpack.packb(7), True)
    assert held[policy_key(notes), 1][1]["resolver"] == "majority"
    members = {field: value for _, datatype, _, field, value in live.values() if datatype == 10}
    assert members[msgpack.packb(["hotel", "name"])] == "Miramar"
    assert members[msgpack.packb([["stars"], 6])][1:] == [4]
    # The founder's admission came before the subscription; it is live too.
    founding = {(own, 1)}
    state = memory.engine.replica.state
    first, second = state.digest()
    assert digest_of(set(live) | founding) == f"{first:016x}{second:016x}"
    in_notes = {dot for dot, delta in live.items() if delta[0] == notes}
    assert digest_of(in_notes) == state.digest_of(notes).hex()
    assert {delta[0] for delta in live.values()} == {notes, SYSTEM_SPACE}


def test_frames_can_be_read_from_the_specification_alone() -> None:
    data = encode_frame(Ping(1234))
    length, checksum = struct.unpack(">II", data[:8])
    payload = data[8:]
    assert (len(payload), zlib.crc32(payload)) == (length, checksum)
    assert msgpack.unpackb(payload) == [9, 1234]


@pytest.mark.parametrize(
    ("text", "bound"),
    [("key 1 KiB", "key_bytes"), ("value 1 MiB", "value_bytes"), ("64 siblings", "siblings")],
)
def test_the_limits_in_the_readme_are_the_defaults(text: str, bound: str) -> None:
    assert text in " ".join(README.split())
    number = int(re.findall(r"\d+", text)[0])
    unit = {"KiB": 1024, "MiB": 1024 * 1024}.get(text.split()[-1], 1)
    assert getattr(DEFAULT_LIMITS, bound) == number * unit
