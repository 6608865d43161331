"""The demo: three regions write at once, one is cut off, and nothing is lost.

Problem: "it converges" is easily said. Anyone should be able to see it happen, on their
own machine, with real processes, real sockets and real files, in twenty seconds; and
a program should be able to tell from the exit code whether it did.

Idea: ``run_demo`` starts a ``Cluster``, lets a ``Story`` unfold in it, and reports. The
demo has passed when all three digests are equal, all three regions list the same
conflicts, and no acknowledged write is missing anywhere.

Invariant: whatever ends it, no process and, unless asked to keep it, no file is left.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import signal
import tempfile
import time
from pathlib import Path
from typing import Final

from crdtmem.demo.agents import MEMORY
from crdtmem.demo.cluster import REGIONS, Cluster
from crdtmem.demo.picture import Picture
from crdtmem.demo.report import DemoOptions, DemoReport
from crdtmem.demo.story import Story
from crdtmem.errors import ConfigError, CrdtmemError, InvalidValue
from crdtmem.importer import Planned, read_events, transactions
from crdtmem.limits import DEFAULT_LIMITS

__all__ = ["DemoOptions", "DemoReport", "run_demo"]

_SOCKET_PATH_BYTES: Final = 100


async def run_demo(options: DemoOptions, picture: Picture) -> DemoReport:
    """Run the demo from start to verdict, and leave no process behind.

    Raises ``InvalidValue`` for an input that cannot be read (before anything is
    started), ``Unreachable`` when a node died, ``NotCovered`` when something did not
    come about in time.
    """
    planned = None if options.input is None else _read_input(options.input)
    folder = _make_folder()
    chance = random.Random(options.seed)  # noqa: S311 - a story, not a secret
    report = DemoReport(options.seed, chance.choice(REGIONS))
    began_s = time.monotonic()
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    loop.add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        with picture:
            async with Cluster(folder, options.seed) as cluster:
                await _watched(Story(cluster, picture, report, planned))
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
        if options.keep:
            report.data = str(folder)
        else:
            shutil.rmtree(folder, ignore_errors=True)
    report.elapsed_s = time.monotonic() - began_s
    return report


def _read_input(path: Path) -> list[Planned]:
    planned = list(transactions(read_events(path), MEMORY, DEFAULT_LIMITS))
    if not planned:
        raise InvalidValue(f"{path} holds no events", hint="give a file of JSON lines")
    return planned


def _make_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="crdtmem-demo-"))
    if len(str(folder / REGIONS[-1] / "sock").encode()) > _SOCKET_PATH_BYTES:
        folder.rmdir()
        raise ConfigError(
            f"{folder} is too long for the path of a Unix socket", hint="set TMPDIR=/tmp"
        )
    return folder


async def _watched(story: Story) -> None:
    """Run the story while somebody watches; a node that dies ends both."""
    try:
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(story.watch())
            await story.run()
            watching.cancel()
    except BaseExceptionGroup as group_error:
        raise _first_of_ours(group_error) from group_error


def _first_of_ours(error: BaseException) -> BaseException:
    """Return the error that a group of them is about: ours, if there is one."""
    while isinstance(error, BaseExceptionGroup):
        ours = error.subgroup(CrdtmemError)
        error = (ours or error).exceptions[0]
    return error
