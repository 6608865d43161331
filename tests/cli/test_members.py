"""``members``, ``leave``, ``evict`` and ``keyring``: what they show, and what they refuse."""

from __future__ import annotations

import io
import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from crdtmem.cli.keyring import keyring_command
from crdtmem.cli.members import find_member
from crdtmem.keys import create_ring, load_ring
from tests.cli.conftest import Run
from tests.node.processes import NodeProcess


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    folder = tmp_path_factory.mktemp("sealed")
    with NodeProcess(folder, "--region=here", sealed=True) as started:
        yield started


# ------------------------------------------------------------------ members


def test_a_node_lists_itself_for_people_and_for_programs(ask: Run, node: NodeProcess) -> None:
    (row,) = ask("members", "--json").json["members"]
    assert row["replica"] == node.ready["replica"]
    assert row["address"] == node.ready["listen"]
    assert (row["node"], row["state"], row["here"], row["lag"]) == ("here/node-1", "alive", True, 0)
    shown = ask("members").out
    assert all(word in shown for word in ("here/node-1", "alive", row["replica"], row["version"]))


def test_watching_looks_again_and_again(ask: Run) -> None:
    lines = ask("members", "--watch", "--looks=3", "--every-ms=50", "--json").out.splitlines()
    assert len(lines) == 3
    assert all(json.loads(line)["members"][0]["here"] for line in lines)
    assert "here/node-1" in ask("members", "--watch", "--looks=1").out


def row(replica: int, node: str, *, member: bool = True) -> dict[str, Any]:
    return {"replica": f"{replica:016x}", "node": node, "member": member}


ROWS = [row(1, "eu/ada"), row(2, "us/ada"), row(3, "us/bob"), row(4, "ap/bob", member=False)]


@pytest.mark.parametrize(
    ("name", "replica"),
    [("eu/ada", 1), ("us/ada", 2), ("bob", 3), ("ap/bob", 4), (f"{2:016x}", 2), ("US/ADA", 2)],
)
def test_a_member_is_found_by_its_name_or_id(name: str, replica: int) -> None:
    assert find_member(ROWS, name)["replica"] == f"{replica:016x}"


@pytest.mark.parametrize(("name", "words"), [("ada", "may be any of"), ("eve", "no member is")])
def test_a_name_that_means_nobody_or_several_is_refused(name: str, words: str) -> None:
    with pytest.raises(click.BadParameter, match=words):
        find_member(ROWS, name)


# ------------------------------------------------------------------ leaving and evicting


def test_the_only_member_does_not_leave_unless_forced(ask: Run) -> None:
    refused = ask("leave", "--json", code=4).json["error"]
    assert refused["code"] == "condition_failed"
    assert "--forced" in refused["hint"]
    assert ask("members", "--json").json["members"][0]["state"] == "alive"


def test_an_eviction_explains_and_asks_and_no_answer_is_no(
    ask: Run, node: NodeProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    asked = ask("evict", "here/node-1", "--force", code=130)
    assert "never used again" in asked.err
    assert "FORCED" in asked.err
    assert asked.out == ""
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    ask("evict", "node-1", code=130)
    # With a yes it is the node that refuses: nobody gives itself up.
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert "does not evict itself" in ask("evict", node.ready["replica"], code=4).err
    assert "does not evict itself" in ask("evict", "node-1", "--yes", code=4).err
    assert "no member is called" in ask("evict", "eve", "--yes", code=2).err


# ------------------------------------------------------------------ key rings


def test_a_ring_is_made_once_and_for_its_owner(run: Run, tmp_path: Path) -> None:
    made = run("keyring", "generate", "ring", "--json").json
    path = tmp_path / "ring"
    assert made == {"path": "ring", "key": f"{load_ring(path).primary.id:08x}"}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    again = run("keyring", "generate", "ring")
    assert again.code == 2
    assert "already" in again.err


def keyring(run: Run, node: NodeProcess, *arguments: str, code: int = 0) -> Any:
    outcome = run("keyring", *arguments, "--node", node.url, "--json")
    assert outcome.code == code, outcome
    return outcome.json


def test_a_key_is_exchanged_step_by_step(run: Run, sealed: NodeProcess) -> None:
    (old,) = keyring(run, sealed, "list")["keys"]
    assert (old["primary"], old["sealing"], old["missing"]) == (True, ["here/node-1"], [])
    installed = keyring(run, sealed, "install")["keys"]
    assert [key["primary"] for key in installed] == [True, False]
    fresh = installed[1]["key"]
    assert keyring(run, sealed, "remove", old["key"], code=4)["error"]["hint"]
    assert keyring(run, sealed, "use", fresh)["keys"][0]["key"] == fresh
    assert [key["key"] for key in keyring(run, sealed, "remove", old["key"])["keys"]] == [fresh]
    gone = keyring(run, sealed, "use", old["key"], code=4)["error"]
    assert "is not in the ring" in gone["message"]
    # What it printed and wrote is a number and a file, never the key.
    material = load_ring(sealed.folder / "store.db.keys").primary.material
    assert material.hex() not in run("keyring", "list", "--node", sealed.url).out


def test_rotating_takes_all_steps_at_once(run: Run, sealed: NodeProcess) -> None:
    (before,) = keyring(run, sealed, "list")["keys"]
    (after,) = keyring(run, sealed, "rotate")["keys"]
    assert after["key"] != before["key"]
    assert after["primary"]
    (last,) = keyring(run, sealed, "rotate", "--compromised")["keys"]
    assert last["key"] not in (before["key"], after["key"])


def test_the_key_of_another_ring_can_be_installed(
    run: Run, sealed: NodeProcess, tmp_path: Path
) -> None:
    given = create_ring(tmp_path / "given").primary
    outcome = keyring(run, sealed, "install", "--from", "given")
    assert outcome["key"] == f"{given.id:08x}"
    assert outcome["key"] in [key["key"] for key in outcome["keys"]]


def test_rotating_uses_a_fresh_key_whatever_was_installed_before(
    run: Run, sealed: NodeProcess
) -> None:
    idle = {key["key"] for key in keyring(run, sealed, "list")["keys"]}
    for _ in range(3):
        idle.add(keyring(run, sealed, "install")["key"])
    outcome = keyring(run, sealed, "rotate")
    (primary,) = [key["key"] for key in outcome["keys"] if key["primary"]]
    assert primary not in idle


def test_plain_text_has_no_keys(run: Run, ask: Run, node: NodeProcess) -> None:
    assert keyring(run, node, "list") == {"sealed": False, "members": 1, "keys": []}
    assert "plain text" in run("keyring", "list", "--node", node.url).out
    assert keyring(run, node, "install", code=4)["error"]["code"] == "condition_failed"


@pytest.mark.parametrize("number", ["", "xyz", "123456789", "-1"])
def test_what_is_no_keys_number_is_a_mistake(run: Run, sealed: NodeProcess, number: str) -> None:
    outcome = run("keyring", "use", "--node", sealed.url, "--", number)
    assert outcome.code == 2
    assert "no key's number" in outcome.err


@pytest.mark.parametrize("name", sorted(keyring_command.commands))
def test_every_action_on_a_ring_is_explained(name: str) -> None:
    command = keyring_command.commands[name]
    assert command.help
    options = [each for each in command.params if isinstance(each, click.Option)]
    assert all(option.help for option in options)
    assert "as_json" in [option.name for option in options]
