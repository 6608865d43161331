"""Durability behind one protocol, with the engine chosen by URL.

``sqlite:///relative/path.db`` and ``sqlite:////absolute/path.db`` keep a store in one
SQLite file. ``memory:`` is private and gone when closed; ``memory:NAME`` is shared within
the process, so that a test can crash it and open it again. An engine is one entry in
``ENGINES``, and passes the conformance suite, which runs over that table.

The disk format is specified in ``FORMAT.md`` beside this module.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from crdtmem.errors import ConfigError, UnknownName
from crdtmem.store.base import (
    BatchRecord,
    BootReport,
    Checkpoint,
    CheckpointWriter,
    LogRecord,
    Progress,
    Store,
    VerifyReport,
    content_digest,
)
from crdtmem.store.memory import MemoryStore, open_memory_store
from crdtmem.store.memory_disk import FaultPlan, MemoryDisk
from crdtmem.store.sqlite import SqliteStore

__all__ = [
    "ENGINES",
    "BatchRecord",
    "BootReport",
    "Checkpoint",
    "CheckpointWriter",
    "FaultPlan",
    "LogRecord",
    "MemoryDisk",
    "MemoryStore",
    "Progress",
    "Store",
    "VerifyReport",
    "content_digest",
    "open_memory_store",
    "open_store",
]

Engine = Callable[[str, str, bool], Store]
"""Takes the URL, what follows its scheme, and ``read_only``."""


def _open_sqlite(url: str, rest: str, read_only: bool) -> Store:
    path = rest.removeprefix("///")
    if not rest.startswith("///") or not path or path.endswith("/"):
        raise ConfigError(
            f"{url!r} names no file",
            hint="write sqlite:///relative/path.db or sqlite:////absolute/path.db",
        )
    return SqliteStore(url, Path(path), read_only=read_only)


def _open_memory(_url: str, rest: str, read_only: bool) -> Store:
    return open_memory_store(rest or None, read_only=read_only)


ENGINES: Mapping[str, Engine] = MappingProxyType({"sqlite": _open_sqlite, "memory": _open_memory})


def open_store(url: str, *, read_only: bool = False) -> Store:
    """Open, and unless ``read_only`` create, the store at ``url``; it is locked until closed.

    ``read_only`` opens an existing store for inspection: nothing is changed, writing
    methods raise ``StoreReadOnly``, and other readers may hold it too.

    Raises ``UnknownName`` for another scheme, ``ConfigError`` for a malformed URL,
    ``StoreLocked`` while another process holds it, ``StoreVersion`` for a newer format,
    ``StoreCorrupt``, ``StoreReadOnly``, ``StoreFull`` or ``StoreFailed``.
    """
    scheme, separator, rest = url.partition(":")
    engine = ENGINES.get(scheme) if separator else None
    if engine is None:
        raise UnknownName(
            f"no store engine for {url!r}",
            hint="known: " + ", ".join(f"{name}:" for name in sorted(ENGINES)),
        )
    return engine(url, rest, read_only)
