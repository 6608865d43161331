"""Real events: conversations, agents at work, and a text that two people wrote.

Problem: drawn loads are as regular as whoever drew them; what agents really store is
uneven in size, order and vocabulary.

Idea: recorded data becomes steps: each speaker of a conversation or role of an agent's run is
a client with a region of its own, and events keep their order; a drawn load's times are
laid over them. The editing session's updates are made beforehand, each upon what its
author had seen, and are written by the two authors in two regions.

The data is no part of the project. It is looked for in ``../shared/data`` beside the
project's root; where it is absent these workloads warn and draw nothing. So plans that
are to be the same everywhere leave them out, see ``Workload.needs``; and what a swarm draws
besides does not depend on them.
"""

from __future__ import annotations

import base64
import json
import warnings
from abc import abstractmethod
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any, Final

from crdtmem.editing import read_editing
from crdtmem.importer import read_events
from simulations.steps import Step
from simulations.workloads.base import Workload, moments, operation, write

__all__ = ["DATA", "AgentRuns", "Conversations", "Editing"]

DATA: Final = Path(__file__).resolve().parents[3] / "shared" / "data"
"""Where recordings are looked for."""

_TEXT: Final = 8_000
_MOST_EDITS: Final = 5_000


class _Replay(Workload):
    """What replays share: finding the recording, or saying loudly that there is none."""

    needs = "../shared/data"
    pattern = ""

    @property
    def available(self) -> bool:
        """Whether there is any recording of its kind."""
        return any(DATA.glob(self.pattern))

    def steps(
        self, random: Random, clients: int, machines: int, duration_us: int, rate_per_s: float
    ) -> list[Step]:
        """Lay what was recorded over the times of a drawn load."""
        times = moments(random, duration_us, rate_per_s)
        found = self.recordings()
        if not found or not times:
            return []
        return list(self.replay(random, found, times, clients, machines))

    @abstractmethod
    def replay(
        self, random: Random, found: list[Path], times: list[int], clients: int, machines: int
    ) -> Iterator[Step]:
        """Yield steps at these times, at the most, from one or more of the recordings."""

    def recordings(self) -> list[Path]:
        """Return the recordings; warns where there are none."""
        found = sorted(DATA.glob(self.pattern))
        if not found:
            words = f"{self.name}: nothing to replay, {self.needs}/{self.pattern} is absent"
            warnings.warn(words, stacklevel=3)
        return found


class Conversations(_Replay):
    """Turns of real conversations: each is logged, indexed by speaker and counted."""

    name = "conversations"
    about = "turns of recorded conversations, kept by agents in several regions"
    space = "conversations"
    pattern = "locomo/*.events.jsonl"

    def replay(
        self, random: Random, found: list[Path], times: list[int], clients: int, machines: int
    ) -> Iterator[Step]:
        """Replay a stretch of one conversation; each speaker is one client."""
        events = [event.body for event in read_events(random.choice(found))]
        begin = random.randrange(max(1, len(events) - len(times)))
        speakers: dict[str, int] = {}
        for at_us, turn in zip(times, events[begin:], strict=False):
            client = speakers.setdefault(turn["speaker"], len(speakers)) % clients
            kind, arguments = write(
                operation(self.space, "log", f"session {turn['session']}", "append", turn["text"]),
                operation(self.space, "register", turn["id"], "set", turn),
                operation(self.space, "set", turn["speaker"], "add", turn["id"]),
                operation(self.space, "counter", turn["speaker"], "increment", 1),
                author=turn["speaker"],
            )
            yield Step(at_us, client, client % machines, kind, arguments)


class AgentRuns(_Replay):
    """Messages of real agents: several runs at once, each in a log and a map of its own."""

    name = "agent_runs"
    about = "recorded runs of a tool-calling agent, several at once"
    space = "runs"
    pattern = "agent_runs/*.jsonl.gz"

    def replay(
        self, random: Random, found: list[Path], times: list[int], clients: int, machines: int
    ) -> Iterator[Step]:
        """Replay as many runs at once as there are clients."""
        first = random.randrange(60)
        runs = _runs(found[0], first, first + clients)
        for at_us in times:
            client = random.randrange(clients)
            message = next(runs[client], None) if client < len(runs) else None
            if message is None:
                continue
            name = f"run {message['run']}"
            text = (message.get("content") or "")[:_TEXT]
            calls = json.dumps(message.get("tool_calls") or [])[:_TEXT]
            kind, arguments = write(
                operation(
                    self.space, "log", name, "append", {"role": message["role"], "text": text}
                ),
                operation(
                    self.space, "map", name, "update", {"step": message["step"], "calls": calls}
                ),
                operation(self.space, "g_counter", message["role"], "increment", 1),
            )
            machine = (client + message["step"] // 10) % machines
            yield Step(at_us, client, machine, kind, arguments)


class Editing(_Replay):
    """A real text of two authors, as the updates that they made upon what they had seen."""

    name = "editing"
    about = "a recorded text that two people wrote at once, each in a region"
    space = "editing"
    pattern = "editing/*.json.gz"

    def replay(
        self, random: Random, found: list[Path], times: list[int], clients: int, machines: int
    ) -> Iterator[Step]:
        """Replay the beginning of the session."""
        for at_us, (author, update) in zip(times, _edits(found[0]), strict=False):
            place: dict[str, Any] = {"space": [self.space], "key": "text"}
            arguments = {**place, "update": update, "retries": 3}
            client = author % clients
            yield Step(at_us, client, client % machines, "update", arguments)


@lru_cache(maxsize=1)
def _edits(path: Path) -> tuple[tuple[int, str], ...]:
    """Return the author and the update of each of the first edits of a session.

    Kept, for making them takes a second, and many seeds of one process replay them.
    """
    edits = islice(read_editing(path).edits, _MOST_EDITS)
    return tuple((edit.author, base64.b64encode(edit.update).decode()) for edit in edits)


def _runs(path: Path, first: int, end: int) -> list[Iterator[dict[str, Any]]]:
    """Return the messages of some runs, each run in order."""
    runs: dict[int, list[dict[str, Any]]] = {}
    for event in read_events(path):
        if first <= event.body["run"] < end:
            runs.setdefault(event.body["run"], []).append(event.body)
    return [iter(runs[run]) for run in sorted(runs)]
