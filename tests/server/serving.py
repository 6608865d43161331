"""A real node in this process that serves HTTP, and two clients of it: a good one, and bytes."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import aiohttp
from yarl import URL

from crdtmem.config import load_settings
from crdtmem.exporting import from_json
from crdtmem.node import Node
from crdtmem.server import HttpFace, faces_of

__all__ = ["Answer", "Served", "Wire", "events_of", "run", "segment", "serving"]


_JSON = ("application/json", "application/problem+json")


class Answer(NamedTuple):
    """What came back: status, headers, and the body as a value where it is one."""

    status: int
    headers: dict[str, str]
    value: Any

    @property
    def code(self) -> str:
        """The stable code of a problem."""
        assert self.headers["content-type"] == "application/problem+json", self
        assert self.value["status"] == self.status
        return str(self.value["code"])


class Served:
    """A node with HTTP."""

    def __init__(self, node: Node, session: aiohttp.ClientSession) -> None:
        self.node = node
        self.session = session
        (face,) = node.faces
        assert isinstance(face, HttpFace)
        self.face = face
        self.base = face.url

    async def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: dict[str, str] | None = None,
        data: bytes | None = None,
    ) -> Answer:
        """Send one request; ``path`` as it goes over the wire, ``body`` as JSON."""
        named = dict(headers or {})
        if body is not None:
            data = json.dumps(body).encode()
            named.setdefault("Content-Type", "application/json")
        url = URL(self.base + path, encoded=True)
        sent = None if data is None else io.BytesIO(data)
        async with self.session.request(method, url, data=sent, headers=named) as answer:
            raw = await answer.read()
            kind = answer.headers.get("Content-Type", "")
            found = {name.lower(): value for name, value in answer.headers.items()}
            return Answer(answer.status, found, json.loads(raw) if raw and kind in _JSON else raw)

    async def good(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        """Send a request that must be carried out; return the value that was answered."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = await self.ask(method, path, body, named)
        assert answer.status == 200, answer
        return from_json(answer.value)

    async def wire(self) -> Wire:
        """Open a connection for bytes."""
        host, port = self.base.removeprefix("http://").rsplit(":", 1)
        return Wire(*await asyncio.open_connection(host, int(port)))


class Wire:
    """A connection, bytes, and no manners."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        """Send bytes."""
        self.writer.write(data)

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Read one answer: status, headers, body."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines if line)
        body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        return int(first.split()[1]), headers, body

    async def rest(self) -> bytes:
        """Read until the node closes the connection."""
        return await self.reader.read()

    async def close(self) -> None:
        """Leave."""
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


@contextlib.asynccontextmanager
async def serving(folder: Path, **flags: Any) -> AsyncIterator[Served]:
    """Yield a node with HTTP; flags are settings, with ``__`` for the dot."""
    given = {name.replace("__", "."): value for name, value in flags.items()}
    settings = load_settings(
        None,
        {},
        {
            "store": "memory:",
            "control_socket": str(folder / "node.sock"),
            "listen": "127.0.0.1:0",
            "mesh.plain_text": True,
            "http.listen": "127.0.0.1:0",
            **given,
        },
    )
    node = await Node.start(settings, tune_gc=False, faces=faces_of(settings))
    try:
        async with aiohttp.ClientSession() as session:
            yield Served(node, session)
    finally:
        await node.stop()


def run(folder: Path, scene: Callable[[Served], Awaitable[None]], **flags: Any) -> None:
    """Play a scene with a node of its own."""

    async def play() -> None:
        async with asyncio.timeout(50), serving(folder, **flags) as served:
            await scene(served)

    asyncio.run(play())


async def events_of(stream: aiohttp.StreamReader) -> AsyncIterator[dict[str, Any]]:
    """Yield the Server-Sent Events of a stream as ``{"event", "data", "id"}``."""
    event: dict[str, Any] = {}
    async for raw in stream:
        line = raw.decode().rstrip("\n")
        if not line and event:
            event["data"] = json.loads(event["data"])
            yield event
            event = {}
        elif line and not line.startswith(":"):
            name, _, value = line.partition(": ")
            event[name] = value


def segment(text: str) -> str:
    """Return a label or key as a path's segment."""
    return quote(text, safe="")
