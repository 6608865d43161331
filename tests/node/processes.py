"""Real nodes in real processes, for tests: started, asked, stopped, killed.

A node is forked from a server that has imported the program already, and then runs
the command line's own ``node``: a fresh interpreter would spend half a second on
imports, twenty times per test of kills. ``crdtmem`` starts fresh interpreters.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from multiprocessing.context import ForkServerProcess
from multiprocessing.reduction import DupFd
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.capabilities import ROOT

__all__ = ["NodeFailed", "NodeProcess", "crdtmem", "start_all"]

_READY_S = 20.0
_PRELOADED = ["crdtmem.node", "crdtmem.cli.node"]


def _serve(arguments: list[str], log: str, ready: Any) -> None:
    """Become ``crdtmem node``: output into the pipe, log into the file."""
    from crdtmem.cli import main

    os.dup2(ready.detach(), 1)
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), 2)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", closefd=False)
    main(["node", "--json", *arguments])


class NodeFailed(Exception):
    """A node that ended before it was ready: its exit code, and what it said."""

    def __init__(self, code: int, log: str) -> None:
        super().__init__(f"exit code {code}:\n{log}")
        self.code = code


class NodeProcess:
    """A node in a folder of its own: ``store.db``, ``node.sock`` and ``log`` lie there."""

    def __init__(
        self, folder: Path, *arguments: str, listen: str = "127.0.0.1:0", sealed: bool = False
    ) -> None:
        self.folder = folder
        self.store = f"sqlite:///{folder}/store.db"
        self.socket = folder / "node.sock"
        self.url = f"unix://{self.socket}"
        self.ready: dict[str, Any] = {}
        self.arguments = [
            f"--store={self.store}",
            f"--control-socket={self.socket}",
            f"--listen={listen}",
            *([] if sealed else ["--set=mesh.plain_text=true"]),
            *arguments,
        ]
        self._process: ForkServerProcess | None = None
        self._output = -1

    @property
    def pid(self) -> int:
        """The process that runs now."""
        assert self._process is not None
        assert self._process.pid is not None
        return self._process.pid

    def start(self) -> Self:
        """Start it, and return when it is ready; raises ``NodeFailed`` if it ends instead."""
        self.launch()
        return self.await_ready()

    def launch(self) -> None:
        """Start it."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(_PRELOADED)
        self._output, end = os.pipe()
        log = str(self.folder / "log")
        self._process = context.Process(target=_serve, args=(self.arguments, log, _Handed(end)))
        self._process.start()
        os.close(end)

    def await_ready(self) -> Self:
        """Return when it is ready; raises ``NodeFailed`` if it ends instead."""
        said: dict[str, Any] = {}
        line = self._first_line()
        if line:
            said = json.loads(line)
        if "ready" not in said:
            if not line and select.select([self._output], [], [], 0)[0] == []:
                self.signal(signal.SIGKILL)
            raise NodeFailed(self.wait(), line or self.log())
        self.ready = said
        return self

    def _first_line(self) -> str:
        deadline = time.monotonic() + _READY_S
        line = b""
        while not line.endswith(b"\n"):
            left = max(0.0, deadline - time.monotonic())
            if not select.select([self._output], [], [], left)[0]:
                return ""
            data = os.read(self._output, 4096)
            if not data:
                return ""
            line += data
        return line.decode()

    def log(self) -> str:
        """Return what it has logged."""
        return (self.folder / "log").read_text()

    def signal(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once, by SIGKILL."""
        self.end(signal.SIGKILL)

    def stop(self) -> int:
        """End it gracefully, by SIGTERM; return its exit code."""
        return self.end(signal.SIGTERM)

    def end(self, number: int) -> int:
        """Send a signal, and wait for the end; 0 if it does not run."""
        if self._process is None:
            return 0
        self.signal(number)
        return self.wait()

    def wait(self) -> int:
        """Wait for the end; return the exit code, or the signal's number below zero."""
        process, self._process = self._process, None
        assert process is not None
        process.join(_READY_S)
        code = process.exitcode
        assert code is not None, "it does not end"
        process.close()
        os.close(self._output)
        return code

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()


class _Handed:
    """A descriptor on its way to another process."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __reduce__(self) -> Any:
        return _received, (DupFd(self._descriptor),)


def _received(handed: Any) -> Any:
    return handed


def start_all(nodes: Sequence[NodeProcess]) -> None:
    """Start several nodes at once."""
    for node in nodes:
        node.launch()
    for node in nodes:
        node.await_ready()


def crdtmem(
    *arguments: str, cwd: Path | None = None, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command line in a fresh interpreter, and return what came of it."""
    return subprocess.run(
        [sys.executable, "-m", "crdtmem", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd or ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | (environment or {}),
        check=False,
        timeout=60,
    )
