"""Nodes in this process over real files and sockets, and what can happen to their files.

Problem: identity is a matter of files that were copied, rolled back or lost between two lives of
a node; a test must do that by hand, and look inside the node afterwards.

Idea: a ``Home`` is a folder, a port and a list of peers; ``start`` runs a node there, ``save`` and
``put_back`` are what careless backups do. Conditions are waited for, never times.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

from crdtmem.config import load_settings
from crdtmem.entries import pack_dot, unpack_dot
from crdtmem.memory import Memory
from crdtmem.node import Node
from tests.node.cluster import free_ports
from tests.waiting import eventually

__all__ = ["Home", "converged", "homes", "increments", "member"]


class Home:
    """Where one node lives, over several lives."""

    def __init__(self, folder: Path, name: str, listen: str, peers: Iterable[str]) -> None:
        self.folder = folder / name
        self.folder.mkdir()
        self.store = self.folder / "store.db"
        flags = {
            "region": name,
            "store": f"sqlite:///{self.store}",
            "listen": listen,
            "peers": tuple(peers),
            "control_socket": str(self.folder / "s"),
            "reconnect.minimum_ms": 10,
            "reconnect.maximum_ms": 50,
        }
        # Else one key ring would have to be handed from home to home.
        flags["mesh.plain_text"] = True
        self.settings = load_settings(None, {}, flags)
        self.node: Node | None = None

    @property
    def memory(self) -> Memory:
        assert self.node is not None
        return self.node.memory

    async def start(self) -> Memory:
        """Begin a life."""
        self.node = await Node.start(self.settings, tune_gc=False)
        return self.node.memory

    async def stop(self) -> None:
        """End it, cleanly."""
        node, self.node = self.node, None
        if node is not None:
            await node.stop()

    def save(self) -> dict[Path, bytes]:
        """Return the content of the store's files."""
        return {path: path.read_bytes() for path in self.folder.glob("store.db*")}

    def put_back(self, saved: dict[Path, bytes]) -> None:
        """Write saved content over the files in place: no witness on this machine can tell."""
        for path in self.folder.glob("store.db-wal*"):
            path.unlink()
        for path, content in saved.items():
            path.write_bytes(content)

    def alarms(self) -> list[str]:
        """Return the names of all alarms of this life."""
        return [alarm.name for alarm in self.memory.runtime.alarms]


@asynccontextmanager
async def homes(folder: Path, names: str) -> AsyncIterator[list[Home]]:
    """Yield one home per letter, none alive; each dials those before it."""
    addresses = [f"127.0.0.1:{port}" for port in free_ports(len(names))]
    made = [
        Home(folder, name, addresses[number], addresses[:number])
        for number, name in enumerate(names)
    ]
    try:
        yield made
    finally:
        for home in made:
            await home.stop()


async def member(home: Home, former: int = 0) -> int:
    """Wait until a node is a member, under another id than ``former``; return its id."""

    def settled() -> bool:
        engine = home.memory.engine
        return engine.epoch.is_member and engine.replica_id != former

    await eventually(settled, f"member {home.folder.name}")
    return home.memory.replica_id


async def converged(*alive: Home) -> None:
    """Wait until nodes have one vector and one digest."""

    def equal() -> bool:
        states = [home.memory.engine.state for home in alive]
        return all(
            (dict(state.vector), state.digest()) == (dict(states[0].vector), states[0].digest())
            for state in states[1:]
        )

    await eventually(equal, "equal digest")


async def increments(home: Home, count: int, name: str = "n") -> list[int]:
    """Increment a counter one by one; return the dots."""
    dots = []
    for _ in range(count):
        done = await home.memory.space("notes").counter(name).increment()
        dots.append(done.first)
    assert all(pack_dot(*unpack_dot(dot)) == dot for dot in dots)
    return dots
