"""Every engine against a model of twenty lines, through random lives."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from crdtmem.errors import HistoryGap
from crdtmem.store import ENGINES, BatchRecord, Store, open_store

REPLICAS = (1, 2**64 - 1)
_names = itertools.count()


class Life(RuleBasedStateMachine):
    """The model: a list of (ordinal, replica, first, last), metadata, floors, a checkpoint."""

    engine = "memory"
    store: Store

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.log: list[tuple[int, int, int, int]] = []
        self.open_log: list[tuple[int, int, int, int]] = []
        self.metadata: dict[str, bytes] = {}
        self.open_metadata: dict[str, bytes | None] = {}
        self.floors: dict[int, tuple[int, int]] = {}
        self.checkpoints: list[int] = []
        self.ordinal = 0

    @initialize()
    def begin(self) -> None:
        path = f"///{self.folder}/store.db" if self.engine == "sqlite" else f"life-{next(_names)}"
        self.url = f"{self.engine}:{path}"
        self.store = open_store(self.url)
        self.store.claim_identity()
        self.store.sync()

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
        shutil.rmtree(self.folder)

    def head(self, replica: int) -> int:
        held = [last for _, r, _, last in self.log + self.open_log if r == replica]
        return max([*held, max(self.floors.get(replica, (1, 1))) - 1])

    @rule(replica=st.sampled_from(REPLICAS), length=st.integers(1, 5), size=st.integers(0, 3000))
    def append(self, replica: int, length: int, size: int) -> None:
        first = self.head(replica) + 1
        self.store.append(
            [BatchRecord.of(replica, first, first + length - 1, b"x" * size)], arrived_at_us=1
        )
        ordinal = self.ordinal + len(self.open_log) + 1
        self.open_log.append((ordinal, replica, first, first + length - 1))

    @rule(name=st.sampled_from("ab"), value=st.none() | st.binary(max_size=3))
    def put(self, name: str, value: bytes | None) -> None:
        self.store.put_metadata({name: value})
        self.open_metadata[name] = value

    @rule()
    def sync(self) -> None:
        self.store.sync()
        self.log += self.open_log
        self.ordinal += len(self.open_log)
        for name, value in self.open_metadata.items():
            if value is None:
                self.metadata.pop(name, None)
            else:
                self.metadata[name] = value
        self.drop_transaction()

    def drop_transaction(self) -> None:
        self.open_log = []
        self.open_metadata = {}

    @rule(how=st.sampled_from(["close", "reopen"]))
    def start_again(self, how: str) -> None:
        if how == "close":
            self.store.close()
            self.store = open_store(self.url)
        else:
            self.store.reopen()
        assert self.store.boot.continuous, self.store.boot.reason
        self.drop_transaction()

    @rule(whole=st.booleans())
    def write_checkpoint(self, whole: bool) -> None:
        writer = self.store.begin_checkpoint(b"%d" % self.ordinal)
        self.checkpoints = self.checkpoints[-1:]
        for number in range(3):
            writer.write(b"%d" % number)
        if whole:
            writer.commit()
            self.checkpoints.append(self.ordinal)
        else:
            writer.abort()

    @rule(
        replica=st.sampled_from(REPLICAS), below=st.integers(0, 60), which=st.sampled_from((0, 1))
    )
    def cut(self, replica: int, below: int, which: int) -> None:
        cut = (self.store.cut_sync_log, self.store.cut_history)[which]
        got = cut(replica, below)
        held = [row for row in self.log if row[1] == replica]
        if held:
            covered = min(self.checkpoints, default=0)
            kept = [first for o, _, first, last in held if last >= below or o > covered]
            end = max(last for _, _, _, last in held) + 1
            before = self.floors.get(replica, (held[0][2], held[0][2]))
            floor = max(kept[0] if kept else end, before[which])
            self.floors[replica] = (floor, before[1]) if which == 0 else (before[0], floor)
            lowest = min(self.floors[replica])
            self.log = [row for row in self.log if row[1] != replica or row[3] >= lowest]
        assert got == self.floors.get(replica, (0, 0))[which]

    @rule(replica=st.sampled_from(REPLICAS), start=st.integers(0, 60), limit=st.integers(0, 9000))
    def read(self, replica: int, start: int, limit: int) -> None:
        reads = (self.store.read, self.store.read_history)
        for which, read in enumerate(reads):
            floor = self.floors.get(replica, (0, 0))[which]
            if max(start, 1) < floor:
                with pytest.raises(HistoryGap) as caught:
                    read(replica, start, limit_bytes=limit)
                assert caught.value.details["resume"] == floor
                continue
            got = read(replica, start, limit_bytes=limit)
            expected = [row for row in self.log if row[1] == replica and row[3] >= start]
            assert [r.ordinal for r in got] == [row[0] for row in expected][: len(got)]
            assert bool(got) == bool(expected)
            short = len(got) < len(expected)
            assert not short or sum(len(r.data) for r in got) >= limit
            assert sum(len(r.data) for r in got[:-1]) < max(limit, 1)

    @precondition(lambda self: hasattr(self, "store"))
    @rule()
    def compare(self) -> None:
        found = [
            (r.ordinal, r.replica, r.first_sequence, r.last_sequence)
            for r in self.store.replay(after_ordinal=0)
        ]
        assert found == self.log
        assert self.store.metadata() == self.metadata
        assert self.store.last_ordinal() == self.ordinal
        newest = self.store.checkpoint()
        if self.checkpoints:
            assert newest is not None
            assert newest.after_ordinal == self.checkpoints[-1]
            assert list(newest.chunks()) == [b"0", b"1", b"2"]
        else:
            assert newest is None
        report = self.store.verify()
        assert report.sound, report.problems


def life(name: str, examples: int) -> type:
    machine = type(f"Life_{name}", (Life,), {"engine": name})
    case = machine.TestCase  # type: ignore[attr-defined]
    case.settings = settings(
        max_examples=examples,
        stateful_step_count=40,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    return type(f"Test_{name}", (case,), {})


assert set(ENGINES) == {"memory", "sqlite"}, "a new engine lives here too"
TestMemoryLife = life("memory", 100)
TestSqliteLife = life("sqlite", 25)
