"""Nodes and faces for the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.node.faces import FACES, open_face
from tests.node.processes import NodeProcess

_numbers = count()


@pytest.fixture(scope="module")
def shared_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    """One node process for all tests of a module; each uses spaces of its own."""
    folder = tmp_path_factory.mktemp("node")
    with NodeProcess(folder, "--region=here", "--http=127.0.0.1:0") as node:
        yield node


@pytest.fixture
def node(tmp_path: Path) -> Iterator[NodeProcess]:
    """A node process of one's own."""
    with NodeProcess(tmp_path, "--region=here") as started:
        yield started


@pytest.fixture(params=FACES)
def memory(request: pytest.FixtureRequest, shared_node: NodeProcess) -> Iterator[Any]:
    """A memory behind each face in turn, all with the same synchronous calls."""
    with open_face(request.param, shared_node) as opened:
        yield opened


@pytest.fixture
def space(memory: Any) -> Any:
    """A space that no other test uses."""
    return memory.space("test", f"number-{next(_numbers)}")
