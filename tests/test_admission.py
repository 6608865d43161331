"""The budget of unanswered work: what it bounds, and that it is fair."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crdtmem.admission import SMALL_BYTES, Admission, Bounds, Share
from crdtmem.errors import Overloaded

BUDGET = Bounds(in_flight_operations=100, in_flight_bytes=1_000_000)


@dataclass(eq=False)
class StreamClient:
    """A client on a stream, as a face keeps it: it takes while it has room, else it waits."""

    admission: Admission
    frame_bytes: int = 1_000
    offered: int = 1 << 60
    held: deque[int] = field(default_factory=deque)
    answered: int = 0
    due: bool = False
    unread: int = 0
    gone: bool = False

    def __post_init__(self) -> None:
        self.share = self.admission.share(self)

    def resume(self) -> None:
        """Take in a later turn: see ``settle``."""
        self.due = True

    def unread_bytes(self) -> int:
        return self.unread

    def cut_off(self, reason: str) -> None:
        assert reason
        self.gone = True
        self.share.leave()

    def tell(self, done: int = 0) -> None:
        self.share.hold(len(self.held), sum(self.held), done, done * self.frame_bytes)

    def take(self, limit: int = 1 << 30) -> int:
        """Take in what there is room for; returns how much that was."""
        self.due = False
        taken = 0
        while self.offered and taken < limit:
            if not self.share.room_for(self.frame_bytes):
                self.share.wait(self.frame_bytes)
                return taken
            self.held.append(self.frame_bytes)
            self.offered -= 1
            taken += 1
            self.tell()
        self.share.rest()
        return taken

    def answer(self, count: int = 1) -> None:
        for _ in range(count):
            self.held.popleft()
        self.answered += count
        self.tell(count)


def settle(clients: list[StreamClient]) -> None:
    """Let everyone who was resumed go on, as the event loop would."""
    while due := [client for client in clients if client.due]:
        for client in due:
            client.take()


def test_a_client_alone_is_lent_the_whole_budget_and_no_more() -> None:
    admission = Admission(BUDGET)
    alone = StreamClient(admission)
    assert alone.take() == 100
    assert (admission.operations, admission.size_bytes) == (100, 100_000)
    assert admission.waiting == 1


def test_bytes_are_a_budget_of_their_own() -> None:
    admission = Admission(BUDGET)
    bulky = StreamClient(admission, frame_bytes=300_000)
    assert bulky.take() == 3
    assert admission.size_bytes == 900_000


def test_a_newcomer_gets_its_fair_share_at_once_beside_one_that_holds_all() -> None:
    admission = Admission(BUDGET)
    flood, newcomer = StreamClient(admission), StreamClient(admission)
    flood.take()
    assert newcomer.take() == 50
    assert not flood.share.room_for(1)


def test_those_above_their_share_come_down_to_it_while_others_wait() -> None:
    admission = Admission(BUDGET)
    clients = [StreamClient(admission) for _ in range(4)]
    for client in clients:
        client.take()
    for _ in range(200):
        longest = max(clients, key=lambda client: len(client.held))
        longest.answer()
        settle(clients)
    held = [len(client.held) for client in clients]
    assert max(held) - min(held) <= 1


def test_what_a_modest_client_leaves_is_lent_to_the_others() -> None:
    admission = Admission(BUDGET)
    modest = StreamClient(admission, offered=5)
    floods = [StreamClient(admission) for _ in range(2)]
    clients = [modest, *floods]
    for client in clients:
        client.take()
    for _ in range(300):
        max(floods, key=lambda client: len(client.held)).answer()
        settle(clients)
    assert len(modest.held) == 5
    assert sum(len(flood.held) for flood in floods) >= 95


def test_goodput_is_shared_by_those_who_want_more_and_the_modest_get_all_they_ask() -> None:
    """A server answers in order of arrival; shares of what is held become shares of goodput."""
    admission = Admission(BUDGET)
    floods = [StreamClient(admission) for _ in range(3)]
    modest = StreamClient(admission, offered=0)
    clients = [*floods, modest]
    line: deque[StreamClient] = deque()
    asked = 0

    def take_turns() -> None:
        for client in clients:
            before = len(client.held)
            client.take()
            line.extend([client] * (len(client.held) - before))

    for turn in range(2_000):
        if turn % 10 == 0:
            modest.offered += 1
            asked += 1
        take_turns()
        for _ in range(min(5, len(line))):
            line.popleft().answer()
        if turn == 500:
            # The first came before the others, and has been above its share until now.
            before = [flood.answered for flood in floods]
    answered = [flood.answered - earlier for flood, earlier in zip(floods, before, strict=True)]
    assert asked - modest.answered <= 10
    assert max(answered) <= 1.1 * min(answered)
    assert sum(client.answered for client in clients) == 2_000 * 5


def test_a_client_that_holds_nothing_is_let_in_with_a_small_frame_whatever_others_hold() -> None:
    admission = Admission(BUDGET)
    for _ in range(400):
        StreamClient(admission).take(limit=1)
    # Each came in by that rule or with its share: the budget is spent twice over.
    assert admission.operations == 400
    late = StreamClient(admission)
    assert late.share.room_for(SMALL_BYTES)
    assert not late.share.room_for(SMALL_BYTES + 1)
    late.take(limit=1)
    assert not late.share.room_for(1)


def test_a_frame_larger_than_a_share_is_let_in_from_one_that_holds_nothing() -> None:
    admission = Admission(BUDGET)
    for _ in range(10):
        StreamClient(admission, frame_bytes=90_000).take(limit=1)
    assert admission.size_bytes == 900_000
    assert admission.share().room_for(1_000_000)


def test_the_last_of_a_hundred_waiting_clients_is_resumed_too() -> None:
    admission = Admission(BUDGET)
    holder = StreamClient(admission, offered=100)
    holder.take()
    # Each would need more than the hard bound leaves, so all wait for the one to be answered.
    crowd = [StreamClient(admission, frame_bytes=1_900_001, offered=0) for _ in range(100)]
    for client in crowd:
        client.share.wait(900_001)
    holder.answer(100)
    resumed = 0
    while due := [client for client in crowd if client.due]:
        for client in due:
            client.take()
            resumed += 1
    assert resumed == 100
    assert admission.waiting == 0


def test_who_leaves_gives_back_all_and_those_who_wait_go_on() -> None:
    admission = Admission(BUDGET)
    first, second = StreamClient(admission), StreamClient(admission)
    first.share.open_stream()
    first.take()
    second.take()
    first.share.leave()
    settle([second])
    assert len(second.held) == 100
    assert admission.streams == 0
    second.share.leave()
    assert (admission.operations, admission.size_bytes) == (0, 0)
    assert (admission.clients, admission.waiting) == (0, 0)


# ------------------------------------------------------------------ who asks once


def test_an_asker_beyond_the_budget_is_told_when_to_come_back() -> None:
    admission = Admission(Bounds(in_flight_operations=10))
    admission.sample(0, 0)
    share = admission.share()
    for _ in range(20):
        share.ask(1)
        share.release(1)
    for _ in range(10):
        share.ask(1)
    admission.sample(1_000_000, 0)
    with pytest.raises(Overloaded) as refused:
        share.ask(1)
    # Twenty were completed in a second: half of the ten that are held take a quarter.
    assert refused.value.details["retry_after_ms"] == 250
    assert refused.value.hint
    assert admission.status()["refused"] == 1
    for _ in range(6):
        share.release(1)
    share.ask(1)


def test_what_is_taken_in_is_what_is_completed_in_a_quarter_of_a_second() -> None:
    admission = Admission(BUDGET)
    share = admission.share()
    admission.sample(0, 0)
    budgets = []
    for second, done in enumerate((200, 40, 1_000_000, 0), start=1):
        share.hold(5, 5, done)
        admission.sample(second * 1_000_000, 0)
        budgets.append(admission.operations_budget)
    # Never below an eighth, never above the setting.
    assert budgets == [50, 12, 100, 12]
    # Five of the twelve are held.
    assert StreamClient(admission).take() == 7


def test_so_it_is_with_bytes_and_a_frame_that_is_larger_gets_in_alone() -> None:
    admission = Admission(Bounds())
    share = admission.share()
    admission.sample(0, 0)
    share.hold(1, 1, 1, 8_000_000)
    admission.sample(1_000_000, 0)
    assert admission.bytes_budget == 2_000_000
    share.hold(1, 1, 1, 10)
    admission.sample(2_000_000, 0)
    assert admission.bytes_budget == 256 * 1024
    share.leave()
    first, second = admission.share(), admission.share()
    assert first.room_for(8_000_000)
    first.hold(1, 8_000_000)
    assert not second.room_for(8_000_000)
    first.hold(0, 0)
    assert second.room_for(8_000_000)


def test_the_nearer_the_ceiling_the_less_is_taken_in() -> None:
    admission = Admission(Bounds(memory_bytes=1_000_000_000))
    share = admission.share()
    admission.sample(0, 0)
    budgets = []
    for second, memory in enumerate((100_000_000, 900_000_000, 999_000_000), start=1):
        share.hold(1, 1, 1, 1 << 40)
        admission.sample(second * 1_000_000, memory)
        budgets.append(admission.bytes_budget)
    # A fortieth of what is left, since what all hold may be twice the budget, times twenty.
    assert budgets == [900_000_000 // 40, 100_000_000 // 40, SMALL_BYTES]


def test_a_pause_is_told_also_before_anything_was_completed_and_is_bounded() -> None:
    admission = Admission(BUDGET)
    assert 10 <= admission.retry_after_ms() <= 1_000
    share = admission.share()
    share.hold(1_000_000, 1)
    admission.sample(0, 0)
    share.hold(1_000_000, 1, done=5)
    admission.sample(1_000_000, 0)
    assert admission.retry_after_ms() == 10_000


def test_many_askers_share_the_budget_up_to_the_hard_bound() -> None:
    admission = Admission(BUDGET)
    shares = [admission.share() for _ in range(300)]
    taken = 0
    for share in shares:
        try:
            share.ask(10)
            taken += 1
        except Overloaded:
            continue
    assert taken == 200


# ------------------------------------------------------------------ answers in parts


def test_streams_are_bounded_per_client_and_for_all() -> None:
    admission = Admission(Bounds(streams=3, streams_per_client=2))
    greedy, other, late = (admission.share() for _ in range(3))
    greedy.open_stream()
    greedy.open_stream()
    with pytest.raises(Overloaded, match="on this connection") as refused:
        greedy.open_stream()
    assert refused.value.details["retry_after_ms"] > 0
    other.open_stream()
    with pytest.raises(Overloaded, match="open here"):
        late.open_stream()
    greedy.close_stream()
    late.open_stream()
    assert admission.streams == 3


# ------------------------------------------------------------------ answers that are not read


def test_those_who_read_nothing_are_cut_off_when_too_much_lies_unread() -> None:
    admission = Admission(Bounds(unread_bytes=1_000))
    small, large, reading = (StreamClient(admission) for _ in range(3))
    for client, unread in ((small, 300), (large, 600), (reading, 900)):
        client.unread = unread
        client.share.note_unread()
    assert admission.unread_bytes == 1_800
    reading.unread = 400
    admission.sample(0, 0)
    assert (small.gone, large.gone, reading.gone) == (False, True, False)
    reading.unread = 0
    admission.sample(1, 0)
    assert not small.gone
    assert admission.unread_bytes == 300


def test_within_the_bound_a_slow_reader_is_waited_for() -> None:
    admission = Admission(Bounds(unread_bytes=1_000))
    slow = StreamClient(admission)
    slow.unread = 1_000
    slow.share.note_unread()
    for now_us in range(5):
        admission.sample(now_us, 0)
    assert not slow.gone
    slow.share.leave()
    assert admission.unread_bytes == 0


# ------------------------------------------------------------------ grants


def test_a_grant_is_what_may_be_taken_without_asking_again() -> None:
    admission = Admission(BUDGET)
    first, second = StreamClient(admission), StreamClient(admission)
    assert first.share.grant() == 100
    first.share.hold(100, 1)
    assert first.share.grant() == 0
    assert second.share.grant() == 50
    second.share.hold(50, 1)
    assert second.share.grant() == 0
    for _ in range(300):
        other = admission.share()
        other.hold(1, 1)
    # A client that holds nothing may always ask one thing.
    assert admission.share().grant() == 1


# ------------------------------------------------------------------ memory


def test_writes_are_refused_above_high_water_and_taken_again_below_low_water() -> None:
    admission = Admission(Bounds(memory_bytes=1_000_000))
    seen = []
    for memory in (840_000, 860_000, 800_000, 760_000, 740_000, 840_000):
        admission.sample(0, memory)
        seen.append(admission.full)
    assert seen == [False, True, True, True, False, False]
    admission.require_memory()
    admission.sample(0, 900_000)
    with pytest.raises(Overloaded) as refused:
        admission.require_memory()
    assert refused.value.details["retry_after_ms"] > 0
    assert "admission.memory_bytes" in refused.value.hint
    assert admission.status()["writes_refused"]


def test_without_a_ceiling_memory_refuses_nothing() -> None:
    admission = Admission(BUDGET)
    admission.sample(0, 1 << 60)
    admission.require_memory()
    assert admission.status()["memory_bytes_limit"] is None


# ------------------------------------------------------------------ whatever happens

Step = tuple[int, str, int]
steps = st.lists(
    st.tuples(
        st.integers(0, 5),
        st.sampled_from(("take", "one", "answer", "all", "leave")),
        st.sampled_from((1, 5_000, 60_000, 70_000, 400_000, 1_000_000)),
    ),
    max_size=60,
)


def check(admission: Admission, clients: list[StreamClient]) -> None:
    """What must hold at any moment."""
    assert admission.operations == sum(len(client.held) for client in clients)
    assert admission.size_bytes == sum(sum(client.held) for client in clients)
    small = len(clients)
    assert admission.operations <= 2 * BUDGET.in_flight_operations + small
    assert admission.size_bytes <= 2 * BUDGET.in_flight_bytes + small * SMALL_BYTES
    for client in clients:
        share = client.share
        own = share.size_bytes + 1_000
        total = admission.size_bytes + 1_000
        # Below its share, and the hard bound not reached: never refused.
        if (
            (share.operations + 1) * len(clients) <= BUDGET.in_flight_operations
            and own * len(clients) <= BUDGET.in_flight_bytes
            and admission.operations < 2 * BUDGET.in_flight_operations
            and total <= 2 * BUDGET.in_flight_bytes
        ):
            assert share.room_for(1_000)


@settings(max_examples=300)
@given(steps)
def test_totals_bounds_and_shares_hold_whatever_clients_do(script: list[Step]) -> None:
    admission = Admission(BUDGET)
    clients = [StreamClient(admission) for _ in range(6)]
    for number, action, size in script:
        client = clients[number]
        if action in ("take", "one"):
            client.frame_bytes = size
            client.take(limit=1 if action == "one" else 1 << 30)
        elif action == "answer" and client.held:
            client.answer()
        elif action == "all":
            client.answer(len(client.held))
        elif action == "leave":
            client.share.leave()
            client.held.clear()
            clients[number] = StreamClient(admission)
        check(admission, clients)
        settle(clients)
        check(admission, clients)


@settings(max_examples=200)
@given(steps)
def test_when_all_is_answered_whoever_wanted_more_is_served_to_the_end(script: list[Step]) -> None:
    admission = Admission(BUDGET)
    clients = [StreamClient(admission, offered=0) for _ in range(6)]
    for number, action, size in script:
        if action in ("take", "one"):
            clients[number].frame_bytes = size
            clients[number].offered += 7
            clients[number].take()
    for _ in range(2_000):
        settle(clients)
        holding = [client for client in clients if client.held]
        if not holding:
            break
        holding[0].answer()
    assert [client.offered for client in clients] == [0] * 6
    assert admission.waiting == 0


def test_a_share_without_a_face_can_be_resumed_in_vain() -> None:
    admission = Admission(BUDGET)
    share: Share = admission.share()
    share.wait(1)
    admission.wake()
    share.rest()
    assert admission.waiting == 0
    assert admission.clients == 0
