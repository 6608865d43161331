"""The simulator's store and the one that ships, side by side: nobody could tell which is which.

Problem: whatever the simulator proves stands on ``MemoryStore``; if it crashed, recovered,
cut or refused otherwise than SQLite does, it would prove nothing about production.

Idea: one machine drives both engines with the same calls, the same kills, the same
older copies put in place and the same damaged records, and after each compares all
that can be seen: results, errors with their details, what an open reports, and the
whole content.

Invariants: no rule knows which engine it talks to, but for the four that play the
computer around it. A killed process is played by the bytes of its files as they were
at that moment, written back in place: what the operating system keeps of a process
that is gone.
"""

from __future__ import annotations

import itertools
import shutil
import sqlite3
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from crdtmem.errors import CrdtmemError
from crdtmem.store import BatchRecord, Store, open_store
from crdtmem.store.memory import MemoryDisk, MemoryStore
from tests.simulations.machines.profiles import deep, small

REPLICAS = (1, 2**64 - 1)
_numbers = itertools.count()


class Computer(ABC):
    """One engine on one computer: what may happen to it besides calls."""

    store: Store

    @abstractmethod
    def open(self) -> None:
        """Open the store, in a new process."""

    @abstractmethod
    def kill(self) -> None:
        """End the process as SIGKILL does."""

    @abstractmethod
    def copy(self) -> Any:
        """Return what is on the disk now, while no process runs."""

    @abstractmethod
    def restore(self, image: Any, *, whole: bool) -> None:
        """Put an older copy in place; ``whole``: with the mark beside it, as a disk image does."""

    @abstractmethod
    def rot(self) -> None:
        """Damage the data of the last record on the disk."""

    def clean(self) -> None:
        """Leave nothing behind."""
        self.store.close()


class InMemory(Computer):
    """The simulator's."""

    def __init__(self) -> None:
        self.disk = MemoryDisk()
        self.url = f"memory:machine-{next(_numbers)}"

    def open(self) -> None:
        self.store = MemoryStore(self.url, self.disk, read_only=False)

    def kill(self) -> None:
        assert isinstance(self.store, MemoryStore)
        self.store.crash()

    def copy(self) -> MemoryDisk:
        return self.disk.copy()

    def restore(self, image: MemoryDisk, *, whole: bool) -> None:
        self.disk.restore(image, with_mark=whole)

    def rot(self) -> None:
        self.disk.tear(1)


class OnSqlite(Computer):
    """The one that ships."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.path = self.folder / "store.db"

    def open(self) -> None:
        self.store = open_store(f"sqlite:///{self.path}")

    def kill(self) -> None:
        image = self.copy()
        self.store.close()
        self.restore(image, whole=True)

    def copy(self) -> dict[str, bytes]:
        files = (f"store.db{suffix}" for suffix in ("", "-wal", "-mark"))
        return {n: (self.folder / n).read_bytes() for n in files if (self.folder / n).exists()}

    def restore(self, image: dict[str, bytes], *, whole: bool) -> None:
        (self.folder / "store.db-wal").unlink(missing_ok=True)
        for name, content in image.items():
            if whole or not name.endswith("-mark"):
                # In place: the files stay the same files.
                with (self.folder / name).open("r+b" if name != "store.db-wal" else "wb") as file:
                    file.write(content)
                    file.truncate()

    def rot(self) -> None:
        connection = sqlite3.connect(self.path)
        connection.execute(
            "UPDATE log SET data ="
            " CAST(coalesce(substr(data, 1, length(data) - 1), x'') || x'ff00' AS BLOB)"
            " WHERE ordinal = (SELECT max(ordinal) FROM log)"
        )
        connection.commit()
        connection.close()

    def clean(self) -> None:
        super().clean()
        shutil.rmtree(self.folder)


def outcome(work: Callable[[], Any]) -> Any:
    """Return what came of a call in a form that can be compared, its errors too."""
    try:
        return plain(work())
    except CrdtmemError as error:
        details = {k: v for k, v in error.details.items() if k in ("ordinal", "resume", "head")}
        return type(error).__name__, details


def plain(value: Any) -> Any:
    return list(value) if isinstance(value, Iterator) else value


class SideBySide(RuleBasedStateMachine):
    """Both engines, and the same life for both."""

    def __init__(self) -> None:
        super().__init__()
        self.computers: list[Computer] = [InMemory(), OnSqlite()]
        self.heads: dict[int, int] = {}
        self.writers: list[Any] = []
        self.images: list[list[Any]] = []
        self.runs = False

    @initialize()
    def begin(self) -> None:
        self.open()

    def teardown(self) -> None:
        for computer in self.computers:
            computer.clean()

    # ------------------------------------------------------------------ both at once

    def both(self, work: Callable[[Store], Any]) -> Any:
        """Do the same with both; returns the one outcome that they have."""
        memory, sqlite = (
            outcome(lambda c=c: work(c.store))  # type: ignore[misc]
            for c in self.computers
        )
        assert memory == sqlite
        return memory

    def open(self) -> None:
        for computer in self.computers:
            computer.open()
        self.runs = True
        self.opened()

    def opened(self) -> None:
        self.writers = []
        boot = self.both(
            lambda s: (s.boot.fresh, s.boot.continuous, s.boot.boot, s.boot.cut_records)
        )
        assert self.both(lambda s: s.boot.clean) == self.both(lambda s: s.boot.clean)
        if not boot[1]:
            self.both(lambda s: s.put_metadata({"replica": b"%d" % boot[2]}))
            self.both(lambda s: s.claim_identity())
            self.both(lambda s: s.sync())

    def head(self, replica: int) -> int:
        heads: dict[int, int] = self.both(lambda s: s.heads())
        return max(heads.get(replica, 0), self.heads.get(replica, 0))

    # ------------------------------------------------------------------ calls

    @precondition(lambda self: self.runs)
    @rule(
        replica=st.sampled_from(REPLICAS),
        skip=st.sampled_from([0, 0, 0, 3]),
        lengths=st.lists(st.integers(1, 4), min_size=1, max_size=3),
        size=st.sampled_from([5, 300, 3_000]),
    )
    def append(self, replica: int, skip: int, lengths: list[int], size: int) -> None:
        first = self.head(replica) + 1 + skip
        records = []
        for length in lengths:
            last = first + length - 1
            data = f"{replica}/{first}".encode().ljust(size, b".")
            records.append(BatchRecord.of(replica, first, last, data))
            first = last + 1
        if self.both(lambda s: s.append(records, arrived_at_us=first)) is None:
            self.heads[replica] = first - 1

    @precondition(lambda self: self.runs)
    @rule(replica=st.sampled_from(REPLICAS), back=st.integers(0, 3))
    def append_again(self, replica: int, back: int) -> None:
        """What is there already is refused by both, and nothing of the call is kept."""
        first = max(1, self.head(replica) - back)
        other = self.head(7) + 1
        records = [
            BatchRecord.of(7, other, other, b"new"),
            BatchRecord.of(replica, first, first, b"again"),
        ]
        if self.head(replica):
            assert self.both(lambda s: s.append(records, arrived_at_us=1)) is not None

    @precondition(lambda self: self.runs)
    @rule(data=st.binary(max_size=3))
    def append_marker(self, data: bytes) -> None:
        self.both(lambda s: s.append_marker(data, arrived_at_us=1))

    @precondition(lambda self: self.runs)
    @rule(name=st.sampled_from(["a", "b", "store.x"]), value=st.none() | st.binary(max_size=3))
    def put_metadata(self, name: str, value: bytes | None) -> None:
        self.both(lambda s: s.put_metadata({name: value}))

    @precondition(lambda self: self.runs)
    @rule()
    def sync(self) -> None:
        self.both(lambda s: s.sync())
        self.heads = {}

    @precondition(lambda self: self.runs)
    @rule()
    def tidy(self) -> None:
        self.both(lambda s: s.tidy())

    @precondition(lambda self: self.runs)
    @rule(size=st.integers(0, 3))
    def begin_checkpoint(self, size: int) -> None:
        def begin(store: Store) -> int:
            writer = store.begin_checkpoint(b"%d" % store.last_ordinal())
            for number in range(size):
                writer.write(b"%d" % number)
            made.append(writer)
            return size

        made: list[Any] = []
        if self.both(begin) == size:
            self.writers = made

    @precondition(lambda self: self.runs and self.writers)
    @rule(how=st.sampled_from(["commit", "commit", "abort", "write"]))
    def go_on_with_checkpoint(self, how: str) -> None:
        arguments = (b"more",) if how == "write" else ()
        memory, sqlite = (
            outcome(lambda w=w: getattr(w, how)(*arguments))  # type: ignore[misc]
            for w in self.writers
        )
        assert memory == sqlite

    @precondition(lambda self: self.runs)
    @rule(
        replica=st.sampled_from(REPLICAS),
        below=st.integers(0, 40),
        name=st.sampled_from(["cut_sync_log", "cut_history"]),
    )
    def cut(self, replica: int, below: int, name: str) -> None:
        self.both(lambda s: getattr(s, name)(replica, below))

    @precondition(lambda self: self.runs)
    @rule(replica=st.sampled_from(REPLICAS), back=st.integers(0, 9))
    def divert(self, replica: int, back: int) -> None:
        above = max(0, self.head(replica) - back)
        if type(self.both(lambda s: s.divert(replica, above))) is int:
            self.heads = {}

    @precondition(lambda self: self.runs)
    @rule(back=st.integers(0, 4))
    def quarantine_after(self, back: int) -> None:
        last: int = self.both(lambda s: s.last_ordinal())
        self.both(lambda s: s.quarantine_after(max(0, last - back), "a test"))

    @precondition(lambda self: self.runs)
    @rule()
    def drop_checkpoints(self) -> None:
        self.both(lambda s: s.drop_checkpoints())

    @precondition(lambda self: self.runs)
    @rule(
        replica=st.sampled_from(REPLICAS),
        start=st.integers(0, 40),
        limit=st.sampled_from([0, 500, 9_000]),
        through=st.none() | st.integers(0, 40),
        name=st.sampled_from(["read", "read_history"]),
    )
    def read(self, replica: int, start: int, limit: int, through: int | None, name: str) -> None:
        self.both(
            lambda s: getattr(s, name)(replica, start, limit_bytes=limit, through_sequence=through)
        )

    @precondition(lambda self: self.runs)
    @rule(back=st.integers(0, 5))
    def replay(self, back: int) -> None:
        last: int = self.both(lambda s: s.last_ordinal())
        self.both(lambda s: s.replay(after_ordinal=max(0, last - back)))

    # ------------------------------------------------------------------ lives

    @precondition(lambda self: self.runs)
    @rule(how=st.sampled_from(["close", "kill", "reopen"]))
    def start_again(self, how: str) -> None:
        self.heads = {}
        if how == "reopen":
            self.both(lambda s: s.reopen())
            self.opened()
            return
        self.end(how)
        self.open()

    def end(self, how: str) -> None:
        for computer in self.computers:
            if how == "kill":
                computer.kill()
            else:
                computer.store.close()
        self.heads = {}
        self.runs = False

    @precondition(lambda self: self.runs)
    @rule(how=st.sampled_from(["close", "kill"]))
    def take_copy(self, how: str) -> None:
        self.end(how)
        self.images.append([computer.copy() for computer in self.computers])
        self.open()

    @precondition(lambda self: self.runs and self.images)
    @rule(how=st.sampled_from(["close", "kill"]), pick=st.integers(0, 9), whole=st.booleans())
    def put_older_in_place(self, how: str, pick: int, whole: bool) -> None:
        self.end(how)
        images = self.images[pick % len(self.images)]
        for computer, image in zip(self.computers, images, strict=True):
            computer.restore(image, whole=whole)
        self.open()

    @precondition(lambda self: self.runs)
    @rule()
    def rot_while_closed(self) -> None:
        """The last record of a store that was closed is damaged: reading finds it, both ways."""
        if not self.both(lambda s: s.replay(after_ordinal=0)):
            return
        self.end("close")
        for computer in self.computers:
            computer.rot()
        self.open()

    # ------------------------------------------------------------------ all that can be seen

    @invariant()
    def look_alike(self) -> None:
        if not self.runs:
            return
        self.both(lambda s: s.heads())
        self.both(lambda s: (s.floors(), s.history_floors()))
        self.both(lambda s: s.metadata())
        self.both(lambda s: s.last_ordinal())
        self.both(lambda s: s.replay(after_ordinal=0))
        self.both(lambda s: sorted(s.quarantined(), key=lambda r: (r.ordinal, r.data)))
        self.both(lambda s: s.broken)
        found = self.both(lambda s: _checkpoint(s))
        assert found is None or isinstance(found, tuple)
        self.both(lambda s: (s.verify().sound, s.verify().records, s.verify().markers))


def _checkpoint(store: Store) -> tuple[bytes, int, list[bytes]] | None:
    found = store.checkpoint()
    return None if found is None else (found.header, found.after_ordinal, list(found.chunks()))


TestSmall = small(SideBySide, examples=12, steps=25)
TestDeep = deep(SideBySide, examples=150, steps=60)
