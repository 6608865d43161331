"""The two services that are measured side by side: a node, and redis-server, one core each time.

Both run as processes of their own on the same core, with their data on the same disk; the
load comes from the other core. Redis is driven by its own redis-benchmark.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from crdtmem.errors import ConfigError
from tests.bench.clocks import pin
from tests.capabilities import ROOT
from tests.waiting import wait_until

__all__ = [
    "Answered",
    "Service",
    "Used",
    "a_node",
    "a_redis",
    "redis_benchmark",
    "require_redis",
]

_PROGRAMS = ("redis-server", "redis-benchmark")


@dataclass(frozen=True)
class Used:
    """Processor time of a service during a load, in seconds."""

    user_s: float
    system_s: float

    @property
    def total_s(self) -> float:
        """User and system time together."""
        return self.user_s + self.system_s


class Service:
    """A running process, and where it is reached: a path, and HOST:PORT for HTTP."""

    def __init__(self, pid: int, address: str, http: str = "") -> None:
        self.pid = pid
        self.address = address
        self.http = http
        self._process = psutil.Process(pid)
        self._before = self._times()

    def _times(self) -> Used:
        times = self._process.cpu_times()
        return Used(times.user, times.system)

    def reset(self) -> None:
        """Count from now on."""
        self._before = self._times()

    def used(self) -> Used:
        """Return what was used since ``reset``."""
        now, before = self._times(), self._before
        return Used(now.user_s - before.user_s, now.system_s - before.system_s)


def require_redis() -> None:
    """Raise ``ConfigError`` where the peer is not installed."""
    missing = [program for program in _PROGRAMS if shutil.which(program) is None]
    if missing:
        raise ConfigError(
            f"this benchmark measures beside {' and '.join(missing)}, which is not installed",
            hint="install it: 'apt-get install redis-server' on Debian; it need not run",
        )


@contextlib.contextmanager
def a_node(directory: Path, core: int) -> Iterator[Service]:
    """Run a node with a store in ``directory``, on one core."""
    socket = directory / "node.sock"
    command = [
        *(sys.executable, "-m", "crdtmem", "node", "--json", "--region=here"),
        *(f"--store=sqlite:///{directory}/store.db", f"--socket={socket}"),
        *("--listen=127.0.0.1:0", "--http=127.0.0.1:0", "--set=mesh.plain_text=true"),
    ]
    with _running(command, core, directory / "node.log") as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise RuntimeError((directory / "node.log").read_text())
        ready: dict[str, Any] = json.loads(line)
        yield Service(process.pid, str(socket), str(ready["http"]).removeprefix("http://"))


@contextlib.contextmanager
def a_redis(directory: Path, core: int, *, durable: bool) -> Iterator[Service]:
    """Run a redis-server in ``directory``, on one core; ``durable`` as durable as it can be."""
    socket = directory / "redis.sock"
    command = [
        *("redis-server", "--port", "0", "--unixsocket", str(socket), "--dir", str(directory)),
        *("--save", "", "--appendonly", "yes" if durable else "no", "--appendfsync", "always"),
    ]
    with _running(command, core, directory / "redis.log") as process:
        wait_until(lambda: socket.exists() or process.poll() is not None, "redis")
        if process.poll() is not None:
            raise RuntimeError((directory / "redis.log").read_text())
        yield Service(process.pid, str(socket))


@contextlib.contextmanager
def _running(command: list[str], core: int, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as said:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE if "--json" in command else said,
            stderr=said,
            preexec_fn=lambda: pin(core),
        )
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)
            if process.stdout is not None:
                process.stdout.close()


@dataclass(frozen=True)
class Answered:
    """What redis-benchmark says of one test."""

    per_s: float
    p50_ms: float
    p99_ms: float
    seconds: float


def redis_benchmark(
    redis: Service, core: int, test: str, *, clients: int, pipeline: int, requests: int, keys: int
) -> Answered:
    """Let redis-benchmark measure ``get`` or ``set``, from another core."""
    began_s = time.perf_counter()
    done = subprocess.run(
        [
            *("redis-benchmark", "-s", redis.address, "-t", test, "--csv", "-d", "3"),
            *("-c", str(clients), "-P", str(pipeline), "-n", str(requests), "-r", str(keys)),
        ],
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: pin(core),
    )
    (row,) = csv.DictReader(done.stdout.splitlines())
    return Answered(
        float(row["rps"]),
        float(row["p50_latency_ms"]),
        float(row["p99_latency_ms"]),
        time.perf_counter() - began_s,
    )
