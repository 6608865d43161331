"""Replaying a text that two people wrote at once, through replicated documents.

Problem: a recorded editing session is a graph: every change names the changes that
its author had seen, and its positions mean the text as it was at that point. Played
in file order into one text it would be nonsense.

Idea: each author gets a document of their own, at exactly the version that they had
when they typed. Before a change, the author's document takes in whatever that
change's parents have seen and it has not; then the change is applied, and what it
added to the document is an *update*, which is all that is replicated. Consecutive
changes of one author, of which nobody has seen a part, become one update.

``replay`` then writes every author's updates through a replica of their own, each
after the updates that it stands on have been joined there: the order of the
original session, over a real network if that is what lies between.

Invariants: an author's document never holds a change that its author had not seen;
the author with the lower number has the lower document client id, since that is
what decides the order of insertions made at one place at one time.

The format is that of the editing-traces collection (Gentle): ``txns`` with
``parents``, ``agent`` and ``patches`` of ``[position, deleted, inserted]``.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pycrdt import Doc, Text, merge_updates

from crdtmem.batch import SpaceName
from crdtmem.causality import Context
from crdtmem.errors import InvalidValue
from crdtmem.session import MemoryProtocol

__all__ = ["ROOT", "Edit", "EditingTrace", "read_editing", "replay"]

ROOT: Final = "text"
"""The name of the document's one root."""


@dataclass(frozen=True, slots=True)
class Edit:
    """One update: by whom, and how many edits of each author it stands on."""

    author: int
    seen: tuple[int, ...]
    update: bytes


@dataclass(frozen=True, slots=True)
class EditingTrace:
    """A session: its edits in an order in which each follows what it stands on."""

    authors: int
    edits: list[Edit]
    end_content: str


@dataclass(frozen=True, slots=True)
class _Change:
    author: int
    seen: tuple[int, ...]
    patches: list[Any]


def read_editing(path: Path) -> EditingTrace:
    """Read an editing trace (``.json`` or ``.json.gz``) and make its updates.

    Raises ``InvalidValue`` for anything that is no trace.
    """
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
        trace = json.loads(content)
        authors, end_content = int(trace["numAgents"]), str(trace["endContent"])
        changes = _changes(trace["txns"], authors)
        return EditingTrace(authors, _edits(changes, authors), end_content)
    except OSError as error:
        raise InvalidValue(f"{path} cannot be read: {error}", hint="check the path") from error
    except (EOFError, zlib.error, ValueError, KeyError, TypeError, IndexError) as error:
        raise InvalidValue(
            f"{path} is no editing trace: {error!r:.200}",
            hint="a trace is an object with numAgents, endContent and txns",
        ) from error


def _changes(transactions: list[Any], authors: int) -> list[_Change]:
    """Number every change per author, and say how many of each its author had seen."""
    changes: list[_Change] = []
    reached: list[tuple[int, ...]] = []
    own = [0] * authors
    for transaction in transactions:
        author = transaction["agent"]
        seen = [0] * authors
        for parent in transaction["parents"]:
            seen = list(map(max, seen, reached[parent]))
        if seen[author] != own[author]:
            raise ValueError(f"author {author} forgot a change of their own")
        own[author] += 1
        changes.append(_Change(author, tuple(seen), transaction["patches"]))
        seen[author] += 1
        reached.append(tuple(seen))
    return changes


def _ends(changes: list[_Change], authors: int) -> list[set[int]]:
    """Return after which of their changes each author's edits end.

    Those that somebody else stands on, the last before their author took in news, and
    the very last.
    """
    ends: list[set[int]] = [set() for _ in range(authors)]
    latest: list[_Change | None] = [None] * authors
    for change in changes:
        author, seen = change.author, change.seen
        before = latest[author]
        for other in range(authors):
            if other != author:
                ends[other].add(seen[other])
                if before is not None and before.seen[other] != seen[other]:
                    ends[author].add(seen[author])
        latest[author] = change
    for author, last in enumerate(latest):
        if last is not None:
            ends[author].add(last.seen[author] + 1)
    return ends


@dataclass(slots=True)
class _Author:
    """One author's document while the trace is played."""

    document: Doc[Any]
    text: Text
    held: list[int]
    """How many edits of each author the document holds."""
    edits_at: dict[int, int]
    """How many edits were complete after so many changes."""
    updates: list[bytes]
    typed: list[bytes]
    """What the changes of the edit under way have added."""


def _edits(changes: list[_Change], authors: int) -> list[Edit]:
    """Play the changes, each in its author's document, and keep what each edit added."""
    ends = _ends(changes, authors)
    players: list[_Author] = []
    for number in range(authors):
        document: Doc[Any] = Doc(client_id=number + 1)
        text = document.get(ROOT, type=Text)
        players.append(_Author(document, text, [0] * authors, {0: 0}, [], []))
    edits: list[Edit] = []
    for change in changes:
        player = players[change.author]
        if not player.typed:
            _take_in(player, players, change)
        _type(player, change.patches)
        count = change.seen[change.author] + 1
        if count in ends[change.author]:
            update = merge_updates(*player.typed)
            edits.append(Edit(change.author, tuple(player.held), update))
            player.updates.append(update)
            player.held[change.author] += 1
            player.edits_at[count] = len(player.updates)
            player.typed = []
    return edits


def _take_in(player: _Author, players: list[_Author], change: _Change) -> None:
    """Bring an author's document to what the author had seen when they typed."""
    for number, other in enumerate(players):
        if number != change.author:
            needed = other.edits_at[change.seen[number]]
            for update in other.updates[player.held[number] : needed]:
                player.document.apply_update(update)
            player.held[number] = max(player.held[number], needed)


def _type(player: _Author, patches: list[Any]) -> None:
    """Apply patches; positions count characters, and pycrdt's count UTF-8 bytes."""
    text = player.text
    # An observer is told what a transaction added; asking the document for its update
    # since a state would repeat every deletion that it has ever seen.
    watching = player.document.observe(lambda event: player.typed.append(event.update))
    with player.document.transaction():
        for position, deleted, inserted in patches:
            start, end = position, position + deleted
            if not (shown := str(text)).isascii():
                start = len(shown[:position].encode())
                end = start + len(shown[position : position + deleted].encode())
            if deleted:
                del text[start:end]
            if inserted:
                text.insert(start, inserted)
    player.document.unobserve(watching)


async def replay(
    trace: EditingTrace, memories: Sequence[MemoryProtocol], space: SpaceName, key: str
) -> list[Context]:
    """Write each author's edits through a memory of their own, as one document.

    An edit is written once its memory has joined the edits that it stands on. Returns, per
    author, the context of the last one. Raises what a commit or ``wait_for`` raises.
    """
    if len(memories) != trace.authors:
        raise InvalidValue(
            f"a trace of {trace.authors} authors was given {len(memories)} memories",
            hint="give one memory per author",
        )
    documents = [memory.space(*space).document(key) for memory in memories]
    contexts: list[list[Context]] = [[] for _ in memories]
    joined = [[0] * trace.authors for _ in memories]
    for edit in trace.edits:
        memory, held = memories[edit.author], joined[edit.author]
        for other, count in enumerate(edit.seen):
            if other != edit.author and count > held[other]:
                await memory.wait_for(contexts[other][count - 1])
                held[other] = count
        committed = await documents[edit.author].update(edit.update)
        contexts[edit.author].append(committed.context)
    return [written[-1] if written else Context() for written in contexts]
