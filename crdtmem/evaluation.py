"""Evaluation: one operation of a transaction, against what is staged so far.

Problem: whether a write may go ahead depends on what the place holds at the
moment of staging: a condition must still hold, and a place that is crowded with
concurrent values must not take blind writes.

Idea: conditions are checked by dots, never by values: an ``Observed`` names what
was read, and either that is exactly what is there, or the caller gets the newer
siblings to decide upon again. Bounds bind local writes only; joins never come
here. Nor do they bind the system space: its words (proposals, policies) are said by
several at once when a cluster is in trouble, and whoever says the next one settles them.

Invariants: an operation that is refused has staged nothing, or what it staged
is taken back by its transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from crdtmem.batch import SpaceName
from crdtmem.causality import Observed
from crdtmem.crdt import DATATYPES_BY_CODE, DataType
from crdtmem.entries import NO_METADATA, Entry, Siblings
from crdtmem.errors import ConditionFailed, InvalidValue, SiblingLimit
from crdtmem.limits import Limits
from crdtmem.policy import SYSTEM_SPACE, Policy
from crdtmem.reading import describe
from crdtmem.staged_view import StagedView
from crdtmem.staging import TransactionStage
from crdtmem.table import Overlay
from crdtmem.transaction import CountRun, Operation, Options, PutRun

__all__ = ["carry_out", "carry_out_all", "refuse_crowded"]


def carry_out_all(
    stage: TransactionStage, policy_of: Callable[[SpaceName], Policy], limits: Limits
) -> list[Any]:
    """Stage all steps of a transaction; returns the operations' results. Raises ``LocalError``s."""
    results: list[Any] = []
    for step in stage.transaction.steps:
        policy = policy_of(step.space)
        if isinstance(step, CountRun):
            _count(stage, step, policy, limits)
        elif isinstance(step, PutRun):
            if step.space != SYSTEM_SPACE:
                refuse_crowded(stage.overlay, step, limits)
            stage.put_run(step, policy)
        else:
            results.append(carry_out(stage, step, policy, limits))
    return results


def _count(stage: TransactionStage, run: CountRun, policy: Policy, limits: Limits) -> None:
    if not policy.trust_ordered:
        stage.count_run(run)
        return
    # Where trust is ordered an author may have to begin a total of its own.
    for key, amount in zip(run.keys, run.values, strict=True):
        step = Operation(run.space, run.datatype, key, "increment", (amount,))
        carry_out(stage, step, policy, limits)


def carry_out(stage: TransactionStage, operation: Operation, policy: Policy, limits: Limits) -> Any:
    """Stage one operation; returns its result. Raises ``LocalError``s."""
    kind = DATATYPES_BY_CODE[operation.datatype]
    table = stage.overlay.state.table(operation.space, operation.datatype)
    options = operation.options
    metadata = NO_METADATA if options is None else options.entry_metadata()
    view = StagedView(stage, table, operation.key, options, policy, metadata)
    if operation.name.startswith("_"):
        return _internal_operation(kind, view, operation)
    expires = options is not None and options.expires_at_us is not None
    if expires and not kind.may_expire(operation.name, operation.arguments):
        raise InvalidValue(
            f"a {kind.name} guards against what may still arrive, and cannot expire",
            hint="delete it when its time has come",
        )
    if options is not None and options.conditional:
        held = kind.touches(view, operation.name, operation.arguments)
        _require_observed(operation.key, held, options.observed or frozenset(), view.now_us)
    elif kind.conflicting and operation.space != SYSTEM_SPACE:
        for name, held in kind.contests(view, operation.name, operation.arguments):
            if len(held) >= limits.siblings and _has_seen_none(held, options):
                raise _sibling_limit(name, held)
    return kind.apply(view, operation.name, operation.arguments)


def refuse_crowded(overlay: Overlay, run: PutRun, limits: Limits) -> None:
    """Refuse blind writes of places at the sibling limit; only contested ones can be."""
    table = overlay.state.table(run.space, run.datatype)
    if not table.contested:
        return
    for key in run.keys:
        slot = overlay.slot(table, key) if (key, None) in table.contested else None
        if type(slot) is Siblings and len(slot) >= limits.siblings:
            raise _sibling_limit(key, slot)


def _internal_operation(kind: DataType, view: StagedView, operation: Operation) -> None:
    """Carry out what only this program asks for: removing dots, and collection."""
    if operation.name == "_remove":
        field, dots = operation.arguments
        view.remove([entry[0] for entry in view.slot(field) if entry[0] in dots], field)
    elif operation.name == "_collect":
        kind.collect(view, operation.arguments[0])
    else:
        raise InvalidValue(f"no operation is called {operation.name!r}")


def _require_observed(
    key: str, held: tuple[Entry, ...], observed: frozenset[int], now_us: int
) -> None:
    """Refuse a conditional write unless the place holds exactly what was observed.

    A reading leaves out what has expired, although it is held until its removal
    arrives: an expired entry may be among the observed, but need not be.
    """
    dots = {entry[0] for entry in held}
    live = {
        dot for dot, _, stamp in held if stamp.expires_at_us is None or stamp.expires_at_us > now_us
    }
    if not live <= observed <= dots:
        raise ConditionFailed(
            f"{key!r} is not what was observed",
            hint="decide again upon the attached siblings, with their Observed",
            siblings=[describe(entry).as_value() for entry in held],
            observed=str(Observed(dots)),
        )


def _has_seen_none(held: tuple[Entry, ...], options: Options | None) -> bool:
    """Tell whether a write is blind, or observed nothing of what is there and only adds to it."""
    if options is None or options.observed is None:
        return True
    return options.observed.isdisjoint(entry[0] for entry in held)


def _sibling_limit(key: str, held: Sequence[Entry]) -> SiblingLimit:
    return SiblingLimit(
        f"{key!r} holds {len(held)} concurrent values, which is the limit",
        hint="read them, and write with their Observed to settle them",
        siblings=[describe(entry).as_value() for entry in held],
        observed=str(Observed(entry[0] for entry in held)),
    )
