"""Rules of the kernel, broken: causality, joining, the order of effects, exactly once.

Problem, idea and invariants: see ``vocabulary``. Every function here breaks the rule that its
docstring names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from crdtmem import bulk, evaluation, joining, staging, table
from crdtmem.batch import Batch, Segment
from crdtmem.clock import HybridClock
from crdtmem.derived import KnownOperations
from crdtmem.digest import DotDigest
from crdtmem.effects import Effect, Reply
from crdtmem.engine import Engine
from crdtmem.entries import EMPTY, Entry, Slot, as_siblings
from crdtmem.epoch import Epoch
from crdtmem.errors import CrdtmemError, StoreError
from crdtmem.executor import Executor, answer, write_flight
from crdtmem.expiry import ExpiryQueue
from crdtmem.flight import Flight, LocalBatch
from crdtmem.inbox import Inbox
from crdtmem.procedures import InStore, Procedure
from crdtmem.replica import Replica
from crdtmem.retries import Retries
from crdtmem.staged_view import StagedView
from crdtmem.store import pending as store_pending
from crdtmem.table import Overlay
from crdtmem.transaction import Operation, PutRun, Transaction
from crdtmem.waiting import Pending
from tests.simulations.planted.vocabulary import Patches

__all__ = [
    "acknowledges_before_the_fsync",
    "answers_before_it_is_covered",
    "answers_durable_everywhere",
    "clock_steps_back_after_a_restart",
    "collects_expired_without_a_delta",
    "conditions_are_not_checked",
    "deletes_by_name",
    "digest_ignores_removals",
    "drops_the_expired_on_join",
    "forgets_a_failed_flights_batches",
    "forgets_operation_ids",
    "forgets_part_of_a_supersession",
    "half_a_transaction",
    "keeps_a_failed_commit",
    "last_write_wins_on_join",
    "names_no_dependencies",
    "never_removes_the_expired",
    "order_ignores_others",
    "publishes_before_the_fsync",
    "reuses_a_dot_after_a_failed_commit",
    "sibling_limit_ignored",
    "skips_dependencies",
    "supersedes_what_was_not_observed",
    "takes_nothing_back",
    "trust_ignored",
    "waits_for_nothing_observed",
]

# A flight for each of two hundred steps would show no more, and take long.
_FEW = 6
_JOINERS = (joining, table, staging, bulk)


# ------------------------------------------------------------------ causality


def skips_dependencies(patches: Patches) -> None:
    """A batch is joined as soon as its origin's earlier batches are, without its dependencies."""
    offer = Inbox.offer

    def bare(self: Inbox, batch: Batch, vector: Mapping[int, int], tips: Any) -> Any:
        return offer(
            self, replace(batch, header=replace(batch.header, dependencies={})), vector, tips
        )

    patches.replace(Inbox, "offer", bare)


def names_no_dependencies(patches: Patches) -> None:
    """A batch says nothing of what its writer had joined."""
    close = LocalBatch.close
    patches.replace(LocalBatch, "close", lambda self, previous, _: close(self, previous, {}))


def waits_for_nothing_observed(patches: Patches) -> None:
    """A write whose ``Observed`` has not arrived is staged all the same."""
    patches.replace(Pending, "covered", lambda self, vector: True)


def answers_before_it_is_covered(patches: Patches) -> None:
    """Who waits for a context is answered at once."""

    def wait(self: Replica, ticket: Any, *_: Any) -> list[Effect]:
        return [Reply(ticket, self.context)]

    patches.replace(Replica, "wait", wait)


def order_ignores_others(patches: Patches) -> None:
    """The order of the hybrid clock does not advance on receipt."""
    patches.replace(HybridClock, "receive", lambda self, order: None)


def clock_steps_back_after_a_restart(patches: Patches) -> None:
    """After a restart the clock begins with what the machine's clock shows."""
    patches.replace(HybridClock, "recover", lambda self, order, physical_us: None)
    patches.replace(Replica, "recover_batch", _without_its_order(Replica.recover_batch))


def _without_its_order(recover_batch: Any) -> Any:
    def recover(self: Replica, batch: Batch) -> None:
        order = self.clock.order
        recover_batch(self, batch)
        self.clock.order = order

    return recover


# ------------------------------------------------------------------ joining


def last_write_wins_on_join(patches: Patches) -> None:
    """An entry that is joined displaces its concurrent siblings."""

    def displace(
        slot: Slot | None, entry: Entry | None, superseded: Iterable[int], removed: list[int]
    ) -> Slot:
        if entry is None:
            plain: Slot = join_slot(slot, entry, superseded, removed)
            return plain
        removed += [old[0] for old in as_siblings(slot) if old[0] != entry[0]]
        return entry

    join_slot = patches.everywhere(_JOINERS, "join_slot", displace)


def deletes_by_name(patches: Patches) -> None:
    """A removal takes whatever the place holds, not the dots that its writer had observed."""

    def clear(
        slot: Slot | None, entry: Entry | None, superseded: Iterable[int], removed: list[int]
    ) -> Slot:
        if entry is not None:
            plain: Slot = join_slot(slot, entry, superseded, removed)
            return plain
        removed += [old[0] for old in as_siblings(slot)]
        return EMPTY

    join_slot = patches.everywhere(_JOINERS, "join_slot", clear)


def forgets_part_of_a_supersession(patches: Patches) -> None:
    """A write that settles several siblings lists the first of them only."""

    def first_only(superseded: tuple[int, ...], dot: int) -> Any:
        return as_column_item(superseded[:1], dot)

    as_column_item = patches.everywhere((staging, bulk), "as_column_item", first_only)


def supersedes_what_was_not_observed(patches: Patches) -> None:
    """A write displaces all that its replica holds of the place, whatever its writer had read."""
    patches.replace(StagedView, "supersede", StagedView.supersede_all)


def trust_ignored(patches: Patches) -> None:
    """A write displaces entries of higher trust than its author's."""

    def all_of_them(self: StagedView, entries: Iterable[Entry]) -> tuple[int, ...]:
        return tuple(entry[0] for entry in entries)

    patches.replace(StagedView, "supersede_all", all_of_them)


def digest_ignores_removals(patches: Patches) -> None:
    """The digest counts what was added, and not what was removed."""
    patches.replace(DotDigest, "remove", lambda self, dots: None)
    patches.replace(DotDigest, "remove_before", lambda self, first_dot, distances: None)


def drops_the_expired_on_join(patches: Patches) -> None:
    """A replica leaves out, by its own clock, what has expired when it arrives."""
    stage = Replica.stage
    now_us = 0

    def stage_now(self: Replica, at_us: int) -> list[Effect]:
        nonlocal now_us
        now_us = at_us
        return stage(self, at_us)

    join = Overlay.join

    def join_living(self: Overlay, segment: Segment) -> None:
        expires_at_us = segment.stamp.expires_at_us
        if expires_at_us is None or expires_at_us > now_us:
            join(self, segment)

    patches.replace(Replica, "stage", stage_now)
    patches.replace(Overlay, "join", join_living)


def collects_expired_without_a_delta(patches: Patches) -> None:
    """What has expired is dropped from the state by a timer, and no delta says so."""
    due = ExpiryQueue.due

    def drop(self: ExpiryQueue, now_us: int, state: Any) -> None:
        transaction = due(self, now_us, state)
        overlay = Overlay(state)
        for step in () if transaction is None else transaction.steps:
            assert isinstance(step, Operation)
            place = state.table(step.space, step.datatype)
            name, dots = step.arguments
            over, base = overlay.names(place, step.key)
            held = base.get(name if place.nested else step.key)
            removed = overlay.removed_of(step.space)
            over[name if place.nested else step.key] = joining.join_slot(held, None, dots, removed)
            overlay.emptied = True
        overlay.publish()

    patches.replace(ExpiryQueue, "due", drop)


def never_removes_the_expired(patches: Patches) -> None:
    """What has expired stays for ever: its origin writes no removal."""
    patches.replace(ExpiryQueue, "due", lambda self, now_us, state: None)
    patches.replace(ExpiryQueue, "next_us", lambda self: None)


# ------------------------------------------------------------------ the order of effects


def acknowledges_before_the_fsync(patches: Patches) -> None:
    """Callers are answered when their flight is handed to the disk."""
    persist = Executor._persist

    def hasty(self: Executor, flight: Flight) -> None:
        for reply in self.engine.replica._answers(flight):
            if type(reply.ticket) is not Transaction:
                answer(reply)
        persist(self, flight)

    patches.replace(Executor, "_persist", hasty)


def publishes_before_the_fsync(patches: Patches) -> None:
    """A flight is visible, sent and answered while the disk still writes it."""

    def hasty(self: Executor, flight: Flight) -> None:
        work = partial(write_flight, self.store, flight, self.now_us())

        def written(_: Any, error: BaseException | None) -> None:
            self.note_landed(flight)
            if isinstance(error, StoreError):
                self.store.reopen()

        self.run_in_store(work, written)
        self.attempt(lambda: self.engine.persisted(flight, self.now_us()))

    patches.replace(Executor, "_persist", hasty)


def reuses_a_dot_after_a_failed_commit(patches: Patches) -> None:
    """A commit that failed counts as lost, and its sequences are given out again."""
    _judge_failed_commits(patches, {})
    append = store_pending.Pending.append

    def anywhere(self: store_pending.Pending, records: Any, arrived_at_us: int) -> None:
        # The store's own guard against a dot that comes twice has to go as well.
        self.heads.clear()
        append(self, records, arrived_at_us)

    patches.replace(store_pending.Pending, "append", anywhere)


class _Everything(dict[int, int]):
    """Heads of a store that holds whatever it is asked for."""

    def get(self, key: int, default: Any = None) -> Any:
        return 1 << 62


def keeps_a_failed_commit(patches: Patches) -> None:
    """A commit that failed counts as durable, and its callers are told so."""
    _judge_failed_commits(patches, _Everything())


def _judge_failed_commits(patches: Patches, heads: dict[int, int]) -> None:
    """Let a failed commit be judged by these heads instead of those that the store reads back."""
    mend = Executor._mend

    def judge(self: Executor, flight: Flight, error: StoreError) -> Procedure[None]:
        real = mend(self, flight, error)
        reading = InStore(self.store.heads)
        try:
            step = next(real)
            while True:
                try:
                    outcome = yield step
                except CrdtmemError as again:
                    step = real.throw(again)
                else:
                    step = real.send(heads if step == reading else outcome)
        except StopIteration:
            return

    patches.replace(Executor, "_mend", judge)


def forgets_a_failed_flights_batches(patches: Patches) -> None:
    """Remote batches whose flight was not committed are dropped, and count as taken in."""
    patches.replace(Inbox, "give_back", lambda self, batches: None)


# ------------------------------------------------------------------ transactions and clients


def half_a_transaction(patches: Patches) -> None:
    """A transaction of several operations is committed one by one."""
    submit = Engine.submit

    def piecemeal(
        self: Engine, ticket: Any, transaction: Transaction, now_us: int, **waits: Any
    ) -> list[Effect]:
        self.replica.flight_deltas = 1
        parts = list(_single_steps(transaction.steps))
        if len(parts) > _FEW:
            return submit(self, ticket, transaction, now_us, **waits)
        effects: list[Effect] = []
        for step in parts[:-1]:
            part = Transaction(author=transaction.author, trust=transaction.trust)
            part.metadata = transaction.metadata
            part.steps.append(step)
            effects += submit(self, None, part.seal(self.limits), now_us, **waits)
        transaction.steps = parts[-1:]
        return effects + submit(self, ticket, transaction.seal(self.limits), now_us, **waits)

    patches.replace(Engine, "submit", piecemeal)


def _single_steps(steps: Iterable[PutRun | Operation]) -> Iterable[PutRun | Operation]:
    for step in steps:
        if isinstance(step, Operation):
            yield step
            continue
        for key, value in zip(step.keys, step.values, strict=True):
            run = type(step)(step.space, step.datatype)
            run.keys.append(key)
            run.values.append(value)
            yield run


def forgets_operation_ids(patches: Patches) -> None:
    """An operation id that was seen before is not recognised, and nothing is taken back."""
    patches.replace(KnownOperations, "find", lambda self, identity: None)
    takes_nothing_back(patches)


def takes_nothing_back(patches: Patches) -> None:
    """Of two copies of one operation that met too late both stand."""
    patches.replace(Retries, "due", lambda self, state: [])


def conditions_are_not_checked(patches: Patches) -> None:
    """A conditional write goes through, whatever the place holds."""
    patches.replace(evaluation, "_require_observed", lambda key, held, observed, now_us: None)


def sibling_limit_ignored(patches: Patches) -> None:
    """A blind write goes through where a place is crowded."""
    patches.replace(evaluation, "_has_seen_none", lambda held, options: False)
    patches.replace(evaluation, "refuse_crowded", lambda overlay, run, limits: None)


def answers_durable_everywhere(patches: Patches) -> None:
    """Who asks for a majority or all regions is told so when the write is durable here."""
    patches.replace(Epoch, "regions_reached", lambda self, vector: set(self.regions()))
