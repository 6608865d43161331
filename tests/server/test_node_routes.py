"""What an operator may ask over HTTP."""

from __future__ import annotations

import inspect
from pathlib import Path

from crdtmem.server import exchange, feed, routes_many, routes_node, routes_values
from crdtmem.store import open_store
from tests.server.serving import Served, run


def test_an_operator_looks_and_acts(tmp_path: Path) -> None:
    async def scene(served: Served) -> None:
        await served.good("PUT", "/v1/spaces/team/register/city", {"value": "Rome"})
        (member,) = (await served.good("GET", "/v1/members"))["members"]
        assert member["here"]
        assert await served.good("GET", "/v1/peers") == {"peers": []}
        assert await served.good("GET", "/v1/admin/rescue") == {"writes": []}
        assert (await served.good("POST", "/v1/admin/checkpoint"))["written"] == 1
        assert (await served.good("POST", "/v1/admin/verify", {"deep": True}))["sound"]
        copy = tmp_path / "copy.db"
        made = await served.good("POST", "/v1/admin/backup", {"path": str(copy)})
        assert made["bytes"] == copy.stat().st_size
        open_store(f"sqlite:///{copy}").close()
        relative = await served.ask("POST", "/v1/admin/backup", {"path": "copy.db"})
        assert relative.code == "invalid_value"
        rescued = await served.good("POST", "/v1/admin/rescue")
        assert rescued["written"] == 0
        unknown = await served.ask("POST", "/v1/admin/evict", {"replica": "00000000000000ff"})
        assert (unknown.status, unknown.code) == (404, "unknown_name")
        assert (await served.ask("POST", "/v1/admin/rejoin")).code == "condition_failed"

    run(tmp_path, scene, store=f"sqlite:///{tmp_path}/store.db")


def test_the_keys_of_a_ring_are_exchanged_step_by_step(tmp_path: Path) -> None:
    async def scene(served: Served) -> None:
        ring = await served.good("GET", "/v1/admin/keyring")
        assert ring["sealed"]
        (old,) = ring["keys"]
        installed = await served.good("POST", "/v1/admin/keyring/install")
        new = installed["key"]
        assert {key["key"] for key in installed["keys"]} == {old["key"], new}
        used = await served.good("POST", "/v1/admin/keyring/use", {"key": new})
        assert [key["key"] for key in used["keys"] if key["primary"]] == [new]
        left = await served.good("POST", "/v1/admin/keyring/remove", {"key": old["key"]})
        assert [key["key"] for key in left["keys"]] == [new]
        wrong = await served.ask("POST", "/v1/admin/keyring/use", {"key": "no key"})
        assert wrong.code == "invalid_value"
        short = await served.ask("POST", "/v1/admin/keyring/install", {"key": {"$bytes": "AAAA"}})
        assert 400 <= short.status < 500

    run(tmp_path, scene, mesh__plain_text=False)


def test_stop_and_leave_end_the_node(tmp_path: Path) -> None:
    async def scene(served: Served) -> None:
        alone = await served.ask("POST", "/v1/admin/leave", {"timeout_ms": 10})
        assert (alone.status, alone.code) == (409, "condition_failed")
        assert not served.node.stopping.is_set()
        assert await served.good("POST", "/v1/admin/stop") == {"accepted": True}
        assert served.node.stopping.is_set()

    run(tmp_path, scene)


def test_every_verb_can_be_asked(tmp_path: Path) -> None:
    modules = (exchange, feed, routes_many, routes_node, routes_values)
    source = "\n".join(map(inspect.getsource, modules))

    async def scene(served: Served) -> None:
        # ``get`` is the quick form of reads, for those who pipeline.
        verbs = set(served.face.handlers) - {"get"}
        assert verbs
        assert {verb for verb in verbs if f'"{verb}", ' not in source} == set()

    run(tmp_path, scene)
