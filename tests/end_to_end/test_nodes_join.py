"""Nodes as operators run them: told one address, they find each other, and say who is there."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from crdtmem.keys import create_ring, load_ring
from tests.end_to_end.mesh_nodes import (
    alarms,
    ended,
    joining,
    members,
    node_in,
    put,
    replica_of,
    said,
    sees,
    value,
)
from tests.node.cluster import free_ports
from tests.node.processes import NodeProcess, crdtmem, start_all
from tests.waiting import wait_until


def all_members(nodes: list[NodeProcess]) -> None:
    """Wait until every node counts and sees every node."""
    for node in nodes:
        everybody = {f"n{number}": "alive" for number in range(len(nodes))}
        sees(node, **everybody)
        wait_until(lambda node=node: said(node, "status")["member"], "admission")  # type: ignore[misc]


def test_three_nodes_find_each_other_and_one_that_is_killed_is_missed_until_it_is_back(
    tmp_path: Path,
) -> None:
    with joining(tmp_path, ["eu", "eu", "us"]) as nodes:
        all_members(nodes)
        one, two, three = nodes
        gateways = {name: row["gateway"] for name, row in members(one).items()}
        assert sorted(filter(None, gateways.values())) == ["active", "active", "warm"]
        assert gateways["us/n2"] == "active"
        wrote = put(three, "city", "Rome")
        assert value(one, "city", wrote) == value(two, "city", wrote) == "Rome"

        two.kill()
        for node in (one, three):
            sees(node, n0="alive", n1="dead", n2="alive")
        alone = put(one, "city", "Oslo")
        former = replica_of(two)
        two.start()
        assert replica_of(two) == former
        all_members(nodes)
        assert value(two, "city", alone) == "Oslo"


def test_a_plain_stop_is_seen_at_once_and_a_start_is_a_return(tmp_path: Path) -> None:
    with joining(tmp_path, ["eu", "us"]) as nodes:
        all_members(nodes)
        one, two = nodes
        assert two.stop() == 0
        wait_until(lambda: members(one)["us/n1"]["state"] == "left", "farewell", timeout_s=5)
        two.start()
        all_members(nodes)


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_nodes_that_all_ended_find_each_other_by_what_they_remember(
    tmp_path: Path, how: str
) -> None:
    with joining(tmp_path, ["eu", "us"]) as nodes:
        all_members(nodes)
        _, two = nodes
        # The other is at a new address by chance only: here it stays.
        two.arguments.append(f"--listen={two.ready['listen']}")
        two.arguments = [each for each in two.arguments if not each.startswith("--join")]
        for node in nodes:
            getattr(node, how)()
        for node in nodes:
            node.start()
        # Neither is told of the other any more.
        all_members(nodes)


def test_a_seed_may_be_a_name(tmp_path: Path) -> None:
    with joining(tmp_path, ["eu", "us"], host="localhost") as nodes:
        all_members(nodes)
        wrote = put(nodes[1], "city", "Rome")
        assert value(nodes[0], "city", wrote) == "Rome"


@pytest.mark.parametrize(
    ("listening", "reached"), [("0.0.0.0", "127.0.0.1"), ("[::1]", "[::1]"), ("localhost",) * 2]
)
def test_nodes_listen_everywhere_by_ipv6_or_by_name(
    tmp_path: Path, listening: str, reached: str
) -> None:
    if ":" in listening and not has_ipv6():
        pytest.skip("this machine has no IPv6")
    create_ring(tmp_path / "ring")
    ports = free_ports(2)
    first = f"{reached}:{ports[0]}"
    nodes = [
        node_in(
            tmp_path, "eu", f"n{number}", tmp_path / "ring", *([first] if number else []),
            listen=f"{listening}:{port}",
        )
        for number, port in enumerate(ports)
    ]  # fmt: skip
    for node, port in zip(nodes, ports, strict=True):
        node.arguments.append(f"--advertise={reached}:{port}")
    with ended(nodes):
        for node in nodes:
            node.start()
        all_members(nodes)
        wrote = put(nodes[1], "city", "Rome")
        assert value(nodes[0], "city", wrote) == "Rome"
        assert {row["address"] for row in members(nodes[0]).values()} == {
            f"{reached}:{port}" for port in ports
        }


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def test_a_node_with_another_ring_is_kept_out_and_both_sides_say_why(tmp_path: Path) -> None:
    with joining(tmp_path, ["eu"]) as nodes:
        (one,) = nodes
        create_ring(tmp_path / "other")
        stranger = node_in(tmp_path, "us", "stranger", tmp_path / "other", one.ready["listen"])
        with ended([stranger]):
            stranger.start()
            (why,) = wait_until(lambda: alarms(one, "mesh: strangers"), "alarm", timeout_s=30)
            assert "no key is held by both" in why
            assert "127.0.0.1" in why
            (lone,) = wait_until(lambda: alarms(stranger, "mesh: alone"), "alarm", timeout_s=30)
            assert one.ready["listen"] in lone
            assert "key ring" in lone
            assert list(members(one)) == ["eu/n0"]
            assert said(stranger, "status")["member"] is False
            material = load_ring(tmp_path / "other").primary.material.hex()
            assert material not in one.log() + stranger.log()


def test_a_node_that_joins_without_a_ring_is_told_what_to_do(tmp_path: Path) -> None:
    done = crdtmem(
        "node", f"--store=sqlite:///{tmp_path}/store.db", "--join=127.0.0.1:7421",
        f"--control-socket={tmp_path}/sock", "--json",
    )  # fmt: skip
    assert done.returncode == 2
    error = json.loads(done.stdout)["error"]
    assert error["code"] == "config"
    assert "--keyring" in error["hint"]
    assert not (tmp_path / "store.db.keys").exists()


def keyring(node: NodeProcess, *arguments: str) -> dict[str, object]:
    done = crdtmem("keyring", *arguments, "--node", node.url, "--timeout-ms=30000", "--json")
    assert done.returncode == 0, done
    return dict(json.loads(done.stdout))


@pytest.mark.slow
def test_a_key_is_rotated_while_a_node_is_away_and_it_comes_back(tmp_path: Path) -> None:
    with joining(tmp_path, ["eu", "eu", "us", "us"]) as nodes:
        all_members(nodes)
        one, two, three, absent = nodes
        assert absent.stop() == 0
        (old,) = [key["key"] for key in said(one, "keyring")["keys"]]
        installed = keyring(one, "install")
        fresh = next(key for key in installed["keys"] if not key["primary"])  # type: ignore[attr-defined]
        assert fresh["missing"] == []
        used = keyring(two, "use", fresh["key"])
        seals = next(key for key in used["keys"] if key["primary"])  # type: ignore[attr-defined]
        assert seals["key"] == fresh["key"]
        assert sorted(seals["sealing"]) == ["eu/n0", "eu/n1", "us/n2"]
        removed = keyring(three, "remove", old)
        assert [key["key"] for key in removed["keys"]] == [fresh["key"]]  # type: ignore[attr-defined]
        wrote = put(one, "city", "Rome")
        assert value(three, "city", wrote) == "Rome"
        number = int(fresh["key"], 16)
        assert load_ring(two.folder / "ring").primary.id == number

        # It still has only the old key: a stream brings it the ring.
        absent.start()
        sees(absent, n0="alive", n1="alive", n2="alive")
        assert value(absent, "city", wrote) == "Rome"
        wait_until(lambda: load_ring(absent.folder / "ring").ids == (number,), "its new ring")


def test_a_node_that_leaves_hands_over_ends_and_can_be_given_up_by_name(tmp_path: Path) -> None:
    with joining(tmp_path, ["eu", "us", "ap"]) as nodes:
        all_members(nodes)
        one, two, three = nodes
        wrote = put(three, "city", "Rome")
        done = crdtmem("leave", "--node", three.url, "--timeout-ms=30000", "--json")
        assert done.returncode == 0, done
        left = json.loads(done.stdout)
        assert set(left["holders"]) == {replica_of(one), replica_of(two)}
        assert three.wait() == 0
        for node in (one, two):
            sees(node, n2="left")
            assert value(node, "city", wrote) == "Rome"
        asked = crdtmem("evict", "ap/n2", "--node", one.url, "--yes")
        assert asked.returncode == 0, asked
        for node in (one, two):
            wait_until(lambda node=node: "ap/n2" not in members(node), "its end")  # type: ignore[misc]


def test_the_last_node_does_not_leave_by_mistake(tmp_path: Path) -> None:
    with joining(tmp_path, ["eu"]) as nodes:
        (one,) = nodes
        refused = crdtmem("leave", "--node", one.url, "--json")
        assert refused.returncode == 4
        assert json.loads(refused.stdout)["error"]["code"] == "condition_failed"
        forced = crdtmem("leave", "--forced", "--node", one.url)
        assert forced.returncode == 0
        assert "held by nobody" in forced.stdout
        assert one.wait() == 0


@pytest.mark.slow
def test_a_living_node_that_is_given_up_goes_on_in_the_mesh_under_a_new_id(tmp_path: Path) -> None:
    with joining(tmp_path, ["eu", "us", "ap"]) as nodes:
        all_members(nodes)
        one, two, three = nodes
        former = replica_of(three)

        def proposed() -> bool:
            # Until acknowledgements have spread, it is refused and may be asked for again.
            asked = crdtmem("evict", "n2", "--node", one.url, "--json")
            return bool(json.loads(asked.stdout) == {"proposed": former, "forced": False})

        wait_until(proposed, "eviction that is carried", timeout_s=60)

        def renewed() -> bool:
            rows = [members(node).get("ap/n2", {}) for node in (one, two)]
            return all(
                row.get("state") == "alive" and row["member"] and row["replica"] != former
                for row in rows
            )

        wait_until(renewed, "its new id", timeout_s=60)
        (own,) = [row for row in members(three).values() if row["here"]]
        assert own["replica"] == members(one)["ap/n2"]["replica"]
        wrote = put(three, "city", "Rome")
        assert value(one, "city", wrote) == value(two, "city", wrote) == "Rome"


@pytest.mark.slow
def test_who_joins_may_start_first_and_never_founds(tmp_path: Path) -> None:
    create_ring(tmp_path / "ring")
    (port,) = free_ports(1)
    founder = f"127.0.0.1:{port}"
    nodes = [node_in(tmp_path, "eu", "n0", tmp_path / "ring", listen=founder)]
    nodes += [node_in(tmp_path, place, f"n{number}", tmp_path / "ring", founder)
              for number, place in enumerate(("eu", "us"), 1)]  # fmt: skip
    with ended(nodes):
        start_all(nodes[1:])
        wait_until(lambda: alarms(nodes[2], "mesh: alone"), "alarm")
        assert not any(said(node, "status")["member"] for node in nodes[1:])
        nodes[0].start()
        all_members(nodes)
        clusters = {tuple(sorted(said(node, "status")["members"])) for node in nodes}
        assert clusters == {tuple(sorted(replica_of(node) for node in nodes))}
