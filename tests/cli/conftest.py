"""A node to command, and a way to run commands without a new interpreter for each."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from crdtmem.cli import main
from tests.node.processes import NodeProcess

__all__ = ["Outcome", "Run"]


class Outcome(NamedTuple):
    """What a command printed, and how it ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one JSON object that it printed."""
        assert self.out.count("\n") == 1, self
        return json.loads(self.out)


Run = Callable[..., Outcome]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    with NodeProcess(tmp_path_factory.mktemp("cli"), "--region=here") as started:
        yield started


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run one command in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def run_command(*arguments: str) -> Outcome:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        printed = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return Outcome(ended.value.code, printed.out, printed.err)

    return run_command


@pytest.fixture
def ask(run: Run, node: NodeProcess) -> Run:
    """Run one command against the node; it must succeed unless ``code`` says otherwise."""

    def ask_node(*arguments: str, code: int = 0) -> Outcome:
        outcome = run(arguments[0], "--node", node.url, *arguments[1:])
        assert outcome.code == code, outcome
        return outcome

    return ask_node
