"""The importer: real files become writes, bad ones an error that names its line."""

from __future__ import annotations

import asyncio
import gzip
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from pycrdt import Doc, Text

from crdtmem import importer
from crdtmem.config import load_settings
from crdtmem.editing import ROOT, read_editing
from crdtmem.errors import InvalidValue, LimitExceeded
from crdtmem.importer import Event, ImportTotals, import_events, plan, read_events
from crdtmem.limits import DEFAULT_LIMITS
from crdtmem.memory import Memory
from crdtmem.node import Node

SPACE = ("imported",)
TURN = {"id": "D1:3", "session": 1, "speaker": "Ada", "text": "I went to the museum."}
MESSAGE = {
    "run": 4,
    "step": 2,
    "role": "assistant",
    "content": None,
    "tool_calls": [{"id": "call_1", "name": "book", "arguments": "{}"}],
}


def write_lines(path: Path, *lines: Any) -> Path:
    text = "".join(f"{line if type(line) is str else json.dumps(line)}\n" for line in lines)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")
    return path


def with_memory(scenario: Callable[[Memory], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        async with await Memory.open("memory:", region="eu-west", tune_gc=False) as memory:
            await scenario(memory)

    asyncio.run(run())


# ------------------------------------------------------------------ reading


@pytest.mark.parametrize("name", ["talk.events.jsonl", "talk.jsonl.gz", "talk.jsonl"])
def test_each_line_is_an_event_of_its_shape(tmp_path: Path, name: str) -> None:
    path = write_lines(tmp_path / name, TURN, "", MESSAGE, {"any": ["thing"]})
    events = list(read_events(path))
    assert [(event.shape, event.source, event.line) for event in events] == [
        ("turn", "talk", 1),
        ("message", "talk", 3),
        ("object", "talk", 4),
    ]
    assert events[0].body == TURN


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{oh", "is not JSON"),
        ("[1, 2]", "is a JSON list, not an object"),
        ('{"a": NaN}', "NaN is not JSON"),
        ('{"a": ' + "[" * 5000 + "]" * 5000 + "}", "is not JSON"),
        ("null", "NoneType"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, reason: str) -> None:
    path = write_lines(tmp_path / "bad.jsonl", TURN, "", line)
    with pytest.raises(InvalidValue, match=reason) as caught:
        list(read_events(path))
    assert f"{path}:3 " in caught.value.message
    assert caught.value.details == {"path": str(path), "line": 3}


def test_bytes_that_are_no_text_are_named(tmp_path: Path) -> None:
    path = tmp_path / "bytes.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a": "\xff"}\n')
    with pytest.raises(InvalidValue, match=r":2 is not UTF-8 at byte 7"):
        list(read_events(path))


def test_a_byte_order_mark_is_forgiven(tmp_path: Path) -> None:
    path = tmp_path / "marked.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\n')
    assert [event.body for event in read_events(path)] == [{"a": 1}]


def test_a_line_that_never_ends_is_refused_without_holding_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importer, "LINE_BYTES", 1_000)
    path = write_lines(tmp_path / "long.jsonl", {"a": 1}, {"a": "x" * 2_000})
    with pytest.raises(LimitExceeded, match=r":2 is longer than 1000 bytes"):
        list(read_events(path))


@pytest.mark.parametrize("damage", ["cut", "flipped", "absent", "folder"])
def test_a_file_that_cannot_be_read_says_so(tmp_path: Path, damage: str) -> None:
    path = write_lines(tmp_path / "packed.jsonl.gz", *[{"number": n} for n in range(2_000)])
    content = path.read_bytes()
    if damage == "cut":
        path.write_bytes(content[:-40])
    elif damage == "flipped":
        path.write_bytes(content[:200] + bytes([content[200] ^ 255]) + content[201:])
    else:
        path.unlink()
        if damage == "folder":
            path.mkdir()
    with pytest.raises(InvalidValue, match=r"damaged|cannot be read|is not JSON|UTF-8") as caught:
        list(read_events(path))
    assert caught.value.hint


def test_progress_ends_at_the_files_size(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "long.jsonl.gz", *[{"number": n} for n in range(1_000)])
    told: list[tuple[int, int]] = []
    assert sum(1 for _ in read_events(path, lambda done, size: told.append((done, size)))) == 1_000
    size = path.stat().st_size
    assert told[-1] == (size, size)
    assert len(told) == 6
    assert told == sorted(told)


# ------------------------------------------------------------------ planning


def event_of(body: dict[str, Any], shape: str) -> Event:
    return Event(shape, "talk", "talk.jsonl", 7, body)


def test_a_turn_is_a_fact_a_line_a_count_and_a_speaker() -> None:
    planned = plan(event_of(TURN, "turn"), SPACE)
    assert [(step.key, step.name) for step in planned] == [
        ("fact:talk:D1:3", "update"),
        ("timeline:talk:1", "append"),
        ("turns:talk:Ada", "increment"),
        ("speakers:talk", "add"),
    ]
    assert {step.space for step in planned} == {SPACE}


def test_a_record_is_the_operation_that_it_names() -> None:
    body = {"space": ["a"], "type": "counter", "key": "k", "operation": "increment"}
    (planned,) = plan(event_of({**body, "arguments": [3]}, "record"), SPACE)
    assert (planned.space, planned.key, planned.name, planned.arguments) == (
        ("a",),
        "k",
        "increment",
        (3,),
    )
    with pytest.raises(InvalidValue, match=r"talk.jsonl:7: .* is no exported record"):
        plan(event_of({**body, "arguments": 3}, "record"), SPACE)


def test_members_of_the_wrong_type_name_the_line() -> None:
    with pytest.raises(InvalidValue, match=r"talk.jsonl:7 has the speaker None"):
        plan(event_of({**TURN, "speaker": None}, "turn"), SPACE)
    with pytest.raises(InvalidValue, match=r"talk.jsonl:7 has a tool call without a name"):
        plan(event_of({**MESSAGE, "tool_calls": [{}]}, "message"), SPACE)


# ------------------------------------------------------------------ writing


def test_events_are_written_with_their_authors_and_count_once(tmp_path: Path) -> None:
    second = {**TURN, "id": "D1:4", "speaker": "Bob", "text": "Which one?"}
    path = write_lines(tmp_path / "talk.jsonl", TURN, second, MESSAGE, {"any": ["thing"]})

    async def scenario(memory: Memory) -> None:
        told: list[int] = []
        totals = await import_events(
            memory, read_events(path), SPACE, on_commit=lambda sums: told.append(sums.events)
        )
        assert totals == ImportTotals(events=4, operations=13, transactions=4, repeated=0)
        assert told == [1, 2, 3, 4]
        again = await import_events(memory, read_events(path), SPACE)
        assert again.repeated == 4
        space = memory.space(*SPACE)
        fact = await space.map("fact:talk:D1:4").read()
        assert fact.value == {"session": 1, "speaker": "Bob", "text": "Which one?"}
        assert {sibling.author for sibling in fact.siblings} == {"Bob"}
        assert await space.log("timeline:talk:1").get() == ["D1:3", "D1:4"]
        assert await space.counter("turns:talk:Ada").get() == 1
        assert set(await space.set("speakers:talk").get()) == {"Ada", "Bob"}
        assert await space.counter("tool_calls:talk:book").get() == 1
        assert await space.get("object:talk:4") == {"any": ["thing"]}
        assert (await space.get("state:talk:4"))["step"] == 2

    with_memory(scenario)


@pytest.mark.parametrize(
    "line", [{"id": "x", "speaker": "Ada", "text": 1 << 80}, '{"lone": "\\ud800"}']
)
def test_what_cannot_be_stored_names_its_line_and_what_came_before_stays(
    tmp_path: Path, line: Any
) -> None:
    path = write_lines(tmp_path / "talk.jsonl", {"fine": 1}, line)

    async def scenario(memory: Memory) -> None:
        with pytest.raises(InvalidValue, match=f"{path}:2"):
            await import_events(memory, read_events(path), SPACE)

    with_memory(scenario)


def test_an_export_is_imported_as_it_was(tmp_path: Path) -> None:
    record = {"space": ["trip"], "type": "register", "key": "city", "operation": "set"}
    element = {"space": ["trip"], "type": "set", "key": "seen", "operation": "add"}
    path = write_lines(
        tmp_path / "export.jsonl",
        {**record, "arguments": ["Rome"], "author": "ada", "dot": "a:1", "sibling": True},
        {**record, "arguments": ["Oslo"], "author": "ada", "dot": "b:1", "sibling": True},
        {**element, "arguments": [{"$bytes": "AAE="}], "author": "bob", "dot": "a:2"},
        {**element, "arguments": ["Colosseum"], "author": "bob", "dot": "a:3"},
    )

    async def scenario(memory: Memory) -> None:
        totals = await import_events(memory, read_events(path), SPACE)
        assert (totals.events, totals.transactions) == (4, 3)
        reading = await memory.space("trip").register("city").read()
        assert sorted(sibling.value for sibling in reading.siblings) == ["Oslo", "Rome"]
        assert {sibling.author for sibling in reading.siblings} == {"ada"}
        assert await memory.space("trip").set("seen").get() == ["Colosseum", b"\x00\x01"]

    with_memory(scenario)


def test_a_record_that_is_none_names_its_line(tmp_path: Path) -> None:
    record = {"space": "trip", "type": "register", "key": "k", "operation": "set", "arguments": []}
    path = write_lines(tmp_path / "export.jsonl", {"fine": 1}, record)

    async def scenario(memory: Memory) -> None:
        with pytest.raises(InvalidValue, match=f"{path}:2: .* is no exported record"):
            await import_events(memory, read_events(path), SPACE)

    with_memory(scenario)


def test_memory_stays_bounded_while_commits_are_slow(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "many.jsonl", *[{"number": n} for n in range(500)])

    async def scenario(memory: Memory) -> None:
        read = 0
        ahead: list[int] = []

        def counted() -> Any:
            nonlocal read
            for event in read_events(path):
                read += 1
                yield event

        await import_events(
            memory, counted(), SPACE, on_commit=lambda sums: ahead.append(read - sums.events)
        )
        assert read == 500
        assert max(ahead) <= importer.IN_FLIGHT

    with_memory(scenario)


# ------------------------------------------------------------------ real input


@pytest.mark.needs_data
def test_every_recorded_conversation_can_be_planned(shared_data: Path) -> None:
    paths = [*shared_data.glob("locomo/*.jsonl"), *shared_data.glob("agent_runs/*.jsonl.gz")]
    assert len(paths) == 11
    shapes: dict[str, int] = {}
    for path in paths:
        for planned in importer.transactions(read_events(path), SPACE, DEFAULT_LIMITS):
            assert planned.transaction.steps
            shape = planned.events[0].shape
            shapes[shape] = shapes.get(shape, 0) + 1
    assert shapes == {"turn": 2_960, "object": 1_020, "message": 2_658}


@pytest.mark.needs_data
def test_an_editing_session_of_two_becomes_updates_that_merge_to_its_end(
    shared_data: Path,
) -> None:
    trace = read_editing(shared_data / "editing" / "friendsforever.json.gz")
    assert trace.authors == 2
    assert len(trace.edits) < 5_000
    document: Doc[Any] = Doc()
    for edit in trace.edits:
        document.apply_update(edit.update)
    assert str(document.get(ROOT, type=Text)) == trace.end_content


def test_concurrent_edits_mean_the_text_that_their_author_saw(tmp_path: Path) -> None:
    def change(agent: int, parents: list[int], *patches: list[Any]) -> dict[str, Any]:
        return {"agent": agent, "parents": parents, "patches": list(patches)}

    path = tmp_path / "trace.json"
    trace = {
        "numAgents": 2,
        "endContent": "Zwölf Äpfel und Birnen!",
        "txns": [
            change(0, [], [0, 0, "Äpfel"]),
            change(0, [0], [5, 0, " und"]),
            change(1, [0], [0, 0, "Zwölf "]),  # has not seen " und"
            change(1, [1, 2], [15, 0, " Pflaumen"]),
            change(1, [3], [16, 8, "Birnen"]),
            change(0, [4], [22, 0, "!"]),
        ],
    }
    path.write_text(json.dumps(trace), encoding="utf-8")
    found = read_editing(path)
    assert [(edit.author, edit.seen) for edit in found.edits] == [
        (0, (0, 0)),
        (0, (1, 0)),
        (1, (1, 0)),
        (1, (2, 1)),
        (0, (2, 2)),
    ]
    document: Doc[Any] = Doc()
    for edit in found.edits:
        document.apply_update(edit.update)
    assert str(document.get(ROOT, type=Text)) == trace["endContent"]


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{}", b"\x1f\x8bnot", b'{"numAgents": 1, "endContent": "", "txns": [{}]}'],
)
def test_what_is_no_editing_trace_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "trace.json.gz"
    path.write_bytes(content)
    with pytest.raises(InvalidValue, match=r"is no editing trace|cannot be read"):
        read_editing(path)


# ------------------------------------------------------------------ the command


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder whose name is short enough for the path of a Unix socket."""
    with tempfile.TemporaryDirectory(prefix="cm-", dir="/tmp") as name:
        yield Path(name)


def test_the_command_writes_to_a_node_and_names_a_bad_line(short_folder: Path) -> None:
    talk = write_lines(short_folder / "talk.jsonl", TURN, MESSAGE)
    bad = write_lines(short_folder / "bad.jsonl", {"fine": 1}, "{oh")
    flags = {
        "store": "memory:",
        "control_socket": str(short_folder / "sock"),
        "listen": "127.0.0.1:0",
    }

    async def run(*arguments: str) -> tuple[int | None, dict[str, Any]]:
        program = "from crdtmem.cli import main; main()"
        options = ("--json", "--node", flags["control_socket"], "--space", "team/talk")
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, "import", *arguments, *options, stdout=subprocess.PIPE
        )
        output, _ = await process.communicate()
        return process.returncode, json.loads(output)

    async def scenario() -> None:
        node = await Node.start(load_settings(None, {}, flags), tune_gc=False)
        try:
            status, answer = await run(str(talk), str(talk))
            assert status == 0
            assert [row["repeated"] for row in answer["files"]] == [0, 2]
            assert answer["events"] == 4
            assert await node.memory.space("team", "talk").counter("turns:talk:Ada").get() == 1
            status, answer = await run(str(bad))
            assert status == 4
            assert f"{bad}:2 is not JSON" in answer["error"]["message"]
            assert await node.memory.space("team", "talk").get("object:bad:1") is None
        finally:
            await node.stop()

    asyncio.run(scenario())
