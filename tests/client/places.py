"""What the tests of the client connect to: nodes, what lies between, and nodes that misbehave."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

from aiohttp import web

from crdtmem.asking import Handler
from crdtmem.client import Client, connect
from crdtmem.control import ControlServer
from crdtmem.control_frames import FrameDecoder
from crdtmem.control_path import SocketPath
from crdtmem.control_service import ControlService
from crdtmem.demo.link import Link
from crdtmem.limits import DEFAULT_LIMITS, Limits
from crdtmem.memory import Memory
from crdtmem.relay import LinkShape
from crdtmem.server.connection import Connections
from crdtmem.server.websocket import serve_socket
from crdtmem.verbs import memory_verbs, quick_verbs
from tests.node.processes import NodeProcess
from tests.waiting import eventually_answered

__all__ = ["Gate", "Pair", "pair_of_nodes", "serve", "service_of"]


class Gate:
    """A way to a node's Unix socket: answers can be swallowed, and all connections cut."""

    def __init__(self, path: Path, target: Path) -> None:
        self.url = f"unix://{path}"
        self.connections = 0
        self.swallowing = False
        self.forwarded = 0
        """Bytes of answers that were passed on."""
        self.limit = -1
        """So many bytes of answers more are passed on, then every connection is cut."""
        self.verbs: list[str] = []
        """What was asked, in order."""
        self._path = path
        self._target = target
        self._ends: list[asyncio.StreamWriter] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        """Let connections through, from now on."""
        self._server = await asyncio.start_unix_server(self._accept, self._path)

    def cut(self, count: int | None = None) -> None:
        """End all connections, or the ``count`` oldest; new ones are still let through."""
        for end in self._ends[: None if count is None else 2 * count]:
            end.transport.abort()

    async def shut(self) -> None:
        """End every connection and take no more: nobody listens any longer."""
        if self._server is not None:
            self._server.close()
            self._path.unlink(missing_ok=True)
            self._server = None
        self.cut()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._ends.append(writer)
        try:
            node_reader, node_writer = await asyncio.open_unix_connection(self._target)
        except OSError:
            writer.transport.abort()
            return
        self._ends.append(node_writer)
        for way in (
            self._carry(reader, node_writer, answers=False),
            self._carry(node_reader, writer, answers=True),
        ):
            task = asyncio.ensure_future(way)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool
    ) -> None:
        decoder = FrameDecoder(1 << 28)
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                if not answers:
                    decoder.feed(data)
                    while (frame := decoder.next_frame()) is not None:
                        self.verbs += [verb for _, verb, _ in frame[1]]
                else:
                    if self.swallowing:
                        continue
                    if 0 <= self.limit <= self.forwarded + len(data):
                        self.limit = -1
                        self.cut()
                        break
                    self.forwarded += len(data)
                writer.write(data)
                await writer.drain()
        writer.transport.abort()
        if writer in self._ends:
            self._ends.remove(writer)


class Pair:
    """Two nodes of one cluster, ``a`` and ``b``, in regions of their own, and what parts them."""

    def __init__(self, a: NodeProcess, b: NodeProcess, links: tuple[Link, Link]) -> None:
        self.a = a
        self.b = b
        self._links = links

    async def start(self, node: NodeProcess) -> None:
        """Start a node again that was killed; it listens elsewhere then."""
        await asyncio.to_thread(node.start)
        link = self._links[1] if node is self.a else self._links[0]
        port = int(node.ready["listen"].rpartition(":")[2])
        link.streams.port = link.datagrams.port = port

    def part(self) -> None:
        """Let nothing through between the two; both live on."""
        for link in self._links:
            link.cut()

    def join(self) -> None:
        """Let everything through again."""
        for link in self._links:
            link.heal()


@contextlib.asynccontextmanager
async def pair_of_nodes(folder: Path, *arguments: str) -> AsyncIterator[Pair]:
    """Yield two real nodes that are members of one cluster."""
    links = Link(LinkShape(), 1), Link(LinkShape(), 2)
    nodes = []
    try:
        for name, link in zip("ab", links, strict=True):
            await link.start()
            (folder / name).mkdir()
            other = "b" if name == "a" else "a"
            nodes.append(
                NodeProcess(
                    folder / name,
                    f"--region={name}",
                    f"--advertise={name}.test:7420",
                    f"--set=mesh.routes={other}.test:7420={link.address}",
                    "--set=reconnect.minimum_ms=20",
                    "--set=reconnect.maximum_ms=200",
                    *(["--join=a.test:7420"] if name == "b" else []),
                    *arguments,
                )
            )
        a, b = nodes
        for node, link in ((a, links[1]), (b, links[0])):
            await asyncio.to_thread(node.start)
            link.lead_to(int(node.ready["listen"].rpartition(":")[2]))
        await _both_are_members(a, b)
        yield Pair(a, b, links)
    finally:
        for node in nodes:
            await asyncio.to_thread(node.kill)
        for link in links:
            await link.close()


async def _both_are_members(*nodes: NodeProcess) -> None:
    for node in nodes:
        async with await connect(node.url) as client:

            async def admitted(client: Client = client) -> bool:
                status = await client.call("status", ())
                return bool(status["member"] and len(status["members"]) == len(nodes))

            await eventually_answered(admitted, "membership of both")


def service_of(
    memory: Memory,
    verbs: Mapping[str, Handler] | None = None,
    *,
    greeting: Callable[[dict[str, Any]], dict[str, Any]] = dict,
) -> ControlService:
    """Return a node's service over a memory; ``verbs`` replace the usual ones."""
    replaced = verbs or {}
    limits = {name: getattr(DEFAULT_LIMITS, name) for name in Limits.__slots__}
    return ControlService(
        {**memory_verbs(memory), **replaced},
        greeting=lambda: greeting(
            {"region": memory.region, "replica": memory.replica_id, "limits": limits}
        ),
        frame_bytes=limits["frame_bytes"],
        quick={k: quick for k, quick in quick_verbs(memory).items() if k not in replaced},
    )


@contextlib.asynccontextmanager
async def serve(service: ControlService, carrier: str, folder: Path) -> AsyncIterator[str]:
    """Serve over a ``unix`` socket or a ``websocket``; yield the URL."""
    if carrier == "unix":
        path = folder / "served.sock"
        server = ControlServer(SocketPath(str(path)), service)
        await server.start()
        try:
            yield f"unix://{path}"
        finally:
            await server.close()
        return

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        return await serve_socket(service, request)

    connections = Connections(
        handle,
        admission=service.admission,
        most_connections=256,
        receive_s=30.0,
        stalled_s=30.0,
    )
    runner = web.ServerRunner(connections, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    try:
        yield f"http://{host}:{port}"
    finally:
        await service.close()
        await runner.cleanup()
