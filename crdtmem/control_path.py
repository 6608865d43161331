"""The control socket's place in the file system: one owner, one node, no leftovers.

Problem: a socket file outlives the process that was killed, a second node must
not steal the first one's, and for a moment after ``bind`` a socket would be open
to everybody.

Idea: a lock file beside the socket, held as long as the node runs, decides who
may serve the path; whoever holds it may remove a socket that nobody listens
behind. The mode is set between ``bind`` and ``listen``, while connecting is still
impossible.

Invariants: at most one process serves a path; the socket is its owner's only
(0600); a file that is not a socket, or a socket that another program answers, is
never removed; releasing leaves neither socket nor lock.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
from pathlib import Path
from typing import Final

from crdtmem.errors import ConfigError, StoreReadOnly
from crdtmem.settings import Settings

__all__ = ["SocketPath", "control_path"]

_BACKLOG: Final = 128
_PATH_BYTES: Final = 107
_OWNER_ONLY: Final = 0o600


def control_path(settings: Settings) -> str:
    """Return where a node's control socket lies: as set, or else beside its store."""
    path = settings.store.removeprefix("sqlite:///")
    if settings.source_of("control_socket") != "default" or path == settings.store or not path:
        return settings.control_socket
    return str(Path(path).with_suffix(".sock"))


class SocketPath:
    """One path, claimed by one process at a time."""

    def __init__(self, path: str) -> None:
        self.path = Path(path).absolute()
        self._lock_path = self.path.with_name(self.path.name + ".lock")
        self._lock = -1
        self._bound = False

    def __str__(self) -> str:
        return str(self.path)

    def claim(self) -> socket.socket:
        """Return a bound and listening socket. Raises ``ConfigError``, ``StoreReadOnly``."""
        if len(os.fsencode(self.path)) > _PATH_BYTES:
            raise ConfigError(
                f"the control socket's path takes {len(os.fsencode(self.path))} bytes: {self.path}",
                hint=f"set control_socket to a path of at most {_PATH_BYTES} bytes",
            )
        try:
            self._take_lock()
            self._remove_stale()
            return self._bind()
        except OSError as error:
            self.release()
            if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
                raise StoreReadOnly(
                    f"the control socket {self.path} cannot be made: {error.strerror}",
                    hint="set control_socket to a path in a folder that this user may write",
                ) from error
            raise ConfigError(
                f"the control socket {self.path} cannot be made: {error.strerror}",
                hint="set control_socket to a path in an existing folder",
            ) from error
        except ConfigError:
            self.release()
            raise

    def release(self) -> None:
        """Remove the socket and let go of the path. Idempotent."""
        if self._lock < 0:
            return
        if self._bound:
            self.path.unlink(missing_ok=True)
            self._bound = False
        # The lock file goes while it is held: whoever waits for it then finds that its
        # name has another inode, or none, and looks again.
        self._lock_path.unlink(missing_ok=True)
        os.close(self._lock)
        self._lock = -1

    def _take_lock(self) -> None:
        while self._lock < 0:
            descriptor = os.open(
                self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _OWNER_ONLY
            )
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                held = os.fstat(descriptor)
                named = self._lock_path.stat()
            except BlockingIOError as error:
                os.close(descriptor)
                raise self._served() from error
            except FileNotFoundError:
                # Removed between opening and locking, by a node that was stopping.
                os.close(descriptor)
                continue
            if (held.st_dev, held.st_ino) == (named.st_dev, named.st_ino):
                self._lock = descriptor
            else:
                os.close(descriptor)

    def _served(self) -> ConfigError:
        return ConfigError(
            f"another node serves the control socket {self.path}",
            hint="stop it first, or give this node a control_socket of its own",
        )

    def _remove_stale(self) -> None:
        try:
            mode = self.path.lstat().st_mode
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(mode):
            raise ConfigError(
                f"{self.path} exists and is no socket", hint="set control_socket to another path"
            )
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(self.path))
            except ConnectionRefusedError:
                self.path.unlink()
                return
        raise self._served()

    def _bind(self) -> socket.socket:
        listening = socket.socket(socket.AF_UNIX)
        try:
            listening.bind(str(self.path))
            self._bound = True
            self.path.chmod(_OWNER_ONLY)
            listening.listen(_BACKLOG)
            listening.setblocking(False)
        except OSError:
            listening.close()
            raise
        return listening
