"""One translation from what an operating system or SQLite says to our tree of errors.

Problem: a full disk surfaces as ``SQLITE_FULL``, ``ENOSPC`` or ``EDQUOT`` depending
on which layer met it first, and an operator needs one word and one next step.

Idea: every engine wraps its I/O in ``translated``; the tables below are the whole
policy. What is not in them is a ``StoreFailed``: an unknown failure is treated as
the worst one, a commit whose fate is unknown.
"""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from crdtmem.errors import (
    StoreCorrupt,
    StoreError,
    StoreFailed,
    StoreFull,
    StoreLocked,
    StoreReadOnly,
)

__all__ = ["IO_ERRORS", "again", "store_error", "translated"]

_HINTS: dict[type[StoreError], str] = {
    StoreFull: "free space on the device, or raise the quota; then the store can be reopened",
    StoreReadOnly: "make the directory writable for this user, or give another store path",
    StoreLocked: "only one process may hold a store; stop the other one",
    StoreCorrupt: "keep the files; restore a backup, or start on an empty path: the node takes a "
    "new replica id and refetches from its peers",
    StoreFailed: "check the device and the kernel log; nothing is acknowledged until the store "
    "has been reopened and read back",
}

_MISSING = "create the directory (is its volume mounted?), or correct the path"

_HINTS_BY_ERRNO: dict[int, str] = {
    errno.ENOENT: _MISSING,
    errno.EROFS: "its file system is mounted read-only, perhaps after an error (see the kernel "
    "log): mount it for writing, or give another store path",
}

_BY_ERRNO: dict[int, type[StoreError]] = {
    errno.ENOSPC: StoreFull,
    errno.EDQUOT: StoreFull,
    errno.EFBIG: StoreFull,
    errno.EROFS: StoreReadOnly,
    errno.EACCES: StoreReadOnly,
    errno.EPERM: StoreReadOnly,
}

_BY_SQLITE: dict[int, type[StoreError]] = {
    sqlite3.SQLITE_FULL: StoreFull,
    sqlite3.SQLITE_READONLY: StoreReadOnly,
    sqlite3.SQLITE_PERM: StoreReadOnly,
    sqlite3.SQLITE_AUTH: StoreReadOnly,
    sqlite3.SQLITE_BUSY: StoreLocked,
    sqlite3.SQLITE_LOCKED: StoreLocked,
    sqlite3.SQLITE_CORRUPT: StoreCorrupt,
    sqlite3.SQLITE_NOTADB: StoreCorrupt,
}

IO_ERRORS = (OSError, sqlite3.Error, UnicodeDecodeError)
"""What I/O raises. The last: damaged text in SQLite's own messages and tables."""

# The low byte of an extended result code is its family.
_FAMILY = 0xFF


def store_error(error: Exception, doing: str, path: str) -> StoreError:
    """The member of our tree for ``error``, met while ``doing`` something to ``path``."""
    if isinstance(error, StoreError):
        return error
    kind: type[StoreError] = StoreFailed
    said = str(error)
    if isinstance(error, UnicodeDecodeError):
        kind = StoreCorrupt
    elif isinstance(error, OSError):
        kind = _BY_ERRNO.get(error.errno or 0, StoreFailed)
        said = error.strerror or said
    elif isinstance(error, sqlite3.Error):
        # Errors raised by the Python module itself carry no code.
        code = getattr(error, "sqlite_errorcode", None)
        if code is not None:
            kind = _BY_SQLITE.get(code & _FAMILY, StoreFailed)
            said = f"{said}, {error.sqlite_errorname}"
    hint = _HINTS_BY_ERRNO.get(getattr(error, "errno", None) or 0, _HINTS[kind])
    return kind(f"{doing} failed on {path}: {said}", hint=hint)


def again(error: StoreError) -> StoreError:
    """A fresh copy to raise, so that no traceback grows on an error that is kept."""
    return type(error)(error.message, hint=error.hint, **error.details)


@contextmanager
def translated(doing: str, path: str) -> Iterator[None]:
    """Run a block of I/O; raise what it raises as a ``StoreError``."""
    try:
        yield
    except IO_ERRORS as error:
        raise store_error(error, doing, path) from error
