"""Removal-wins places: where a removal beats every addition that has not seen it.

Problem: "this permission is revoked" must win against a grant that was made
elsewhere at the same moment, and it must keep winning whatever is delivered
late, and one day the evidence must go without anyone noticing that it went.

Idea: presence (``True``) and removal (``False``) are both entries. Any removal
that survives wins. An addition supersedes *all* that its replica holds of the
place, whatever its caller had looked at, because an addition that left a
removal standing would be no addition; where trust forbids that, it is refused.
A removal supersedes what its writer observed, and keeps beating the rest.

Collection: a removal is *stable* when nothing concurrent with it can still
arrive. Whatever arrives later has seen it, and an addition that has seen it has
superseded it. So the removal may go, provided that every presence beside it
goes in the same delta: one left behind would come back to life.

Invariants: a staged presence leaves no removal that its replica holds; a place
that holds a removal reads as absent; removals do not expire.

Remove-wins sets are in Bieniusa et al., "An Optimized Conflict-free Replicated
Set"; causal stability is Baquero, Almeida & Shoker, "Pure Operation-based
Replicated Data Types".
"""

from __future__ import annotations

from collections.abc import Callable

from crdtmem.crdt.base import Reader, WriteView
from crdtmem.entries import Entry, Field, Slot, as_siblings
from crdtmem.errors import ConditionFailed

__all__ = ["collect_removals", "put_presence", "put_removal", "stands", "withdraw"]


def put_presence(view: WriteView, field: Field | None = None) -> int:
    """Stage a presence over everything held of the place; returns its dot.

    Raises ``ConditionFailed`` when a removal of higher trust stands there.
    """
    held = view.slot(field)
    superseded = view.supersede_all(held)
    if any(value is False and dot not in superseded for dot, value, _ in held):
        raise _outranked(view, "removal")
    return view.put(True, superseded, field)


def put_removal(view: WriteView, field: Field | None = None) -> int:
    """Stage a removal over what was observed of the place; returns its dot.

    Raises ``ConditionFailed`` when a presence of higher trust stands there alone:
    it would not be superseded, and yet be hidden.
    """
    held = view.slot(field)
    if all(value is not False for _, value, _ in held):
        if len(view.supersede_all(held)) < len(held):
            raise _outranked(view, "presence")
    return view.put(False, view.supersede(held), field)


def withdraw(view: WriteView, field: Field | None = None) -> bool:
    """Stage a removal only of a presence that was observed; return whether there was one.

    For deletes, which are about what there is. A place that holds a removal must
    be left alone: that it holds one may have been collected elsewhere already,
    and whoever deletes there must come to the same.
    """
    held = view.slot(field)
    if any(value is False for _, value, _ in held) or not view.supersede(held):
        return False
    put_removal(view, field)
    return True


def _outranked(view: WriteView, what: str) -> ConditionFailed:
    return ConditionFailed(
        f"a {what} of higher trust stands at {view.key!r:.80}",
        hint="write with at least the trust of whoever wrote it",
    )


def stands(slot: Slot | None, reader: Reader) -> bool:
    """Tell whether the place reads as present: some live presence, and no removal at all."""
    entries = as_siblings(slot)
    if any(value is False for _, value, _ in entries):
        return False
    return bool(reader.live(slot))


def collect_removals(
    view: WriteView,
    entries: tuple[Entry, ...],
    stable: Callable[[int], bool],
    field: Field | None = None,
) -> None:
    """Stage the delta that drops the stable removals and every presence beside them."""
    if any(value is False and stable(dot) for dot, value, _ in entries):
        view.remove([dot for dot, value, _ in entries if value is not False or stable(dot)], field)
