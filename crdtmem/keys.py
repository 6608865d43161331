"""The key ring's file: what lets a node into its cluster, kept where only its owner reads it.

Problem: nodes that speak in the clear let anybody on the path in; and a key that an operator
has to invent, quote and distribute by hand ends up in a shell's history.

Idea: the ring is a file, written by ``crdtmem keyring generate`` or by the first node of a
cluster at its first start; the others are given a copy. The nodes rotate its keys among
themselves (see ``gossip.keyring``), and each rewrites its own file.

Rules:
1. A node that joins others is never given a ring of its own making: nobody would know it.
2. The file is written whole or not at all, durably, with mode 0600; one that others can read
   is refused, as ``ssh`` refuses such a key.
3. No error shows what is in it.
"""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path
from typing import BinaryIO, Final

from crdtmem.errors import ConfigError
from crdtmem.settings import Settings
from gossip.errors import KeyringError
from gossip.keyring import Keyring

__all__ = ["KEY_BYTES", "create_ring", "load_ring", "ring_path", "save_ring", "settle_ring"]

KEY_BYTES: Final = 32
_SQLITE: Final = "sqlite:///"


def ring_path(settings: Settings) -> Path | None:
    """Return where a node keeps its ring; ``None`` where its store is in memory."""
    if settings.mesh.keyring:
        return Path(settings.mesh.keyring)
    if settings.store.startswith(_SQLITE):
        return Path(settings.store.removeprefix(_SQLITE) + ".keys")
    return None


def settle_ring(settings: Settings) -> tuple[Keyring | None, bool]:
    """Return the ring that a node is to use, and whether it was made just now.

    ``None`` stands for plain text, which was asked for. Raises ``ConfigError``.
    """
    if settings.mesh.plain_text:
        return None, False
    path = ring_path(settings)
    if path is not None and path.exists():
        return load_ring(path), False
    if settings.join or settings.peers:
        where = f"at {path}" if path is not None else "named"
        raise ConfigError(
            f"this node is to join others, and there is no key ring {where}",
            hint="copy the key ring of a node of the cluster and name it: --keyring PATH",
        )
    if settings.mesh.keyring:
        raise ConfigError(
            f"there is no key ring at {path}", hint=f"make one: crdtmem keyring generate {path}"
        )
    if path is None:
        return Keyring([secrets.token_bytes(KEY_BYTES)]), True
    return create_ring(path), True


def create_ring(path: Path) -> Keyring:
    """Write a ring with one fresh key. Raises ``ConfigError``, also where there is one."""
    ring = Keyring([secrets.token_bytes(KEY_BYTES)])
    try:
        with open(path, "xb", opener=_private) as file:
            _write(file, ring.dump())
    except FileExistsError:
        raise ConfigError(
            f"there is a key ring at {path} already",
            hint="it may be in use: name another path, or remove it yourself",
        ) from None
    except OSError as error:
        raise _unwritable(path, error) from error
    return ring


def load_ring(path: Path) -> Keyring:
    """Return the ring of a file. Raises ``ConfigError``."""
    try:
        mode = path.stat().st_mode
        dumped = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"the key ring at {path} cannot be read: {error.strerror or error}",
            hint="it belongs to the user that runs the node",
        ) from error
    if stat.S_IMODE(mode) & 0o077:
        raise ConfigError(f"the key ring at {path} can be read by others", hint=f"chmod 600 {path}")
    try:
        return Keyring.load(dumped)
    except KeyringError as error:
        raise ConfigError(f"{path}: {error.args[0]}", hint=error.hint) from error


def save_ring(path: Path, dumped: bytes) -> None:
    """Replace a ring's file, durably, whole or not at all. Raises ``ConfigError``.

    Nodes of one machine may share the file: whoever writes last wrote the same.
    """
    beside = path.with_name(f"{path.name}.{secrets.token_hex(4)}.new")
    try:
        with open(beside, "xb", opener=_private) as file:
            _write(file, dumped)
        beside.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise _unwritable(path, error) from error


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _write(file: BinaryIO, content: bytes) -> None:
    file.write(content)
    file.flush()
    os.fsync(file.fileno())


def _unwritable(path: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"the key ring at {path} cannot be written: {error.strerror or error}",
        hint="the folder must be there, and writable for the user that runs the node",
    )
