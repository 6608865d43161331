"""What the description of the HTTP API promised, and the node did otherwise.

Found by drawing requests from the description (``tests/server/test_schema_fuzz.py``):

* a time to wait that is none was ignored where there was nothing to wait for, so that a
  client learnt of it on the day that it first had to wait;
* keys and spaces were described as shorter than those that are taken;
* an event of a stream was described as a text, not by its fields.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from crdtmem.server.openapi import describe
from crdtmem.server.routes import ROUTES
from tests.server.serving import Served, run

_PATHS = describe(ROUTES)["paths"]


@pytest.mark.parametrize("path", ["/v1/spaces", "/v1/spaces/team/register", "/v1/context"])
def test_a_time_to_wait_that_is_none_is_refused_though_nothing_is_waited_for(
    path: str, tmp_path: Path
) -> None:
    async def scene(served: Served) -> None:
        answer = await served.ask("GET", path, headers={"X-Timeout-Ms": "soon"})
        assert (answer.status, answer.code) == (400, "invalid_value")

    run(tmp_path, scene)


def test_no_key_is_described_as_too_long_that_is_taken(tmp_path: Path) -> None:
    async def scene(served: Served) -> None:
        longest = served.node.settings.limits.key_bytes
        await served.good("PUT", f"/v1/spaces/team/register/{'k' * longest}", {"value": 1})
        for parameter in _PATHS["/v1/spaces/{space}/register/{key}"]["put"]["parameters"]:
            bound = parameter["schema"].get("maxLength", longest)
            assert parameter["in"] != "path" or bound >= longest

    run(tmp_path, scene)


@pytest.mark.parametrize("path", ["/v1/changes", "/v1/members/changes"])
def test_an_event_is_described_by_its_fields(path: str) -> None:
    (content,) = _PATHS[path]["get"]["responses"]["200"]["content"].values()
    assert content["schema"]["type"] == "object"
    assert {"event", "data"} <= set(content["schema"]["properties"])
