"""Three regions on one machine: real processes, real sockets, and links that can be cut.

Problem: to show what a partition does, there has to be one: between processes that
share nothing but a network, at distances like those between continents, in a way that
needs no rights on the machine and leaves nothing behind.

Idea: each region is a ``crdtmem node`` in a process of its own, with its store in a
folder of its own. The first founds the cluster, the others are told to join it, and all
else they tell each other. Each advertises a name that leads nowhere; what leads there is a
``Link`` per pair and direction, with the latency between them (``mesh.routes``). Cutting a
region off makes its links silent; every process and every socket lives on. What goes over
them is sealed with a key ring that is made for this cluster.

Invariants: whatever ends the demo ends the nodes (see ``child``); every wait has a
deadline, and ends at once when a node has died; a region is written to and read from
through its own node's control socket only.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from crdtmem.client import Client, connect
from crdtmem.demo.link import Link
from crdtmem.errors import CrdtmemError, NotCovered, Unreachable
from crdtmem.keys import create_ring
from crdtmem.relay import LinkShape
from crdtmem.settings import parse_address

__all__ = ["LINKS", "REGIONS", "Cluster", "RegionNode", "until"]

T = TypeVar("T")

REGIONS: Final = ("eu-west", "us-east", "ap-south")

LINKS: Final[Mapping[tuple[str, str], LinkShape]] = {
    ("us-east", "eu-west"): LinkShape(latency_ms=40, jitter_ms=4),
    ("ap-south", "eu-west"): LinkShape(latency_ms=80, jitter_ms=8),
    ("ap-south", "us-east"): LinkShape(latency_ms=110, jitter_ms=10),
}
"""The links between two regions each, with one-way latencies as across oceans."""

_START_S: Final = 30.0
_STOP_S: Final = 10.0
_DEATH_S: Final = 1.0
_PAUSE_S: Final = 0.05
_LOG_TAIL_CHARACTERS: Final = 2_000


async def until(condition: Callable[[], Awaitable[T | None]], what: str, *, timeout_s: float) -> T:
    """Return the first result of ``condition`` that is true; raises ``NotCovered`` too late."""
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + timeout_s
    while not (result := await condition()):
        if loop.time() > deadline_s:
            raise NotCovered(
                f"after {timeout_s:.0f} s there was still no {what}",
                hint="is the machine overloaded? the nodes' logs are kept with --keep",
            )
        await asyncio.sleep(_PAUSE_S)
    return result


def _advertised(region: str) -> str:
    """Return where a region's node says that it can be reached: a name for the routes only."""
    return f"{region}.demo:7420"


def _import_path() -> list[str]:
    """Return where a child process finds this very program."""
    inherited = os.environ.get("PYTHONPATH")
    return [str(Path(__file__).parents[2]), *([inherited] if inherited else [])]


class RegionNode:
    """One region: its process, its folder, and a client that watches it."""

    def __init__(self, region: str, folder: Path) -> None:
        self.region = region
        self.folder = folder / region
        self.ready: dict[str, Any] = {}
        self.process: asyncio.subprocess.Process | None = None
        self.watcher: Client | None = None

    @property
    def url(self) -> str:
        """The node's control socket."""
        return str(self.ready["control"])

    @property
    def client(self) -> Client:
        """The client that reads and asks for the status. The agents have their own."""
        assert self.watcher is not None, "the node has not started"
        return self.watcher

    async def start(
        self, peers: Sequence[str] = (), given: Mapping[str, Any] | None = None
    ) -> None:
        """Start the process, and wait for its readiness line. Raises ``Unreachable``.

        ``given`` are more settings; without any it speaks plain text.
        """
        # It is there already where a node is started again.
        self.folder.mkdir(exist_ok=True)
        settings = {
            "region": self.region,
            "node_name": f"{self.region}-1",
            "cluster": "demo",
            "store": f"sqlite:///{self.folder / 'memory.db'}",
            "control_socket": str(self.folder / "sock"),
            "listen": "127.0.0.1:0",
            "peers": ",".join(peers),
            "reconnect": {"minimum_ms": 50, "maximum_ms": 500},
            **(given or {"mesh": {"plain_text": True}}),
        }
        with (self.folder / "node.log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable,
                # Not what happens to lie in the current folder, but the program that runs here.
                "-P",
                "-m",
                "crdtmem.demo.child",
                json.dumps(settings),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(_import_path())},
                # An interrupt at the terminal is the demo's to handle, in order.
                start_new_session=True,
            )
        assert self.process.stdout is not None
        try:
            async with asyncio.timeout(_START_S):
                line = await self.process.stdout.readline()
        except TimeoutError as error:
            raise Unreachable(f"{self.region} did not start in time", hint=self.tail()) from error
        if not line:
            await self.process.wait()
            self.check()
        self.ready = json.loads(line)

    def check(self) -> None:
        """Raise ``Unreachable`` when the process has ended."""
        if self.process is not None and self.process.returncode is not None:
            raise Unreachable(
                f"the node of {self.region} ended with status {self.process.returncode}",
                hint=self.tail(),
            )

    def tail(self) -> str:
        """Return the end of the node's log."""
        log = self.folder / "node.log"
        text = log.read_text(errors="replace") if log.exists() else ""
        return f"its log ends with: {text[-_LOG_TAIL_CHARACTERS:].strip() or 'nothing'}"

    async def status(self) -> dict[str, Any]:
        """Return what ``crdtmem status`` shows. Raises ``Unreachable``."""
        self.check()
        answer: dict[str, Any] = await self.client.call("status", ())
        return answer

    async def members(self) -> dict[str, str]:
        """Return how the node sees each node of the cluster. Raises ``Unreachable``."""
        self.check()
        rows: list[dict[str, Any]] = await self.client.call("members", ())
        return {row["node"] or row["replica"]: row["state"] for row in rows}

    async def stop(self) -> None:
        """Stop the process, gently and then not. Idempotent."""
        if self.watcher is not None:
            await self.watcher.close()
        process = self.process
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            try:
                async with asyncio.timeout(_STOP_S):
                    await process.wait()
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()


class Cluster:
    """Three nodes and the links between them. Use ``async with``."""

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self.nodes = {region: RegionNode(region, folder) for region in REGIONS}
        both_ways = [
            (pair, shape)
            for (one, other), shape in LINKS.items()
            for pair in ((one, other), (other, one))
        ]
        self.links = {
            pair: Link(shape, seed + number) for number, (pair, shape) in enumerate(both_ways)
        }
        """By (from where, to where)."""
        self.cut_region: str | None = None
        self._ring = folder / "keys"

    async def __aenter__(self) -> Cluster:
        try:
            await self._start()
        except BaseException as error:
            await self._end(error)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: Any
    ) -> None:
        await self._end(error)

    async def _end(self, error: BaseException | None) -> None:
        """Stop; where a node had died, say that instead of what its clients noticed."""
        try:
            if isinstance(error, CrdtmemError | BaseExceptionGroup):
                await self._name_the_dead()
        finally:
            await self.stop()

    async def _name_the_dead(self) -> None:
        processes = [node.process for node in self.nodes.values() if node.process is not None]
        ends = [asyncio.create_task(process.wait()) for process in processes]
        if ends:
            # A client notices a broken socket a moment before the death is reported.
            await asyncio.wait(ends, timeout=_DEATH_S, return_when=asyncio.FIRST_COMPLETED)
        for end in ends:
            end.cancel()
        for node in self.nodes.values():
            node.check()

    async def _start(self) -> None:
        create_ring(self._ring)
        for link in self.links.values():
            await link.start()
        async with asyncio.TaskGroup() as group:
            for region in REGIONS:
                group.create_task(self._start_one(region))
        await until(self._all_are_members, "membership of all three regions", timeout_s=_START_S)

    async def _start_one(self, region: str) -> None:
        """Start a region's node; from its readiness on, all links lead to it."""
        node = self.nodes[region]
        routes = [
            f"{_advertised(there)}={link.address}"
            for (here, there), link in self.links.items()
            if here == region
        ]
        await node.start(
            (),
            {
                "advertise": _advertised(region),
                # Whoever names nobody founds: one only, so that there is one cluster.
                "join": "" if region == REGIONS[0] else _advertised(REGIONS[0]),
                # Across oceans an answer takes longer than the pace for one machine allows.
                "mesh": {"keyring": str(self._ring), "profile": "lan", "routes": ",".join(routes)},
            },
        )
        node.watcher = await connect(node.url, retry=False)
        port = parse_address(node.ready["listen"])[1]
        for (_, there), link in self.links.items():
            if there == region:
                link.lead_to(port)

    async def _all_are_members(self) -> bool:
        statuses = [await node.status() for node in self.nodes.values()]
        return all(
            status["member"] and len(status["members"]) == len(REGIONS) for status in statuses
        )

    def cut(self, region: str) -> None:
        """Cut a region off: its links go silent, in both directions."""
        self.cut_region = region
        for pair, link in self.links.items():
            if region in pair:
                link.cut()

    def heal(self) -> None:
        """Let every link through again."""
        self.cut_region = None
        for link in self.links.values():
            link.heal()

    async def members(self) -> dict[str, dict[str, str]]:
        """Return how every node sees all of them, by region."""
        found = await asyncio.gather(*(node.members() for node in self.nodes.values()))
        return dict(zip(self.nodes, found, strict=True))

    async def statuses(self) -> dict[str, dict[str, Any]]:
        """Return every node's status, by region."""
        found = await asyncio.gather(*(node.status() for node in self.nodes.values()))
        return dict(zip(self.nodes, found, strict=True))

    async def stop(self) -> None:
        """Stop every node and every link. Idempotent."""
        await asyncio.gather(*(node.stop() for node in self.nodes.values()))
        for link in self.links.values():
            await link.close()
