"""The few file operations that durability rests on, and the lock on a store.

Problem: two processes on one store would fork its identity; a file that was
created but whose directory was not fsynced may be gone after a power loss; and
after a failed fsync Linux marks the dirty pages clean, so what can be read back
may never have reached the disk.

Idea: ``StoreLock`` is an ``flock`` on a file of its own beside the store. It dies
with its process, so a ``kill -9`` leaves nothing to clean up, and the file, which
is never deleted, names its holder. ``rewrite_durably`` writes a file over itself:
only then does an fsync speak for every byte of it again.
The directory is fsynced after every create and rename.

Reading: Rebello et al., "Can Applications Recover from fsync Failures?", 2020.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from pathlib import Path

from crdtmem.errors import StoreLocked
from crdtmem.store.failures import translated

__all__ = ["StoreLock", "copy_durably", "create_private", "rewrite_durably", "sync_directory"]

# A replica's memory is nobody else's business: files are created for their owner only.
_PRIVATE = 0o600
_PIECE_BYTES = 1 << 20


class StoreLock:
    """An exclusive (writer) or shared (read-only) lock, held until ``release``."""

    def __init__(self, path: Path, *, shared: bool) -> None:
        """Take the lock file at ``path``. Raises ``StoreLocked`` naming the holder."""
        self._descriptor = -1
        with translated("taking the lock file", str(path)):
            try:
                self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _PRIVATE)
            except OSError as error:
                if not shared or error.errno not in (errno.EROFS, errno.EACCES):
                    raise
                # Where no lock file can be made, no writer can be either: read on without.
                return
            self._take(path, shared)

    def _take(self, path: Path, shared: bool) -> None:
        mode = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        try:
            fcntl.flock(self._descriptor, mode | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(self._descriptor, 32, 0).decode("ascii", "replace").strip()
            self.release()
            raise StoreLocked(
                f"{path} is held by another process",
                hint=f"stop process {holder or 'unknown'}, or go through its control socket",
                pid=int(holder) if holder.isdecimal() else None,
            ) from error
        if not shared:
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, f"{os.getpid()}\n".encode("ascii"), 0)

    def release(self) -> None:
        """Let go. Idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def sync_directory(path: Path) -> None:
    """Fsync the directory ``path``, so that its entries survive a power loss."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def create_private(path: Path) -> None:
    """Create an empty file, readable by its owner only, durably. It must not exist."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _PRIVATE))
    sync_directory(path.parent)


def copy_durably(source: Path, target: Path) -> None:
    """Copy the bytes of ``source`` to ``target``, replacing it atomically and durably."""
    partial = target.with_name(target.name + ".partial")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _PRIVATE)
    with open(descriptor, "wb") as written, open(source, "rb") as read:
        shutil.copyfileobj(read, written, _PIECE_BYTES)
        written.flush()
        os.fsync(written.fileno())
    partial.replace(target)
    sync_directory(target.parent)


def rewrite_durably(path: Path) -> None:
    """Make what can be read of ``path`` be what the disk holds, whatever fsync said before.

    Every byte is written over itself, which makes its page dirty again. In place, so that
    it needs no space; a crash in between leaves each page as it is read or as it was.
    """
    with open(path, "r+b", buffering=0) as file:
        position = 0
        while piece := os.pread(file.fileno(), _PIECE_BYTES, position):
            os.pwrite(file.fileno(), piece, position)
            position += len(piece)
        os.fsync(file.fileno())
