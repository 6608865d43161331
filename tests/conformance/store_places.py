"""Where the store suites keep their stores, and what they put into them."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

from crdtmem.store import BatchRecord, LogRecord, Store, open_store

_names = itertools.count()

A = 7
B = 2**64 - 2  # beyond what a signed integer holds
NOW_US = 1_750_000_000_000_000


@dataclass
class Place:
    """Where one store lies, and whatever has it open."""

    url: str
    backup_path: str
    backup_url: str
    store: Store | None = None

    def open(self, *, read_only: bool = False) -> Store:
        self.store = open_store(self.url, read_only=read_only)
        return self.store

    def again(self) -> Store:
        assert self.store is not None
        self.store.close()
        return self.open()


def place_of(engine: str, folder: Path) -> Place:
    """A new place for a store of one engine."""
    name = f"conformance-{next(_names)}"
    return {
        "memory": Place(f"memory:{name}", f"{name}-copy", f"memory:{name}-copy"),
        "sqlite": Place(
            f"sqlite:///{folder}/store.db", f"{folder}/copy.db", f"sqlite:///{folder}/copy.db"
        ),
    }[engine]


def batch(replica: int, first: int, last: int, size: int = 10) -> BatchRecord:
    return BatchRecord.of(replica, first, last, f"{replica}/{first}".encode().ljust(size, b"."))


def put(store: Store, *batches: BatchRecord) -> None:
    store.append(batches, arrived_at_us=NOW_US)
    store.sync()


def spans(records: list[LogRecord]) -> list[tuple[int, int]]:
    return [(record.first_sequence, record.last_sequence) for record in records]


def fill(store: Store, replica: int = A, batches: int = 10) -> None:
    """Batches 1..10, 11..20 and so on."""
    put(store, *(batch(replica, n * 10 + 1, n * 10 + 10) for n in range(batches)))


def checkpoint(store: Store, header: bytes = b"header", *chunks: bytes) -> None:
    writer = store.begin_checkpoint(header)
    for chunk in chunks:
        writer.write(chunk)
    writer.commit()
