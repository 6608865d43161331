"""Real nodes in two regions: what one writes crosses by the gateways, whoever of them dies."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.end_to_end.mesh_nodes import joining, members, put, said, sees, value
from tests.node.processes import NodeProcess
from tests.waiting import wait_until


def streams(node: NodeProcess) -> set[str]:
    """Return the names of those that a node has a stream with."""
    return {row["node"].rpartition("/")[2] for row in said(node, "status")["peers"]
            if row["connected"]}  # fmt: skip


@pytest.mark.slow
def test_regions_are_joined_by_gateways_alone_and_lose_nothing_with_them(tmp_path: Path) -> None:
    with joining(tmp_path, ["eu", "us", "eu", "us"]) as nodes:
        by_name = {f"n{number}": node for number, node in enumerate(nodes)}
        for node in nodes:
            sees(node, n0="alive", n1="alive", n2="alive", n3="alive")
            wait_until(lambda node=node: said(node, "status")["member"], "admission")  # type: ignore[misc]
        rows = {name.rpartition("/")[2]: row for name, row in members(nodes[0]).items()}
        duties = {name: row["gateway"] for name, row in rows.items()}
        across = {name for name, duty in duties.items() if duty == "active"}
        assert len(across) == 2
        mates = {"n0": "n2", "n2": "n0", "n1": "n3", "n3": "n1"}
        wanted = {
            name: {mates[name]} | (across - {name} if name in across else set()) for name in by_name
        }
        # Streams that nobody asks for any more are ended after ten seconds.
        for name, node in by_name.items():
            wait_until(
                lambda node=node, name=name: streams(node) == wanted[name],  # type: ignore[misc]
                "the streams of the topology",
                timeout_s=60,
            )
        eu, us = sorted(by_name.keys() - across)
        wrote = put(by_name[eu], "city", "Rome")
        assert value(by_name[us], "city", wrote) == "Rome"

        by_name[mates[us]].kill()
        wrote = put(by_name[eu], "city", "Oslo")
        assert value(by_name[us], "city", wrote) == "Oslo"
        back = put(by_name[us], "answer", 1)
        assert value(by_name[eu], "answer", back) == 1
