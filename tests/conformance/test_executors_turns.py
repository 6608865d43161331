"""The executors' suite, second part: procedures, what is made of them, and defects.

Each test runs on asyncio and in virtual time, over the store in memory and over SQLite.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from crdtmem.effects import ReadLog
from crdtmem.errors import CrdtmemError, Defect, ReplicaHalted, StoreFailed
from crdtmem.executor import Executor
from crdtmem.procedures import Hold, InStore, Pause, Procedure, Quiet
from tests.conformance.executor_sites import Answer, On, Site, listen

# ------------------------------------------------------------------ procedures


def test_a_procedure_is_sent_what_comes_of_its_steps(on: On) -> None:
    async def body(site: Site) -> None:
        executor = site.executor
        done: list[tuple[Any, BaseException | None]] = []
        seen: list[Any] = []

        def procedure() -> Procedure[str]:
            seen.append((yield InStore(site.store.last_ordinal)))
            began_us = executor.now_us()
            seen.append((yield Pause(30_000)))
            assert executor.now_us() - began_us >= 30_000
            hold = yield Quiet()
            assert isinstance(hold, Hold)
            executor.release(hold)
            return "ended"

        site.enter(lambda: executor.start(procedure(), lambda *ended: done.append(ended)))
        await site.until(lambda: done, "end")
        assert done == [("ended", None)]
        assert seen == [site.store.last_ordinal(), None]

    on(body)


def fails(*_: Any, **__: Any) -> Any:
    raise StoreFailed("planted")


def test_errors_are_thrown_in_where_the_step_was(on: On) -> None:
    async def body(site: Site) -> None:
        done: list[tuple[Any, BaseException | None]] = []

        def procedure() -> Procedure[str]:
            try:
                yield InStore(fails)
            except StoreFailed:
                yield InStore(fails)
            return "never"

        site.enter(lambda: site.executor.start(procedure(), lambda *ended: done.append(ended)))
        await site.until(lambda: done, "end")
        assert done[0][0] is None
        assert isinstance(done[0][1], StoreFailed)
        assert site.executor.defect is None

    on(body)


def test_an_error_that_nobody_waits_for_is_a_defect(on: On) -> None:
    async def body(site: Site) -> None:
        def procedure() -> Procedure[None]:
            yield InStore(fails)

        site.enter(lambda: site.executor.start(procedure()))
        await site.until(lambda: site.executor.defect, "defect")

    on(body)


def test_a_procedure_that_is_given_up_cleans_up_and_reports_to_nobody(on: On) -> None:
    async def body(site: Site) -> None:
        executor = site.executor
        cleaned: list[str] = []
        done: list[Any] = []

        def procedure(name: str) -> Procedure[None]:
            hold = yield Quiet()
            try:
                yield Pause(3_600_000_000)
            finally:
                executor.release(hold)
                cleaned.append(name)

        given_up = procedure("given up")
        site.enter(lambda: executor.start(given_up, lambda *ended: done.append(ended)))
        await site.meanwhile()
        answer = site.put("k", 1)
        executor.give_up(given_up)
        executor.give_up(given_up)
        await site.until(lambda: answer.ok, "writes to go on")
        assert (cleaned, done) == (["given up"], [])

        site.enter(lambda: executor.start(procedure("closed"), lambda *ended: done.append(ended)))
        await site.meanwhile()
        error = CrdtmemError("closing")
        executor.give_up_procedures(error)
        assert (cleaned, done) == (["given up", "closed"], [(None, error)])

    on(body)


def test_who_was_given_up_while_it_waited_for_quiet_leaves_nobody_waiting(on: On) -> None:
    async def body(site: Site) -> None:
        executor = site.executor
        site.hold_disk()
        first = site.put("k", 1)
        await site.meanwhile()

        def procedure() -> Procedure[None]:
            yield Quiet()

        waiting = procedure()
        site.enter(lambda: executor.start(waiting))
        executor.give_up(waiting)
        site.free_disk()
        await site.until(lambda: first.ok, "answer")
        await site.put_all(k=2)

    on(body)


# ------------------------------------------------------------------ what takes several turns


def test_a_checkpoint_is_whole_though_writes_go_on_beside_it(on: On) -> None:
    async def body(site: Site) -> None:
        executor = site.executor
        checkpointer = executor.checkpointer
        assert checkpointer is not None
        await site.put_all(**{f"k{number}": number for number in range(300)})
        done: list[tuple[Any, BaseException | None]] = []
        site.enter(
            lambda: executor.start(checkpointer.checkpoint(), lambda *ended: done.append(ended))
        )
        answers = []
        for number in range(20):
            answers.append(site.put(f"k{number}", -number))
            await site.meanwhile()
        await site.until(lambda: done and all(answer.ok for answer in answers), "checkpoint")
        assert done == [(None, None)]
        assert checkpointer.written == 1
        assert site.store.checkpoint() is not None
        expected = {f"k{number}": -number if number < 20 else number for number in range(300)}
        site.enter(partial(site.executor.apply, []))
        recovered = site.open_engine()
        assert site.read(recovered) == site.read() == expected
        assert recovered.state.digest() == site.engine.state.digest()

    on(body)


def test_a_checkpoint_that_fails_leaves_the_log_and_the_node_alone(on: On) -> None:
    async def body(site: Site) -> None:
        executor = site.executor
        assert executor.checkpointer is not None
        await site.put_all(k=1)
        done: list[tuple[Any, BaseException | None]] = []
        site.store.begin_checkpoint = fails  # type: ignore[method-assign]
        procedure = executor.checkpointer.checkpoint()
        site.enter(lambda: executor.start(procedure, lambda *ended: done.append(ended)))
        await site.until(lambda: done, "end")
        assert isinstance(done[0][1], StoreFailed)
        assert not executor.checkpointer.busy
        await site.put_all(k=2)

    on(body)


def test_a_replica_retires_in_place(on: On) -> None:
    async def body(site: Site) -> None:
        executor, old = site.executor, site.engine
        await site.put_all(k=1)
        listening = listen(site)
        waiter = Answer(site.journal)
        site.enter(
            lambda: executor.attempt(
                lambda: old.wait(waiter.ticket, {7: 1}, executor.now_us(), 1 << 62)
            )
        )
        site.enter(
            lambda: executor.apply(
                old.membership.retire("a test", {old.replica_id: old.state.vector[old.replica_id]})
            )
        )
        late = site.put("k", 2)
        assert site.read(old) == {"k": 1}
        await site.until(lambda: executor.engine is not old, "new engine")
        assert executor.engine.replica_id != old.replica_id
        assert site.read() == {"k": 1}
        assert isinstance(waiter.error, ReplicaHalted)
        assert isinstance(late.error, ReplicaHalted)
        assert listening.closed
        assert executor.subscriptions == []
        assert executor.defect is None

    on(body)


def test_the_log_is_read_beside_commits_and_errors_are_answers(on: On) -> None:
    async def body(site: Site) -> None:
        await site.put_all(a=1)
        await site.put_all(b=2)
        engine = site.engine
        answers: dict[Any, Any] = {}
        engine.log_read = lambda request, result, now_us: answers.update({request: result}) or []  # type: ignore[method-assign]
        own, last = engine.replica_id, engine.state.vector[engine.replica_id]
        read = partial(ReadLog, replica=own, first=last, last=last, limit_bytes=1 << 20)
        site.enter(lambda: site.executor.apply([read("sound")]))
        await site.until(lambda: "sound" in answers, "answer")
        assert [record.last_sequence for record in answers["sound"]] == [last]
        site.store.read = fails  # type: ignore[method-assign]
        site.enter(lambda: site.executor.apply([read("failed")]))
        await site.until(lambda: "failed" in answers, "answer")
        assert isinstance(answers["failed"], StoreFailed)

    on(body)


# ------------------------------------------------------------------ defects


def break_staging(executor: Executor) -> None:
    executor.engine.advance = fails  # type: ignore[method-assign]


def break_publishing(executor: Executor) -> None:
    executor.engine.persisted = fails  # type: ignore[method-assign]


@pytest.mark.parametrize("harm", [break_staging, break_publishing])
def test_a_defect_stops_it_for_good_and_everyone_is_told(
    on: On, harm: Callable[[Executor], None]
) -> None:
    async def body(site: Site) -> None:
        executor = site.executor
        await site.put_all(k=1)
        listening = listen(site)
        told: list[str] = []
        executor.on_defect.append(lambda: told.append("stopped"))
        harm(executor)
        waiter, done = Answer(site.journal), list[Any]()
        site.enter(
            lambda: executor.attempt(
                lambda: executor.engine.wait(waiter.ticket, {7: 1}, executor.now_us(), 1 << 62)
            )
        )

        def procedure() -> Procedure[None]:
            yield Pause(3_600_000_000)

        site.enter(lambda: executor.start(procedure(), lambda *ended: done.append(ended[1])))
        answers = [site.put("k", 2), site.put("k", 3)]
        await site.until(lambda: executor.defect, "defect")
        await site.until(lambda: all(answer.count for answer in answers), "answers")
        assert all(isinstance(answer.error, Defect) for answer in (waiter, *answers))
        assert done == [executor.defect]
        assert (told, listening.closed) == (["stopped"], True)
        with pytest.raises(Defect):
            executor.check_alive()
        syncs = site.shaky.syncs
        late = site.put("k", 4)
        await site.meanwhile()
        assert (site.shaky.syncs, late.count) == (syncs, 0), "nothing is written any more"
        granted: list[Hold] = []
        executor.hold(granted.append)
        assert granted, "whoever waits for quiet finds out"

    on(body)
