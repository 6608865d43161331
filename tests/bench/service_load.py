"""A load generator that is not the bottleneck: bytes made beforehand, answers counted by frames.

Problem: a client in Python that encodes requests and decodes answers costs more than the node
that it is to measure.

Idea: everything that will be sent is encoded before the clock starts, and sent again and again.
Of the answers only what is needed is looked at: where each ends, how many messages it holds
(two bytes of its header), and that it is as long as a right answer is, or begins as one does.
Each client sends a request, waits until all of its answers have come, and sends the next, as
redis-benchmark does with its pipelines. One ``epoll`` serves them all.

Run as ``python -m tests.bench.service_load CORE``, with a ``Load`` as JSON on standard input;
it prints what it saw as JSON.
"""

from __future__ import annotations

import json
import resource
import select
import socket
import sys
import time
from array import array
from base64 import b64decode, b64encode
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import psutil

from tests.bench.clocks import pin

__all__ = ["COUNTERS", "Load", "Seen", "drive", "main"]

_READ_BYTES = 1 << 18


@dataclass(frozen=True)
class Load:
    """What is sent, by how many clients, for how long.

    ``requests`` are sent in turn, each by whichever client is ready: ``operations`` and
    ``messages`` are how many of either one of them holds. ``upgrade`` is sent first by each
    client, and answered by a head of HTTP; then ``greeting``, answered by one message.
    ``protocol`` is ``control``, ``websocket`` or ``http``. A right answer begins with
    ``begins`` and has ``message_bytes``, where that is not 0.
    """

    protocol: str
    address: str
    greeting: bytes
    requests: list[bytes]
    operations: int
    messages: int
    clients: int
    seconds: float
    begins: bytes
    message_bytes: int = 0
    upgrade: bytes = b""

    def to_json(self) -> str:
        """Return it as JSON, bytes in Base64."""
        plain = asdict(self)
        for name in ("greeting", "begins", "upgrade"):
            plain[name] = b64encode(plain[name]).decode()
        plain["requests"] = [b64encode(request).decode() for request in self.requests]
        return json.dumps(plain)

    @classmethod
    def from_json(cls, text: str) -> Load:
        """Return what ``to_json`` made text of."""
        plain = json.loads(text)
        for name in ("greeting", "begins", "upgrade"):
            plain[name] = b64decode(plain[name])
        plain["requests"] = [b64decode(request) for request in plain["requests"]]
        return cls(**plain)


@dataclass(frozen=True)
class Seen:
    """What came of a load: counts, times, and the latencies of requests in milliseconds.

    ``before`` are the operations of the warm-up, which count for nothing else; ``cpu_s`` is
    this process's time of a processor, ``machine_s`` that of everybody on this machine.
    """

    operations: int
    errors: int
    seconds: float
    cpu_s: float
    machine_s: float
    p50_ms: float
    p99_ms: float
    before: int

    @classmethod
    def from_json(cls, text: str) -> Seen:
        """Return what ``main`` printed."""
        return cls(**json.loads(text))


class _Counter(Protocol):
    """Finds the ends of answers in a stream of bytes."""

    def count(self, data: bytes) -> tuple[int, int]:
        """Take in bytes; return how many answers they complete, and how many of them are wrong."""


class _Frames:
    """Answers as the Unix socket carries them: see ``control_frames``."""

    def __init__(self, load: Load) -> None:
        self._rest = b""
        self._begins = load.begins
        self._message_bytes = load.message_bytes

    def payload(self, data: bytes, at: int) -> tuple[int, int] | None:
        """Return where the next payload begins and ends, if its header is complete."""
        if len(data) < at + 4:
            return None
        return at + 4, at + 4 + int.from_bytes(data[at : at + 4], "big")

    def count(self, data: bytes) -> tuple[int, int]:
        """Take in bytes; return how many answers they complete, and how many of them are wrong."""
        if self._rest:
            data = self._rest + data
        at = answers = wrong = 0
        begins, message_bytes = self._begins, self._message_bytes
        while (span := self.payload(data, at)) is not None and span[1] <= len(data):
            start, end = span
            # An array of up to 15 messages, or of more.
            first = data[start]
            if first < 0xDC:
                held, start = first & 0x0F, start + 1
            else:
                held, start = data[start + 1] << 8 | data[start + 2], start + 3
            answers += held
            fine = data.startswith(begins, start)
            if not fine or (message_bytes and end - start != held * message_bytes):
                wrong += held
            at = end
        self._rest = data[at:]
        return answers, wrong


class _WebSocketFrames(_Frames):
    """Answers as a WebSocket carries them, none of them in pieces."""

    def payload(self, data: bytes, at: int) -> tuple[int, int] | None:
        """Return where the next payload begins and ends, if its header is complete."""
        if len(data) < at + 2:
            return None
        size = {126: 2, 127: 8}.get(data[at + 1], 0)
        start = at + 2 + size
        if len(data) < start:
            return None
        length = int.from_bytes(data[at + 2 : start], "big") if size else data[at + 1]
        return start, start + length


class _Responses:
    """Answers as HTTP/1.1 carries them, with a length each."""

    def __init__(self, load: Load) -> None:
        self._rest = b""
        self._begins = load.begins

    def count(self, data: bytes) -> tuple[int, int]:
        """Take in bytes; return how many answers they complete, and how many of them are wrong."""
        if self._rest:
            data = self._rest + data
        at = answers = wrong = 0
        while (head := data.find(b"\r\n\r\n", at)) >= 0:
            line = data.find(b"Content-Length: ", at, head)
            length = 0 if line < 0 else int(data[line + 16 : data.index(b"\r\n", line)])
            end = head + 4 + length
            if end > len(data):
                break
            answers += 1
            wrong += not data.startswith(self._begins, at)
            at = end
        self._rest = data[at:]
        return answers, wrong


COUNTERS: dict[str, Any] = {
    "control": _Frames,
    "websocket": _WebSocketFrames,
    "http": _Responses,
}
"""What finds the ends of answers, by protocol."""


class _Client:
    """One connection, and what it waits for."""

    def __init__(self, load: Load) -> None:
        self.socket = _connected(load.address)
        self.counter: _Counter = COUNTERS[load.protocol](load)
        if load.upgrade:
            self.socket.sendall(load.upgrade)
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += self.socket.recv(_READ_BYTES)
        if load.greeting:
            self.socket.sendall(load.greeting)
            while not self.counter.count(self.socket.recv(_READ_BYTES))[0]:
                continue
        self.socket.setblocking(False)
        self.missing = 0
        self.sent_at_s = 0.0
        self.unsent = b""


def _connected(address: str) -> socket.socket:
    """Connect to a path, or to HOST:PORT."""
    if address.startswith("/"):
        made = socket.socket(socket.AF_UNIX)
        made.connect(address)
        return made
    host, _, port = address.rpartition(":")
    made = socket.create_connection((host, int(port)))
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made


class _Driver:
    """Keeps all clients busy until the time is up, and then until all have been answered."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._clients = {client.socket.fileno(): client for client in _clients(load)}
        self._poll = select.epoll()
        for number in self._clients:
            self._poll.register(number, select.EPOLLIN)
        self._next = 0
        self._busy = 0
        self.latencies_s = array("d")
        self.answers = 0
        self.wrong = 0

    def _send(self, client: _Client) -> None:
        requests = self._load.requests
        data = requests[self._next % len(requests)]
        self._next += 1
        self._busy += 1
        client.missing = self._load.messages
        client.sent_at_s = time.perf_counter()
        self._write(client, data)

    def _write(self, client: _Client, data: bytes) -> None:
        try:
            sent = client.socket.send(data)
        except BlockingIOError:
            sent = 0
        client.unsent = data[sent:]
        if client.unsent:
            self._poll.modify(client.socket.fileno(), select.EPOLLIN | select.EPOLLOUT)

    def run(self, until_s: float) -> None:
        """Let every client ask, again and again, until then."""
        for client in self._clients.values():
            self._send(client)
        while self._busy:
            for number, event in self._poll.poll():
                client = self._clients[number]
                if event & select.EPOLLOUT and client.unsent:
                    self._write(client, client.unsent)
                    if not client.unsent:
                        self._poll.modify(number, select.EPOLLIN)
                if event & (select.EPOLLIN | select.EPOLLHUP):
                    self._receive(client, until_s)

    def _receive(self, client: _Client, until_s: float) -> None:
        data = client.socket.recv(_READ_BYTES)
        if not data:
            raise ConnectionError("the service ended a connection under load")
        answers, wrong = client.counter.count(data)
        self.answers += answers
        self.wrong += wrong
        client.missing -= answers
        if client.missing <= 0:
            now_s = time.perf_counter()
            self.latencies_s.append(now_s - client.sent_at_s)
            self._busy -= 1
            if now_s < until_s:
                self._send(client)

    def close(self) -> None:
        """End all connections."""
        self._poll.close()
        for client in self._clients.values():
            client.socket.close()


def _clients(load: Load) -> list[_Client]:
    return [_Client(load) for _ in range(load.clients)]


def drive(load: Load) -> Seen:
    """Carry out a load, after a tenth of it to warm up."""
    driver = _Driver(load)
    driver.run(time.perf_counter() + load.seconds / 10)
    before = driver.answers
    driver.answers = driver.wrong = 0
    del driver.latencies_s[:]
    began_s, cpu_s, machine_s = time.perf_counter(), _cpu_s(), _machine_s()
    driver.run(began_s + load.seconds)
    seconds = time.perf_counter() - began_s
    cpu_s, machine_s = _cpu_s() - cpu_s, _machine_s() - machine_s
    driver.close()
    latencies_s = sorted(driver.latencies_s)
    return Seen(
        operations=driver.answers * load.operations // load.messages,
        errors=driver.wrong,
        seconds=seconds,
        cpu_s=cpu_s,
        machine_s=machine_s,
        p50_ms=1e3 * latencies_s[len(latencies_s) // 2],
        p99_ms=1e3 * latencies_s[len(latencies_s) * 99 // 100],
        before=before * load.operations // load.messages,
    )


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _machine_s() -> float:
    """Return for how long processors of this machine have been busy, added up."""
    times = psutil.cpu_times()
    # What guests and interrupts take is within the others, or is nobody's here.
    return float(times.user + times.nice + times.system)


def main() -> None:
    """Carry out the load that standard input describes."""
    pin(int(sys.argv[1]))
    print(json.dumps(asdict(drive(Load.from_json(sys.stdin.read())))))


if __name__ == "__main__":
    main()
