"""A README that is run: every command, snippet and file of it, in order.

Problem: documentation rots where nobody runs it, and it is what is read first.

Idea: fenced blocks are a small script. They run from top to bottom in one
empty folder, whose ``.venv`` is this environment, so that the reader's commands
work as they are printed. The info string after the fence says what a block is:

===========================  ===================================================
```` ```console ````         lines after ``$ `` are commands, what follows one is
                             its output: JSON must have the shown keys and types,
                             anything else the shown lines (``...`` for what varies)
```` ```bash ````            every line is a command; ``\\`` continues one
```` ```bash background ```` the commands are started, awaited until they have
                             printed a line, and stopped in the end by SIGTERM,
                             upon which they must leave with status 0
```` ```python ````          one script, run on its own
```` ```toml file=NAME ````  a file, written as shown (any of toml, json, text)
```` ```text ````            not run; also ``json`` and ``toml`` without ``file=``
===========================  ===================================================

A block of any other kind is an error: a typing mistake may not switch a test
off. The two set-up lines, by their exact text, are left to ``.ci/run``, which
runs them from a fresh clone.
"""

from __future__ import annotations

import contextlib
import doctest
import json
import os
import re
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tests.waiting import wait_until

__all__ = ["SET_UP_LINES", "Block", "ReadmeFailure", "blocks", "commands", "run_readme"]

SET_UP_LINES = (
    "python3 -m venv .venv && .venv/bin/pip install -q . && .venv/bin/crdtmem demo",
    ".venv/bin/pip install -q '.[test]' && .venv/bin/pytest -q",
)

_SHOWN_ONLY = frozenset({"text", "json", "toml"})
_COMMAND_TIMEOUT_S = 60
_STOP_TIMEOUT_S = 15


class ReadmeFailure(AssertionError):
    """Something in the README is not so; the message names its line."""


class Block(NamedTuple):
    """One fenced block."""

    line: int
    """Number of the line of its opening fence."""
    language: str
    marks: tuple[str, ...]
    """What follows the language: ``background``, ``file=NAME``."""
    text: str


class Command(NamedTuple):
    """One command of a block, and the output shown below it (``""``: none is shown)."""

    line: int
    text: str
    shown: str


def blocks(text: str) -> Iterator[Block]:
    """Yield the fenced blocks of a Markdown text. Raises ``ReadmeFailure`` for an open fence."""
    opening: tuple[int, str, str] | None = None
    body: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        fence = re.match(r"\s*(`{3,})\s*(.*?)\s*$", line)
        if opening is None:
            if fence is not None:
                opening, body = (number, fence[1], fence[2]), []
        elif fence is not None and len(fence[1]) >= len(opening[1]) and not fence[2]:
            language, *marks = opening[2].split() or [""]
            yield Block(opening[0], language, tuple(marks), "".join(f"{row}\n" for row in body))
            opening = None
        else:
            body.append(line)
    if opening is not None:
        raise ReadmeFailure(f"line {opening[0]}: this fence is never closed")


def commands(block: Block) -> list[Command]:
    """Return the commands of a ``bash`` or ``console`` block, without comments."""
    found: list[Command] = []
    continued = False
    for number, line in enumerate(block.text.splitlines(), block.line + 1):
        is_command = block.language == "bash" or line.startswith("$ ")
        text = line.removeprefix("$ ") if block.language == "console" else line
        if continued:
            last = found[-1]
            found[-1] = last._replace(text=f"{last.text[:-1]}{text.removeprefix('> ').lstrip()}")
        elif is_command and text.strip() and not text.lstrip().startswith("#"):
            found.append(Command(number, text, ""))
        elif not is_command:
            if not found:
                raise ReadmeFailure(f"line {number}: output before the first `$ `")
            found[-1] = found[-1]._replace(shown=f"{found[-1].shown}{line}\n")
        continued = bool(found) and found[-1].text.endswith("\\")
    return found


def run_readme(text: str, folder: Path) -> int:
    """Run every block of ``text`` in ``folder``; return how many commands and snippets ran.

    Raises ``ReadmeFailure``, naming the line, for the first thing that is not so.
    """
    (folder / ".venv").symlink_to(sys.prefix)
    environment = {
        **os.environ,
        "PATH": f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(folder),
        "COLUMNS": "100",
        "NO_COLOR": "1",
    }
    ran = 0
    with contextlib.ExitStack() as background:
        for block in blocks(text):
            ran += _run_block(block, folder, environment, background)
    return ran


def _run_block(
    block: Block, folder: Path, environment: Mapping[str, str], background: contextlib.ExitStack
) -> int:
    files = [mark.removeprefix("file=") for mark in block.marks if mark.startswith("file=")]
    unknown = [mark for mark in block.marks if mark != "background" and mark[:5] != "file="]
    is_background = "background" in block.marks
    if unknown or (is_background and block.language not in {"bash", "console"}):
        raise ReadmeFailure(f"line {block.line}: block marked {' '.join(block.marks)!r}")
    for name in files:
        (folder / name).write_text(block.text, encoding="utf-8")
    if files or block.language in _SHOWN_ONLY:
        return 0
    if block.language == "python":
        script = folder / f"snippet_{block.line}.py"
        script.write_text(block.text, encoding="utf-8")
        _run(block.line, [sys.executable, script.name], folder, environment)
        return 1
    if block.language not in {"bash", "console"}:
        raise ReadmeFailure(f"line {block.line}: a block of unknown kind {block.language!r}")
    found = [command for command in commands(block) if command.text not in SET_UP_LINES]
    for command in found:
        if is_background:
            background.enter_context(_running(command, folder, environment))
        else:
            shell = ["bash", "-euo", "pipefail", "-c", command.text]
            _compare(command, _run(command.line, shell, folder, environment))
    return len(found)


def _run(line: int, arguments: list[str], folder: Path, environment: Mapping[str, str]) -> str:
    try:
        done = subprocess.run(
            arguments,
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=_COMMAND_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ReadmeFailure(f"line {line}: still running after {_COMMAND_TIMEOUT_S} s") from error
    if done.returncode != 0:
        raise ReadmeFailure(
            f"line {line}: {arguments[-1]!r} left with status {done.returncode}\n"
            f"{done.stdout}{done.stderr}"
        )
    return done.stdout


@contextlib.contextmanager
def _running(command: Command, folder: Path, environment: Mapping[str, str]) -> Iterator[None]:
    """Start a command, wait for its first line of output, and stop it in the end.

    Output goes to files, so that a talkative command never blocks on a full pipe.
    """
    output = folder / f"output_{command.line}.txt"
    errors = folder / f"errors_{command.line}.txt"
    with output.open("wb") as output_file, errors.open("wb") as errors_file:
        process = subprocess.Popen(
            ["bash", "-c", f"exec {command.text.removesuffix('&').rstrip()}"],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output_file,
            stderr=errors_file,
        )
    where = f"line {command.line}: {command.text!r}"
    with process:
        try:
            wait_until(
                lambda: b"\n" in output.read_bytes() or process.poll() is not None,
                f"line of output of {command.text!r}",
                timeout_s=_COMMAND_TIMEOUT_S,
            )
            if process.poll() is not None:
                raise ReadmeFailure(
                    f"{where} left with status {process.returncode} instead of running on\n"
                    f"{errors.read_text(errors='replace')}"
                )
            yield
        finally:
            _stop(process)
    if process.returncode != 0:
        raise ReadmeFailure(
            f"{where} left with status {process.returncode} when told to stop\n"
            f"{errors.read_text(errors='replace')}"
        )


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()


def _compare(command: Command, output: str) -> None:
    if not command.shown.strip():
        return
    try:
        shown = json.loads(command.shown)
    except ValueError:
        options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
        if not doctest.OutputChecker().check_output(command.shown, output, options):
            raise ReadmeFailure(
                f"line {command.line}: {command.text!r} printed\n{output}, not\n{command.shown}"
            ) from None
        return
    try:
        difference = _shape_difference(shown, json.loads(output), "the object")
    except ValueError:
        difference = f"this is no JSON: {output!r}"
    if difference:
        raise ReadmeFailure(f"line {command.line}: {command.text!r}: {difference}")


def _shape_difference(shown: Any, printed: Any, where: str) -> str:
    """Say where two JSON values differ in keys or types; ``""`` where they do not."""
    if type(shown) is not type(printed):
        return f"{where} is {printed!r}, shown as {shown!r}"
    if isinstance(shown, dict):
        if shown.keys() != printed.keys():
            return f"{where} has keys {sorted(printed)}, shown with {sorted(shown)}"
        parts = (_shape_difference(shown[key], printed[key], f"{where}.{key}") for key in shown)
        return next(filter(None, parts), "")
    if isinstance(shown, list) and shown and printed:
        return _shape_difference(shown[0], printed[0], f"{where}[0]")
    return ""
