"""One suite for both executors of effects: the order of effects is the durability contract.

Each test runs on asyncio and in virtual time, over the store in memory and over SQLite.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from crdtmem.errors import (
    NotCovered,
    StoreError,
    StoreFailed,
    StoreFull,
    Undecided,
)
from crdtmem.mending import PAUSE_MAXIMUM_US
from crdtmem.procedures import Hold
from crdtmem.recovery import rederive
from crdtmem.transaction import Transaction
from tests.conformance.executor_sites import REGISTER, SPACE, Answer, On, Site, listen

# ------------------------------------------------------------------ the order of effects


def test_persist_comes_before_publish_before_notify_before_send_before_reply(on: On) -> None:
    async def body(site: Site) -> None:
        await site.greet()
        listening = listen(site)
        answer = site.put("k", 1)
        await site.until(lambda: answer.count, "answer")
        assert [*dict.fromkeys(site.journal)] == [
            "persist", "synced", "publish", "notify", "send", "reply",
        ]  # fmt: skip
        assert [batch.header.count for batch in listening.batches] == [1]
        assert answer.ok

    on(body)


def test_nothing_is_seen_sent_or_acknowledged_before_it_is_durable(on: On) -> None:
    async def body(site: Site) -> None:
        await site.greet()
        listening = listen(site)
        site.hold_disk()
        answer = site.put("k", 1)
        await site.meanwhile()
        assert site.journal == ["persist"]
        assert (site.read(), answer.count, listening.batches) == ({}, 0, [])
        site.free_disk()
        await site.until(lambda: answer.ok, "answer")
        assert site.read() == {"k": 1}

    on(body)


def test_what_arrives_while_a_commit_is_out_becomes_one_group(on: On) -> None:
    async def body(site: Site) -> None:
        site.hold_disk()
        answers = [site.put("first", 0)]
        await site.meanwhile()
        answers += [site.put(f"k{number}", number) for number in range(50)]
        await site.meanwhile()
        assert [len(flight.local) for flight in site.flights] == [1]
        before = site.shaky.syncs
        site.free_disk()
        await site.until(lambda: all(answer.ok for answer in answers), "answers")
        assert [len(flight.local) for flight in site.flights] == [1, 50]
        assert site.shaky.syncs == before + 2

    on(body)


def test_a_window_for_groups_lets_commits_wait_for_others(on: On) -> None:
    async def body(site: Site) -> None:
        site.executor.linger_us = 200_000
        answers = [site.put("k1", 1)]
        await site.a_turn()
        answers.append(site.put("k2", 2))
        await site.until(lambda: all(answer.ok for answer in answers), "answers")
        assert [len(flight.local) for flight in site.flights] == [2]

    on(body)


def test_timers_fire_when_they_are_due_the_nearer_before_the_later(on: On) -> None:
    async def body(site: Site) -> None:
        executor = site.executor
        began_us = executor.now_us()
        ended: dict[str, int] = {}

        def wait(name: str, for_us: int) -> Answer:
            answer = Answer(site.journal)
            engine, until_us = executor.engine, began_us + for_us
            site.enter(
                lambda: executor.attempt(
                    lambda: engine.wait(answer.ticket, {7: 1}, executor.now_us(), until_us)
                )
            )
            return answer

        answers = {"later": wait("later", 300_000), "soon": wait("soon", 60_000)}

        def look() -> bool:
            for name, answer in answers.items():
                if answer.count:
                    ended.setdefault(name, executor.now_us() - began_us)
            return len(ended) == 2

        await site.until(look, "deadlines")
        assert ended["soon"] >= 60_000
        assert ended["later"] >= 300_000
        assert ended["soon"] < 300_000
        assert all(isinstance(answer.error, NotCovered) for answer in answers.values())

    on(body)


# ------------------------------------------------------------------ stores that fail


@pytest.mark.parametrize("survives", [True, False])
def test_an_ambiguous_commit_is_kept_exactly_when_it_is_durable(on: On, survives: bool) -> None:
    async def body(site: Site) -> None:
        await site.put_all(before=1)
        listening = listen(site)
        site.shaky.fail_sync(survives=survives)
        answer = site.put("k", 1)
        await site.until(lambda: answer.count, "answer")
        expected = {"before": 1, "k": 1} if survives else {"before": 1}
        assert answer.ok is survives
        assert isinstance(answer.error, StoreFailed) is not survives
        assert site.read() == expected
        assert len(listening.batches) == survives
        await site.until(lambda: site.executor.broken is None, "mended store")
        await site.put_all(after=2)
        derived = rederive(site.store)
        assert derived.vector == site.engine.state.vector
        assert [alarm.name for alarm in site.executor.alarms][:2] == ["store", "store mended"]

    on(body)


def test_a_broken_store_refuses_writes_serves_reads_and_mends_itself(on: On) -> None:
    async def body(site: Site) -> None:
        executor = site.executor
        await site.put_all(k=1)
        site.shaky.sick = True
        site.hold_disk()
        failed = site.put("k", 2)
        await site.meanwhile()
        queued = site.put("k", 3)
        site.free_disk()
        await site.until(lambda: executor.broken is not None, "broken store")
        with pytest.raises(StoreError):
            executor.check_open()
        executor.check_alive()
        await site.until(lambda: queued.count, "refusal of what was queued")
        assert isinstance(queued.error, StoreError)
        assert failed.count == 0, "nobody knows yet whether it survived"
        assert site.read() == {"k": 1}
        site.shaky.sick = False
        await site.until(lambda: executor.broken is None, "mended store")
        await site.until(lambda: failed.count, "answer to the first")
        assert isinstance(failed.error, StoreError)
        assert site.read() == {"k": 1}
        executor.check_open()
        await site.put_all(k=4)
        assert site.read() == {"k": 4}

    on(body)


def test_failures_in_a_row_are_mended_ever_more_seldom_until_one_succeeds(on: On) -> None:
    async def body(site: Site) -> None:
        executor, mender = site.executor, site.executor.mender
        await site.put_all(k=1)
        began_us = executor.now_us()
        site.shaky.full = True
        # What a replica asks of itself is asked again whenever the store seems to be mended.
        transaction = Transaction()
        transaction.put(SPACE, REGISTER, "own", 1)
        transaction.seal(site.engine.limits)
        site.enter(
            lambda: executor.attempt(lambda: executor.engine.submit(None, transaction, began_us))
        )
        refused = site.put("k", 2)
        await site.until(lambda: executor.now_us() > began_us + 1_500_000, "a while")
        # After 0, 50, 100, 200, 400 and 800 ms: not after every 2.
        assert 4 <= site.shaky.reopens <= 7
        assert isinstance(refused.error, StoreFull)
        assert mender.trouble is not None
        assert mender.trouble.failures == site.shaky.reopens
        assert 0 <= mender.trouble.since_us - began_us < 1_000_000
        assert [alarm.name for alarm in executor.alarms] == ["store", "store mended"]
        assert site.read() == {"k": 1}
        assert site.store.read(site.engine.identity.replica, 1, limit_bytes=1), "peers are served"
        site.shaky.full = False
        freed_us = executor.now_us()
        await site.until(lambda: site.read().get("own") == 1, "the next attempt")
        assert executor.now_us() - freed_us < PAUSE_MAXIMUM_US
        assert mender.trouble is None
        assert [alarm.name for alarm in executor.alarms] == ["store", *2 * ["store mended"]]
        await site.put_all(k=3)

    on(body)


def test_who_writes_while_a_full_disk_pauses_is_refused_at_once(on: On) -> None:
    async def body(site: Site) -> None:
        executor = site.executor
        site.shaky.full = True
        for number in range(5):
            await site.until(lambda: executor.broken is None, "the next attempt")
            answer = site.put("k", number)
            await site.until(partial(getattr, answer, "count"), "refusal")
            assert isinstance(answer.error, StoreFull)
        assert executor.broken is not None
        with pytest.raises(StoreFull):
            executor.check_open()
        site.shaky.full = False
        await site.until(lambda: executor.broken is None, "the last pause")
        await site.put_all(k=9)

    on(body)


def test_who_waits_is_told_at_the_deadline_that_nobody_knows_yet(on: On) -> None:
    async def body(site: Site) -> None:
        executor = site.executor
        site.shaky.fail_sync(survives=True)
        site.hold_disk()
        patient = site.put("patient", 1)
        timely = site.put("timely", 1, within_us=400_000)
        began_us = executor.now_us()
        await site.meanwhile()
        reopen = site.shaky.reopen
        site.shaky.reopen = _fails  # type: ignore[method-assign]
        site.free_disk()
        await site.until(lambda: timely.count, "answer at the deadline")
        assert isinstance(timely.error, Undecided)
        assert executor.now_us() >= began_us + 400_000
        assert patient.count == 0
        site.shaky.reopen = reopen  # type: ignore[method-assign]
        await site.until(lambda: patient.count, "answer of the store")
        assert patient.ok
        assert site.read() == {"patient": 1, "timely": 1}
        assert timely.count == 1, "nobody is answered twice"

    on(body)


def _fails() -> None:
    raise StoreFailed("planted: still sick")


# ------------------------------------------------------------------ quiet


def test_a_hold_waits_for_the_flight_that_is_out_and_holds_back_the_next(on: On) -> None:
    async def body(site: Site) -> None:
        site.hold_disk()
        answers = [site.put("first", 1)]
        await site.meanwhile()
        granted: list[Any] = []
        hold = site.executor.hold(lambda _: granted.append(dict(site.read())))
        answers.append(site.put("second", 2))
        await site.meanwhile()
        assert granted == []
        site.free_disk()
        await site.until(lambda: granted, "quiet")
        assert granted == [{"first": 1}], "log and state agree when it is granted"
        await site.meanwhile()
        assert answers[1].count == 0
        site.executor.release(hold)
        site.executor.release(hold)
        await site.until(lambda: answers[1].ok, "answer")

    on(body)


def test_holds_are_granted_one_at_a_time_in_order(on: On) -> None:
    async def body(site: Site) -> None:
        executor = site.executor
        granted: list[int] = []

        def ask(number: int) -> Hold:
            return executor.hold(lambda _: granted.append(number))

        holds = [ask(number) for number in range(4)]
        answer = site.put("k", 1)
        await site.meanwhile()
        assert granted == [0]
        executor.release(holds[2])  # before it was granted
        executor.release(holds[0])
        assert granted == [0, 1]
        await site.meanwhile()
        assert answer.count == 0
        executor.release(holds[1])
        assert granted == [0, 1, 3]
        executor.release(holds[3])
        await site.until(lambda: answer.ok, "answer")

    on(body)


def test_holds_do_not_starve_writes_nor_writes_holds(on: On) -> None:
    async def body(site: Site) -> None:
        executor = site.executor
        turns: list[int] = []

        def again(hold: Hold) -> None:
            turns.append(len(turns))
            executor.release(hold)

        answers = [site.put(f"k{number}", number) for number in range(20)]
        for _ in range(20):
            executor.hold(again)
            answers.append(site.put("more", len(answers)))
            await site.meanwhile()
        await site.until(lambda: all(answer.ok for answer in answers), "answers")
        await site.until(lambda: len(turns) == 20, "quiet moments")

    on(body)
