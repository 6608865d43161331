"""A node under ten times what it can do: who gets what, and what it costs the node.

Ten clients write as fast as their sockets take it, each of which alone would keep the node
busy; none waits for an answer before it sends more. Beside them a modest client writes once
every few milliseconds, and an operator asks for the status through a
connection of its own each time. What is told: the rate that one flooding client alone gets
(what the node sustains), the rates of the ten, how fair they are, what the modest client
asked and got and how long it waited, how long a status took, and the most memory that the
node took.

``flood`` is also what the tests of overload drive: it keeps what was acknowledged, so that it
can be looked for after a kill.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from crdtmem.batch import pack_keys
from crdtmem.codec import pack
from crdtmem.control_frames import (
    CONTROL_VERSION,
    ERROR,
    MAGIC,
    FrameDecoder,
    encode_body,
    frame_of_messages,
)
from tests.bench.report import Row

__all__ = ["SPACE", "Outcome", "Plan", "Wire", "ask", "commit_of", "flood", "overload_rows"]

SPACE: Final = ("overload",)
_REGISTER: Final = 1
_FRAME_TRANSACTIONS: Final = 16
_LATE_S: Final = 5.0
_READ_BYTES: Final = 256 * 1024


@dataclass(frozen=True)
class Plan:
    """Who asks how much. Every flooding client writes transactions of ``puts`` values."""

    seconds: float = 5.0
    floods: int = 10
    puts: int = 8
    value_bytes: int = 256
    modest_every_ms: int = 10
    name: str = "flood"
    overwrite: int = 0
    """How many keys a flooding client writes again and again; 0: new ones for ever."""


def commit_of(keys: list[str], value: Any, *, space: Any = SPACE) -> tuple[Any, ...]:
    """Return the body of a commit that puts one value under each key."""
    run = (0, space, _REGISTER, pack_keys(keys), pack([value] * len(keys)))
    return ("local", 10_000, None), ("", 0, None, None, (run,))


class Wire:
    """A client of the control socket, with no manners but to greet and to read."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._decoder = FrameDecoder(1 << 28)
        self._messages: list[tuple[int, Any, Any]] = []

    @classmethod
    async def open(cls, path: Path) -> Wire:
        """Connect, and greet."""
        wire = cls(*await asyncio.open_unix_connection(str(path)))
        await wire.send([(0, "hello", (MAGIC, CONTROL_VERSION))])
        assert (await wire.read())[1] != ERROR
        return wire

    async def send(self, messages: list[tuple[int, str, Any]]) -> None:
        """Send a frame; returns when the kernel has taken it, which is when the node reads."""
        self._writer.write(frame_of_messages([encode_body(message) for message in messages]))
        await self._writer.drain()

    async def read(self) -> tuple[int, Any, Any]:
        """Return the next message that comes; ``EOFError`` at the end."""
        while not self._messages:
            data = await self._reader.read(_READ_BYTES)
            if not data:
                raise EOFError("the node has closed the connection")
            self._decoder.feed(data)
            while (received := self._decoder.next_frame()) is not None:
                self._messages += received[1]
            self._messages.reverse()
        return self._messages.pop()

    async def ask(self, verb: str, body: Any) -> tuple[Any, Any]:
        """Ask one thing, with nothing else under way; returns the answer's kind and body."""
        await self.send([(1, verb, body)])
        _, kind, answer = await self.read()
        return kind, answer

    def close(self) -> None:
        """Leave at once."""
        self._writer.transport.abort()


async def ask(path: Path, verb: str, body: Any = ()) -> Any:
    """Ask one thing over a connection of its own; raises ``AssertionError`` for an error."""
    wire = await Wire.open(path)
    try:
        kind, answer = await wire.ask(verb, body)
        assert kind != ERROR, answer
        return answer
    finally:
        wire.close()


@dataclass
class Outcome:
    """What was seen. Rates are operations (puts) per second."""

    seconds: float = 0.0
    flood_rates: list[float] = field(default_factory=list)
    acknowledged: dict[str, int] = field(default_factory=dict)
    """The last value that is known to be durable, by key."""
    errors: Counter[str] = field(default_factory=Counter)
    hints: int = 0
    """How many refusals told when to come back."""
    modest_asked: int = 0
    modest_ms: list[float] = field(default_factory=list)
    status_ms: list[float] = field(default_factory=list)
    peak_bytes: int = 0
    held_up: int = 0
    """How many flooding clients were not being read when time was over."""
    refusing: int = 0
    """How many statuses said that writes are refused for memory."""

    @property
    def fairness(self) -> float:
        """Jain's index of the flooding clients' rates: 1 is equal, 1/n is all for one."""
        rates = self.flood_rates
        squares = len(rates) * sum(rate * rate for rate in rates)
        return sum(rates) ** 2 / squares if squares else 1.0

    def note_error(self, answer: Any) -> None:
        """Count a refusal."""
        self.errors[answer[0]] += 1
        self.hints += type(answer[3].get("retry_after_ms")) is int


async def _end(reading: asyncio.Future[None], outcome: Outcome) -> None:
    """Stop to read; what ended it before is an error that was not asked for."""
    reading.cancel()
    await asyncio.wait({reading})
    if not reading.cancelled() and (error := reading.exception()) is not None:
        outcome.errors[repr(error)] += 1


async def _pace(seconds: float) -> None:
    """Let time pass between two looks."""
    loop = asyncio.get_running_loop()
    over = loop.create_future()
    loop.call_later(seconds, over.set_result, None)
    await over


class _Flood:
    """One client that sends as fast as it can, and reads what comes back."""

    def __init__(self, name: str, plan: Plan, outcome: Outcome) -> None:
        self._name = name
        self._plan = plan
        self._outcome = outcome
        self._pad = b"x" * plan.value_bytes
        self._sent: dict[int, list[str]] = {}
        self._numbers = itertools.count(1)
        self.answered = 0

    async def run(self, wire: Wire, end_s: float) -> None:
        reading = asyncio.ensure_future(self._read(wire))
        try:
            while time.monotonic() < end_s:
                # One that is not read waits here.
                async with asyncio.timeout(max(0.01, end_s - time.monotonic())):
                    await wire.send([self._next() for _ in range(_FRAME_TRANSACTIONS)])
        except TimeoutError:
            self._outcome.held_up += 1
        finally:
            await _end(reading, self._outcome)

    def _next(self) -> tuple[int, str, Any]:
        plan, number = self._plan, next(self._numbers)
        first = number * plan.puts
        within = plan.overwrite or first + plan.puts
        keys = [f"{self._name}-{(first + n) % within}" for n in range(plan.puts)]
        self._sent[number] = keys
        return number, "commit", commit_of(keys, (number, self._pad))

    async def _read(self, wire: Wire) -> None:
        outcome, plan = self._outcome, self._plan
        while True:
            number, kind, answer = await wire.read()
            keys = self._sent.pop(number)
            if kind == ERROR:
                outcome.note_error(answer)
                continue
            self.answered += plan.puts
            for key in keys:
                outcome.acknowledged[key] = max(number, outcome.acknowledged.get(key, 0))


class _Modest:
    """One client that writes now and then, whatever was answered, and notes how long each took."""

    def __init__(self, plan: Plan, outcome: Outcome) -> None:
        self._every_s = plan.modest_every_ms / 1_000
        self._outcome = outcome
        self._asked_s: dict[int, float] = {}

    async def run(self, wire: Wire, end_s: float) -> None:
        outcome, began_s = self._outcome, time.monotonic()
        reading = asyncio.ensure_future(self._read(wire))
        try:
            for number in itertools.count(1):
                due_s = began_s + number * self._every_s
                if due_s >= end_s:
                    break
                # It has read to the end if the node cut it off.
                await asyncio.wait({reading}, timeout=max(0.0, due_s - time.monotonic()))
                self._asked_s[number] = time.perf_counter()
                outcome.modest_asked += 1
                body = commit_of([f"modest-{number}"], (number, b""))
                await wire.send([(number, "commit", body)])
            # What is under way is answered soon, or it was not taken in.
            late_s = time.monotonic() + _LATE_S
            while self._asked_s and not reading.done() and time.monotonic() < late_s:
                await _pace(0.01)
        finally:
            await _end(reading, outcome)

    async def _read(self, wire: Wire) -> None:
        outcome = self._outcome
        while True:
            number, kind, answer = await wire.read()
            asked_s = self._asked_s.pop(number)
            if kind == ERROR:
                outcome.note_error(answer)
                continue
            outcome.acknowledged[f"modest-{number}"] = number
            outcome.modest_ms.append(1_000 * (time.perf_counter() - asked_s))


async def _operator(path: Path, outcome: Outcome, end_s: float) -> None:
    """Ask how the node fares, through a new connection each time."""
    while time.monotonic() < end_s:
        asked_s = time.perf_counter()
        status = await ask(path, "status")
        outcome.status_ms.append(1_000 * (time.perf_counter() - asked_s))
        outcome.refusing += status["admission"]["writes_refused"]
        await _pace(0.1)


def resident_bytes(pid: int) -> int:
    """Return the memory that a process takes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1_024
    return 0


async def _watch(pid: int, outcome: Outcome, end_s: float) -> None:
    """Watch the node's memory."""
    while time.monotonic() < end_s:
        outcome.peak_bytes = max(outcome.peak_bytes, resident_bytes(pid))
        await _pace(0.02)


async def flood(path: Path, pid: int, plan: Plan, outcome: Outcome | None = None) -> Outcome:
    """Drive the node on ``path``, and return what was seen: in ``outcome``, if it is given."""
    outcome = outcome or Outcome()
    wires = [await Wire.open(path) for _ in range(plan.floods + 1)]
    floods = [_Flood(f"{plan.name}-{number}", plan, outcome) for number in range(plan.floods)]
    began_s = time.monotonic()
    end_s = began_s + plan.seconds
    work = [each.run(wire, end_s) for each, wire in zip(floods, wires, strict=False)]
    if plan.modest_every_ms:
        work.append(_Modest(plan, outcome).run(wires[-1], end_s))
    try:
        await asyncio.gather(*work, _operator(path, outcome, end_s), _watch(pid, outcome, end_s))
    finally:
        outcome.seconds = time.monotonic() - began_s
        for wire in wires:
            wire.close()
    outcome.flood_rates = [each.answered / outcome.seconds for each in floods]
    return outcome


def overload_rows(path: Path, pid: int, *, seconds: float = 5.0) -> list[Row]:
    """Measure a running node: rows of fairness and overload, for the benchmark of the service.

    What the modest client did not get is counted against a twentieth of what it asked.
    """
    alone = asyncio.run(
        flood(path, pid, Plan(seconds, floods=1, modest_every_ms=0, overwrite=10_000))
    )
    crowd = asyncio.run(flood(path, pid, Plan(seconds, overwrite=10_000)))
    sustained, together = alone.flood_rates[0], sum(crowd.flood_rates)
    got = len(crowd.modest_ms) / max(1, crowd.modest_asked)
    waits = sorted(crowd.modest_ms) or [float("inf")]
    return [
        Row(
            "writes, ten flooding clients", 1e6 / together if together else 0.0, "µs",
            "one alone", 1e6 / sustained if sustained else None,
            extra={
                "rates": [round(rate) for rate in crowd.flood_rates],
                "fairness": round(crowd.fairness, 3),
                "errors": dict(crowd.errors),
                "peak_mib": crowd.peak_bytes >> 20,
            },
        ),
        Row(
            "a modest client beside them, unserved", 1.0 - got, "of 1",
            "a twentieth", 0.05, 1.0,
            extra={"asked": crowd.modest_asked, "got": len(crowd.modest_ms)},
        ),
        Row(
            "a modest client's wait beside them, p99", waits[int(0.99 * (len(waits) - 1))], "ms",
            "a second", 1_000.0, 1.0,
            extra={"p50_ms": round(statistics.median(waits), 1)},
        ),
        Row(
            "a status beside them", max(crowd.status_ms, default=float("inf")), "ms", "a second",
            1_000.0, 1.0,
            extra={"p50_ms": round(statistics.median(crowd.status_ms or [float("inf")]), 1)},
        ),
    ]  # fmt: skip
