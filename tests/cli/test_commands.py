"""Every command against a real node: what it prints, how it ends, what it leaves."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from crdtmem import __version__, cli
from crdtmem.cli import COMMANDS
from crdtmem.client import connect
from crdtmem.settings import DESCRIPTIONS
from tests.capabilities import ROOT
from tests.cli.conftest import Run
from tests.node.processes import NodeProcess, crdtmem

# ------------------------------------------------------------------ the table


def test_the_overview_names_every_command_and_imports_none() -> None:
    shown = crdtmem("--help")
    assert shown.returncode == 0
    for name, entry in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(entry.summary)}$", shown.stdout, re.MULTILINE)
    assert crdtmem("--version").stdout == f"crdtmem, version {__version__}\n"


def test_the_overview_is_quick_because_it_imports_no_command() -> None:
    script = (
        "import contextlib, sys; from crdtmem.cli import main\n"
        "with contextlib.suppress(SystemExit): main(['--help'])\n"
        "print([name for name in ('crdtmem.node', 'numpy', 'pycrdt') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_json_and_a_summary_that_is_its_own(run: Run, name: str) -> None:
    shown = run(name, "--help")
    assert shown.code == 0
    command = cli._root.get_command(click.Context(cli._root), name)
    assert command is not None
    assert command.name == name
    options = {option for parameter in command.params for option in parameter.opts}
    assert "--json" in options or isinstance(command, click.Group), f"{name} has no --json"
    undocumented = [
        parameter.name
        for parameter in command.params
        if isinstance(parameter, click.Option) and not parameter.help
    ]
    assert undocumented == []


def test_the_exit_codes_are_documented() -> None:
    from crdtmem.cli import ending

    codes = {value for name, value in vars(ending).items() if name.startswith("EXIT_")}
    documented = {int(code) for code in re.findall(r"^(\d+) +\S", cli.__doc__ or "", re.MULTILINE)}
    assert codes | {0, 130} == documented


# ------------------------------------------------------------------ get and set


def test_a_value_goes_in_and_comes_out(ask: Run) -> None:
    context = ask("set", "team/notes", "plan", '{"step": [1, null]}').out.strip()
    assert context.startswith("c1.")
    assert json.loads(ask("get", "team/notes", "plan").out) == {"step": [1, None]}
    assert ask("get", "team/notes", "plan", "--at-least", context).code == 0


@pytest.mark.parametrize(
    ("given", "stored"),
    [("5", 5), ("hello", "hello"), ('"5"', "5"), ("true", True), ("-1.5", -1.5), ("", "")],
)
def test_values_are_json_where_they_are_valid_json(ask: Run, given: str, stored: object) -> None:
    ask("set", "a", "key", "--json", "--", given)
    assert ask("get", "a", "key", "--json").json["value"] == stored


def test_text_is_taken_as_it_is_when_asked(ask: Run) -> None:
    ask("set", "a", "key", "5", "--text")
    assert ask("get", "a", "key", "--json").json["value"] == "5"


@pytest.mark.parametrize(
    ("datatype", "writes", "value"),
    [
        ("counter", [["3"], ["2", "--operation", "decrement"]], 1),
        ("g_counter", [["3"], []], 4),
        ("set", [["blue"], ["red"], ["blue", "--operation", "remove"]], ["red"]),
        ("set_remove_wins", [["1"]], [1]),
        ("flag", [[]], True),
        ("flag_disable_wins", [[], ["--operation", "disable"]], False),
        ("log", [["one"], ['{"n": 2}']], ["one", {"n": 2}]),
        ("map", [["name", "Ada"], ['["at", "home"]', "5"]], {"name": "Ada", "at": {"home": 5}}),
        ("multi_value", [["1"]], [1]),
        ("register", [["1"], ["--operation", "delete"]], None),
    ],
)
def test_every_datatype_can_be_written(
    ask: Run, datatype: str, writes: list[list[str]], value: object
) -> None:
    for arguments in writes:
        ask("set", "types", datatype, *arguments, "--type", datatype)
    assert ask("get", "types", datatype, "--type", datatype, "--json").json["value"] == value


def test_a_budget_is_spent_within_its_bound(ask: Run) -> None:
    ask("set", "types", "budget", "10", "--type", "bounded_counter", "--operation", "mint")
    ask("set", "types", "budget", "4", "--type", "bounded_counter")
    refused = ask("set", "types", "budget", "7", "--type", "bounded_counter", "--json", code=4)
    assert refused.json["error"]["code"] == "insufficient_rights"
    assert refused.json["error"]["hint"]


def test_concurrent_values_are_told_and_settled(ask: Run) -> None:
    ask("set", "a", "both", "1", "--author", "ann")
    ask("set", "a", "both", "2", "--author", "bob", "--observed", "o1.kA")
    shown = ask("get", "a", "both", "--siblings")
    assert "contested" in shown.err
    assert "ann" in shown.out
    assert "bob" in shown.out
    reading = ask("get", "a", "both", "--siblings", "--json").json
    assert reading["contested"]
    assert [sibling["author"] for sibling in reading["siblings"]] == ["ann", "bob"]
    assert int(ask("status", "--json").json["conflicts"]) >= 1
    ask("set", "a", "both", "3", "--observed", reading["observed"])
    assert not ask("get", "a", "both", "--json").json["contested"]
    refused = ask("set", "a", "both", "4", "--expect", reading["observed"], "--json", code=4)
    assert refused.json["error"]["code"] == "condition_failed"


def test_an_absent_key_is_null_and_says_so(ask: Run) -> None:
    assert ask("get", "a", "nothing").out == "null\n"
    assert ask("get", "a", "nothing", "--json").json["exists"] is False


def test_a_write_expires(ask: Run) -> None:
    ask("set", "a", "short", "1", "--ttl-ms", "1")
    assert ask("get", "a", "short", "--json").json["exists"] is False


# ------------------------------------------------------------------ status, verify, config


def test_status_for_people_and_for_programs(ask: Run, node: NodeProcess) -> None:
    status = ask("status", "--json").json
    assert status["replica"] == node.ready["replica"]
    shown = ask("status").out
    assert status["mesh"]["running"]
    assert status["mesh"]["counters"]["pools"]["region:here"]["probes"] == 0
    alone = "plain text, active gateway, 0 probes, 0 failed, 0 refused"
    for part in (status["replica"], status["listen"], "here/node-1", status["control"], alone):
        assert part in shown


def test_verify_finds_a_sound_store_sound(ask: Run) -> None:
    assert ask("verify", "--json").json["sound"] is True
    assert "sound" in ask("verify", "--deep").out


def test_verify_says_what_is_wrong_and_exits_with_6(run: Run, tmp_path: Path) -> None:
    """Damage below a checkpoint is met by nobody until somebody looks."""

    async def checkpoint(url: str) -> None:
        async with await connect(url) as client:
            await client.call("checkpoint", ())

    with NodeProcess(tmp_path) as node:
        run("set", "a", "key", "precious-value", "--node", node.url)
        asyncio.run(checkpoint(node.url))
        assert node.stop() == 0
        data = bytearray((tmp_path / "store.db").read_bytes())
        data[data.index(b"precious-value")] ^= 0xFF
        (tmp_path / "store.db").write_bytes(data)
        node.start()
        assert run("get", "a", "key", "--node", node.url).out == '"precious-value"\n'
        found = run("verify", "--json", "--node", node.url)
        assert found.code == 6
        assert found.json["sound"] is False
        shown = run("verify", "--node", node.url)
        assert shown.code == 6
        assert found.json["problems"][0] in shown.out


def test_config_explains_every_setting(run: Run, tmp_path: Path) -> None:
    shown = run("config", "--json")
    assert shown.code == 0
    assert set(shown.json["settings"]) == set(DESCRIPTIONS)
    assert run("config", "--check").out.startswith("ok: ")
    (tmp_path / "crdtmem.toml").write_text('region = "eu-west"\n[limits]\nkey_byte = 5\n')
    refused = run("config", "--check")
    assert refused.code == 2
    assert "limits.key_byte" in refused.err
    assert refused.err.count("\n") == 1
    assert run("config", "--check", "--json").json["error"]["code"] == "config"


def test_settings_come_from_file_environment_and_flags(
    run: Run, node: NodeProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "crdtmem.toml").write_text('control_socket = "/nowhere"\n')
    assert run("get", "a", "b").code == 3
    monkeypatch.setenv("CRDTMEM_CONTROL_SOCKET", str(node.socket))
    assert run("get", "a", "b").code == 0
    assert run("get", "a", "b", "--node", "/elsewhere").code == 3


# ------------------------------------------------------------------ errors


def test_an_error_is_one_line_with_a_hint(run: Run) -> None:
    refused = run("status", "--node", "unix:///nowhere/crdtmem.sock")
    assert refused.code == 3
    assert refused.out == ""
    assert re.fullmatch(r"crdtmem: .+ \(.+\)\n", refused.err)
    refused = run("status", "--node", "unix:///nowhere/crdtmem.sock", "--json")
    assert refused.json["error"].keys() == {"code", "message", "hint"}


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["fly"], 2),
        (["get"], 2),
        (["get", "a//b", "key"], 2),
        (["get", "a", "key", "--type", "tree"], 2),
        (["get", "a", "key", "--node", "tcp://127.0.0.1:1"], 2),
        (["set", "a", "key", "1", "--expect", "o1.kA", "--observed", "o1.kA"], 2),
        (["node", "--set", "nonsense"], 2),
        (["node", "--listen", "0.0.0.0:0"], 2),
        (["node", "--store", "carrier-pigeon"], 2),
        (["export", "--json"], 2),
        (["restore", "missing.db", "new.db"], 2),
        (["backup", "x.db", "--node", "/nowhere"], 3),
    ],
)
def test_mistakes_end_with_their_codes(run: Run, arguments: list[str], code: int) -> None:
    outcome = run(*arguments)
    assert outcome.code == code, outcome
    assert "Traceback" not in outcome.err


def test_refusals_end_with_4(ask: Run) -> None:
    ask("set", "a", "key", "1", "2", code=4)
    ask("set", "a", "key", "1", "--operation", "explode", code=4)
    ask("set", "a", "key", "1", "--observed", "garbage", code=4)
    ask("get", "a", "key", "--at-least", "c1.kk3NA-g", "--timeout-ms", "50", code=4)
    ask("set", "crdtmem", "key", "1", code=4)


# ------------------------------------------------------------------ copies


def test_a_backup_restores_to_the_same_values(ask: Run, run: Run, tmp_path: Path) -> None:
    ask("set", "saved", "key", "precious")
    done = ask("backup", "copy.db", "--json").json
    assert done["path"] == str(tmp_path / "copy.db")
    assert done["bytes"] == (tmp_path / "copy.db").stat().st_size
    ask("backup", "copy.db", code=4)
    ask("set", "saved", "key", "written later")
    place = tmp_path / "restored"
    place.mkdir()
    assert run("restore", "copy.db", str(place / "store.db"), "--json").json["records"] > 0
    assert run("restore", "copy.db", str(place / "store.db")).code == 4
    assert [path.name for path in place.iterdir()] == ["store.db"]
    with NodeProcess(place) as restored:
        found = run("get", "saved", "key", "--json", "--node", restored.url).json
        assert found["value"] == "precious"


def test_a_damaged_backup_is_refused(ask: Run, run: Run, tmp_path: Path) -> None:
    ask("set", "saved", "key", "precious-and-searched-for")
    ask("backup", "copy.db")
    data = bytearray((tmp_path / "copy.db").read_bytes())
    at = data.rindex(b"precious-and-searched-for")
    data[at] ^= 0xFF
    (tmp_path / "copy.db").write_bytes(data)
    refused = run("restore", "copy.db", "new.db")
    assert refused.code == 5, refused
    assert not (tmp_path / "new.db").exists()
    assert list(tmp_path.glob("new.db*")) == []
    (tmp_path / "noise.db").write_bytes(b"noise" * 1_000)
    assert run("restore", "noise.db", "new.db").code == 5


# ------------------------------------------------------------------ export and import


def fill(ask: Run) -> None:
    """Write something of every datatype, siblings and odd values included."""
    ask("set", "from/here", "plain", '{"deep": [1, 2.5, null, "ü"]}', "--author", "ann")
    ask("set", "from/here", "bytes", '{"$bytes": "AP8="}')
    ask("set", "from/here", "tagged", '{"$dict": {"$bytes": "not bytes"}}')
    ask("set", "from/here", "both", "1", "--author", "ann")
    ask("set", "from/here", "both", "2", "--author", "bob", "--observed", "o1.kA")
    ask("set", "from/here", "up", "5", "--type", "counter")
    ask("set", "from/here", "down", "5", "--type", "counter", "--operation", "decrement")
    ask("set", "from/here", "grow", "2", "--type", "g_counter")
    ask("set", "from/here", "money", "9", "--type", "bounded_counter", "--operation", "mint")
    ask("set", "from/here", "money", "4", "--type", "bounded_counter")
    ask("set", "from/here", "tags", "blue", "--type", "set")
    ask("set", "from/here", "tags", '["a", 1]', "--type", "set")
    ask("set", "from/here", "safe", "blue", "--type", "set_remove_wins")
    ask("set", "from/here", "on", "--type", "flag")
    ask("set", "from/here", "sure", "--type", "flag_disable_wins")
    ask("set", "from/here", "story", "once", "--type", "log")
    ask("set", "from/here", "story", "upon", "--type", "log", "--author", "bob")
    ask("set", "from/here", "person", "name", "Ada", "--type", "map")
    ask("set", "from/here", "person", '["at", "home"]', "5", "--type", "map")
    member = ["visits", "counter", "increment", "3"]
    ask("set", "from/here", "person", *member, "--type", "map", "--operation", "apply")
    gone = ["--type", "set", "--operation", "remove"]
    ask("set", "from/here", "tags", "gone", "--type", "set")
    ask("set", "from/here", "tags", "gone", *gone)


ADDRESSES = [
    *(("register", key) for key in ("plain", "bytes", "tagged", "both")),
    ("counter", "up"),
    ("counter", "down"),
    ("g_counter", "grow"),
    ("set", "tags"),
    ("set_remove_wins", "safe"),
    ("flag", "on"),
    ("flag_disable_wins", "sure"),
    ("log", "story"),
    ("map", "person"),
]


def test_an_export_imports_to_equal_values_and_twice_counts_once(
    ask: Run, run: Run, tmp_path: Path
) -> None:
    fill(ask)
    done = ask("export", "all.jsonl", "--space", "from/here", "--json").json
    lines = (tmp_path / "all.jsonl").read_text().splitlines()
    assert done["records"] == len(lines)
    for line in lines:
        record = json.loads(line)
        assert record["space"] == ["from", "here"]
        assert record["region"] == "here"
        assert record["time_us"] > 0
        assert re.fullmatch(r"[0-9a-f]{16}:\d+", record["dot"])
    assert {json.loads(line)["author"] for line in lines} == {"", "ann", "bob"}
    ask("export", "all.jsonl", code=4)
    place = tmp_path / "other"
    place.mkdir()
    with NodeProcess(place, "--region=there") as other:
        for _ in range(2):
            imported = run("import", "all.jsonl", "--json", "--node", other.url)
            assert imported.code == 0, imported
        for datatype, key in ADDRESSES:
            address = ["from/here", key, "--type", datatype, "--siblings", "--json"]
            mine = ask("get", *address).json
            theirs = run("get", *address, "--node", other.url).json
            assert theirs["value"] == mine["value"], key
            assert theirs["contested"] == mine["contested"], key
            assert [s["author"] for s in theirs["siblings"]] == [
                s["author"] for s in mine["siblings"]
            ], key
        budget = ["from/here", "money", "--type", "bounded_counter", "--json"]
        found = run("get", *budget, "--node", other.url).json["value"]
        assert (found["available"], found["consumed"]) == (5, 4)


def test_an_export_to_standard_output_is_json_lines(ask: Run) -> None:
    ask("set", "lines", "key", "1")
    (line,) = ask("export", "--space", "lines").out.splitlines()
    assert json.loads(line)["arguments"] == [1]
