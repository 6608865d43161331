"""Processes whose output is read as it comes, with the time at which each line was read.

Problem: tests and benchmarks ask when a process said something, of several processes at once;
a pipe that nobody reads stops its writer.

Idea: a thread per process reads lines, and keeps what a parser makes of them beside the steady
clock's time. Everything is asked of that list.

Invariant: a talker that was closed has ended, and so has its thread.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from tests.waiting import wait_until

__all__ = ["FAST", "BareMember", "Event", "Talker"]

READY_S = 60.0

FAST = (
    "probe_interval_us=200000",
    "probe_timeout_us=100000",
    "gossip_interval_us=50000",
    "gossip_to_dead_us=2000000",
    "push_pull_interval_us=3000000",
    "rejoin_interval_us=1000000",
)
"""Small windows: a profile of ``lan``'s proportions, five times as fast, for tests."""


class Event(NamedTuple):
    """What was said, and when it was read (seconds of the steady clock)."""

    at_s: float
    said: dict[str, Any]


class Talker:
    """A process, and what it has said so far."""

    def __init__(
        self, command: Sequence[str], parse: Callable[[str], dict[str, Any] | None]
    ) -> None:
        self.events: list[Event] = []
        self.noise: list[str] = []
        """Lines that the parser made nothing of."""
        self._parse = parse
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            now = time.monotonic()
            said = self._parse(line.rstrip("\n"))
            if said is None:
                self.noise.append(line)
            else:
                self.events.append(Event(now, said))

    @property
    def pid(self) -> int:
        """The process."""
        return self.process.pid

    @property
    def runs(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    def named(self, name: str) -> list[Event]:
        """Return the events of one kind."""
        return [event for event in self.events if event.said.get("event") == name]

    def send(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def end(self, number: int = signal.SIGKILL) -> int:
        """End it, whether paused or not; return its exit code. Idempotent."""
        if self.runs:
            self.send(number)
            if number != signal.SIGKILL:
                self.send(signal.SIGCONT)
        code = self.process.wait(30)
        self._reader.join(10)
        if self.process.stdout is not None:
            self.process.stdout.close()
        return code


def _json_line(line: str) -> dict[str, Any] | None:
    if not line.startswith("{"):
        return None
    said = json.loads(line)
    assert isinstance(said, dict)
    return said


class BareMember(Talker):
    """``python -m gossip --json``, in a place if ``prefix`` names one."""

    def __init__(
        self,
        name: str,
        listen: str,
        *options: str,
        join: Sequence[str] = (),
        prefix: Sequence[str] = (),
        constants: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.address = listen
        super().__init__(
            [
                *prefix, sys.executable, "-m", "gossip", "--json",
                "--name", name, "--listen", listen,
                *(word for seed in join for word in ("--join", seed)),
                *(word for constant in constants for word in ("--set", constant)),
                *options,
            ],
            _json_line,
        )  # fmt: skip

    def await_ready(self) -> None:
        """Wait until it runs."""
        wait_until(
            lambda: self.named("ready") or not self.runs, f"{self.name} ready", timeout_s=READY_S
        )
        assert self.named("ready"), f"{self.name} ended: {''.join(self.noise)}"

    def beliefs(self) -> dict[str, tuple[str, int, int]]:
        """Return what it believes of each other member by name: state, generation, incarnation."""
        found: dict[str, tuple[str, int, int]] = {}
        for event in self.named("member"):
            said = event.said
            found[said["name"]] = (said["state"], said["generation"], said["incarnation"])
        return found

    def state(self, other: str) -> str | None:
        """Return what it believes of one, or ``None``."""
        known = self.beliefs().get(other)
        return None if known is None else known[0]

    def deaths(self, since_s: float = 0.0) -> list[str]:
        """Return whom it has called dead since then."""
        return [
            event.said["name"]
            for event in self.named("member")
            if event.said["state"] == "dead" and event.at_s >= since_s
        ]

    def warnings(self) -> set[str]:
        """Return the names of its warnings."""
        return {event.said["name"] for event in self.named("warning")}

    def counters(self) -> dict[str, Any]:
        """Ask for its counters, and return those of all its pools, added up, and ``transport``."""
        before = len(self.named("counters"))
        self.send(signal.SIGUSR1)
        wait_until(
            lambda: len(self.named("counters")) > before, f"counters of {self.name}", timeout_s=30
        )
        said = self.named("counters")[-1].said
        total: dict[str, Any] = {"transport": said["transport"], "driver": said["driver"]}
        for pool in said["pools"].values():
            for name, value in pool.items():
                if isinstance(value, int):
                    total[name] = total.get(name, 0) + value
        return total
