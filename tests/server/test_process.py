"""A node process with HTTP, asked by curl: what a stranger does first."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.capabilities import needs
from tests.node.processes import NodeFailed, NodeProcess, crdtmem

needs("curl")


def _curl(*arguments: str) -> Any:
    done = subprocess.run(
        ["curl", "-sS", "--max-time", "10", *arguments], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def test_a_node_is_asked_by_curl_and_keeps_what_it_took(tmp_path: Path) -> None:
    with NodeProcess(tmp_path, "--http=127.0.0.1:0") as node:
        base = node.ready["http"]
        assert base.startswith("http://127.0.0.1:")
        path = f"{base}/v1/spaces/team,notes/register/city"
        written = _curl("--json", '{"value": "Rome"}', "-X", "PUT", path)
        assert written["count"] == 1
        assert _curl(path)["value"] == "Rome"
        refused = _curl("-d", "value=Rome", "-X", "PUT", path)
        assert refused["code"] == "unsupported_media_type"
        same = crdtmem("get", "team/notes", "city", "--node", node.url)
        assert json.loads(same.stdout) == "Rome"
        assert _curl("-X", "POST", f"{base}/v1/admin/stop") == {"accepted": True}
        assert node.wait() == 0
        node.start()
        assert _curl(f"{node.ready['http']}/v1/spaces/team,notes/register/city")["value"] == "Rome"
        node.signal(signal.SIGTERM)
        assert node.wait() == 0


def test_http_that_could_be_reached_from_elsewhere_is_refused_with_a_hint(tmp_path: Path) -> None:
    with pytest.raises(NodeFailed) as caught:
        NodeProcess(tmp_path, "--http=0.0.0.0:0").start()
    assert caught.value.code == 2
    assert "127.0.0.1" in str(caught.value)


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    (tmp_path / "second").mkdir()
    with NodeProcess(tmp_path, "--http=127.0.0.1:0") as node:
        taken = node.ready["http"].removeprefix("http://")
        with pytest.raises(NodeFailed) as caught:
            NodeProcess(tmp_path / "second", f"--http={taken}").start()
        assert caught.value.code == 2
        assert taken in str(caught.value)
