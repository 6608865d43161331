"""Documents: edits are woven together, compacted when stable, and stay deleted."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from typing import Any, cast

import pycrdt
import pytest

from crdtmem.crdt import DATATYPES
from crdtmem.crdt import document as document_module
from crdtmem.crdt.document import COMPACT_AT_COUNT, Document
from crdtmem.crdt.updates import absorb, client_id, materialise
from crdtmem.errors import ConditionFailed, InvalidValue
from tests.capabilities import SHARED_DATA
from tests.conformance.harness import Fleet, HarnessReader, HarnessView

DOCUMENT = cast("Document", DATATYPES["document"])


class Editor:
    """Someone with a document open at one replica."""

    def __init__(self, fleet: Fleet, index: int) -> None:
        self.fleet = fleet
        self.index = index
        replica = fleet[index]
        session = replica.vector.get(replica.replica, 0) + 1
        place = replica.place(DOCUMENT, "k")
        held = DOCUMENT.updates(place, HarnessReader())
        self.document = materialise(held, client_id(replica.replica, ("k",), session))
        self.text = self.document.get("text", type=pycrdt.Text)

    def edit(self, position: int, insert: str = "", delete: int = 0) -> None:
        """Change the text, and write the update."""
        before = self.document.get_state()
        with self.document.transaction():
            if delete:
                del self.text[position : position + delete]
            if insert:
                self.text.insert(position, insert)
        self.fleet.act(self.index, "document", "update", self.document.get_update(before))


@pytest.fixture
def compacts_early() -> Iterator[None]:
    """Compact from two updates on."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(document_module, "COMPACT_AT_COUNT", 2)
        yield


def test_concurrent_edits_are_woven_together() -> None:
    fleet = Fleet(2)
    Editor(fleet, 0).edit(0, "memory")
    fleet.settle()
    Editor(fleet, 0).edit(0, "shared ")
    Editor(fleet, 1).edit(6, " of agents")
    fleet.settle()
    for replica in fleet.replicas:
        assert replica.value(DOCUMENT) == {"text": "shared memory of agents"}


def test_bytes_that_are_no_update_are_refused_and_nothing_is_written() -> None:
    fleet = Fleet(1)
    with pytest.raises(InvalidValue, match="no document update"):
        fleet.act(0, "document", "update", b"junk")
    assert fleet.everything() == []


def test_many_small_stable_updates_become_one() -> None:
    fleet = Fleet(2)
    editor = Editor(fleet, 0)
    for number in range(COMPACT_AT_COUNT):
        editor.edit(0, str(number % 10))
    expected = fleet[0].value(DOCUMENT)
    fleet.collect(0, "document")
    assert len(fleet[0].dots(DOCUMENT)) == COMPACT_AT_COUNT, "not stable yet"
    fleet.settle()
    editor.edit(0, "!")
    fleet.collect(0, "document")
    assert len(fleet[0].dots(DOCUMENT)) == 2
    fleet.settle()
    assert fleet[1].value(DOCUMENT) == {"text": "!" + expected["text"]}


@pytest.mark.usefixtures("compacts_early")
def test_a_document_deleted_while_it_is_compacted_stays_deleted() -> None:
    fleet = Fleet(2)
    editor = Editor(fleet, 0)
    editor.edit(0, "a")
    editor.edit(1, "b")
    fleet.settle()
    fleet.collect(0, "document")
    fleet.act(1, "document", "delete")
    fleet.settle()
    for replica in fleet.replicas:
        assert replica.value(DOCUMENT) == {}
        assert not replica.exists(DOCUMENT)
    fleet.collect(1, "document")
    fleet.settle()
    assert fleet[0].places() == fleet[1].places() == {}


@pytest.mark.usefixtures("compacts_early")
def test_two_replicas_that_compact_at_once_do_no_harm() -> None:
    fleet = Fleet(2)
    editor = Editor(fleet, 0)
    editor.edit(0, "a")
    editor.edit(1, "b")
    fleet.settle()
    fleet.collect(0, "document")
    fleet.collect(1, "document")
    fleet.settle()
    assert fleet[0].value(DOCUMENT) == {"text": "ab"}
    fleet.collect(0, "document")
    assert len(fleet[0].dots(DOCUMENT)) == 1


@pytest.mark.usefixtures("compacts_early")
def test_a_delete_upon_a_read_needs_all_of_it_to_have_been_read() -> None:
    fleet = Fleet(1)
    editor = Editor(fleet, 0)
    editor.edit(0, "a")
    editor.edit(1, "b")
    seen = fleet[0].dots(DOCUMENT)
    fleet.settle()
    fleet.collect(0, "document")
    with pytest.raises(ConditionFailed, match="not observed"):
        fleet.act(0, "document", "delete", observed=seen)
    fleet.act(0, "document", "delete", observed=fleet[0].dots(DOCUMENT))
    assert not fleet[0].exists(DOCUMENT)


def test_written_again_after_a_delete_it_starts_from_nothing() -> None:
    fleet = Fleet(2)
    Editor(fleet, 0).edit(0, "old")
    fleet.settle()
    fleet.act(1, "document", "delete")
    Editor(fleet, 1).edit(0, "new")
    fleet.settle()
    assert fleet[0].value(DOCUMENT) == {"text": "new"}
    assert fleet.act(1, "document", "delete") is None
    assert fleet[1].value(DOCUMENT) == {}


@pytest.mark.needs_data
def test_two_replicas_replay_a_real_session_to_its_end() -> None:
    """The edits of two people, in the order and on the versions that they had."""
    path = SHARED_DATA / "editing" / "friendsforever.json.gz"
    trace: dict[str, Any] = json.loads(gzip.decompress(path.read_bytes()))
    written = replay(trace)
    fleet = Fleet(2)
    for agent in (0, 1):
        own = [update for writer, update in written if writer == agent]

        def write(view: HarnessView, own: list[bytes] = own) -> None:
            for update in own:
                DOCUMENT.update(view, update)

        fleet.write(agent, DOCUMENT, write)
    fleet.settle()
    assert fleet[0].value(DOCUMENT) == {"text": trace["endContent"]}
    assert fleet[1].value(DOCUMENT) == {"text": trace["endContent"]}
    fleet.collect(0, "document")
    fleet.settle()
    assert fleet[1].value(DOCUMENT) == {"text": trace["endContent"]}


def replay(trace: dict[str, Any]) -> list[tuple[int, bytes]]:
    """Return ``(agent, update)`` of every transaction, each made on the version that it had."""
    documents: list[pycrdt.Doc[Any]] = [
        pycrdt.Doc(client_id=agent + 1) for agent in range(trace["numAgents"])
    ]
    texts = [document.get("text", type=pycrdt.Text) for document in documents]
    written: list[tuple[int, bytes]] = []
    # A version is how many transactions of each agent it holds.
    versions: list[list[int]] = []
    held = [[0] * len(documents) for _ in documents]
    by_agent: list[list[bytes]] = [[] for _ in documents]
    made: list[bytes] = []
    subscriptions = [
        document.observe(lambda event: made.append(event.update)) for document in documents
    ]
    for transaction in trace["txns"]:
        agent = transaction["agent"]
        document, text = documents[agent], texts[agent]
        parents = [versions[parent] for parent in transaction["parents"]]
        past = [max(counts) for counts in zip(*parents, strict=True)] or [0] * len(documents)
        for other, count in enumerate(past):
            for update in by_agent[other][held[agent][other] : count]:
                assert absorb(document, update)
            held[agent][other] = max(held[agent][other], count)
        with document.transaction():
            for position, deleted, inserted in transaction["patches"]:
                if deleted:
                    del text[position : position + deleted]
                if inserted:
                    text.insert(position, inserted)
        update = bytes(made[-1])
        by_agent[agent].append(update)
        held[agent][agent] += 1
        versions.append([*past[:agent], len(by_agent[agent]), *past[agent + 1 :]])
        written.append((agent, update))
        made.clear()
    assert len(subscriptions) == len(documents)
    return written
