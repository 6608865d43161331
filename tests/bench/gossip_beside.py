"""Real processes, ours and serf's, in the same minutes and under the same faults.

Per size and profile, both clusters run at once: at rest first (bytes, processor time), then
payloads are spread, then members are killed in both at the same moment and started again, then
some are slow (stopped for most of the time) while packets are lost. A *false death* is that of
a member that was never stopped, whoever called it; the slow ones called dead stand beside it.
"""

from __future__ import annotations

import signal
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.gossip_agents import Agents, Ours, Serfs, say, serf_is_here
from tests.bench.gossip_chance import poisson_interval
from tests.bench.report import Row
from tests.end_to_end.namespaces import Network
from tests.waiting import wait_until

__all__ = ["Beside", "compare"]

_GIVEN_UP_S = 90.0
_SLOW_STOPPED_S = 6.0
"""Longer than a suspicion lasts: whoever trusts timers that ran out meanwhile kills the healthy."""
_SLOW_RUNNING_S = 1.0


@dataclass(frozen=True)
class Beside:
    """What to measure at one size."""

    members: int
    profile: str = "lan"
    kills: int = 5
    payloads: int = 10
    rest_s: float = 20.0
    slow_s: float = 60.0
    loss_percent: int = 10


@dataclass
class Seen:
    """What came of one kind."""

    first_s: list[float] = field(default_factory=list)
    all_s: list[float] = field(default_factory=list)
    never: int = 0
    """Kills that not every survivor had noticed when the waiting was given up."""
    spread_s: list[float] = field(default_factory=list)
    rest_bytes_per_s: float = 0.0
    churn_bytes_per_s: float = 0.0
    cpu_percent: float = 0.0
    false_deaths: int = 0
    slow_deaths: int = 0
    member_hours: float = 0.0


def compare(plan: Beside) -> list[Row]:
    """Measure one size, and return its rows."""
    with ExitStack() as stack:
        kinds = 2 if serf_is_here() else 1
        network = stack.enter_context(Network(plan.members * kinds))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        places = network.places
        clusters: list[Agents] = [Ours(network, places[: plan.members], plan.profile, folder)]
        if kinds == 2:
            clusters.append(Serfs(network, places[plan.members :], plan.profile))
        for cluster in clusters:
            stack.callback(cluster.close)
            cluster.start_all()
        for cluster in clusters:
            wait_until(cluster.whole, f"whole cluster of {cluster.kind}", timeout_s=120)
        seen = [Seen() for _ in clusters]
        say(f"{plan.members} members, {plan.profile}: at rest")
        _rest(plan, clusters, seen)
        say(f"{plan.members} members, {plan.profile}: payloads")
        _payloads(plan, clusters, seen)
        _kills(plan, clusters, seen)
        say(f"{plan.members} members, {plan.profile}: slow members and loss")
        _slow(plan, network, clusters, seen)
    return _rows(plan, seen)


def _wait(seconds: float) -> float:
    """Let so much time pass while processes run; return how much it was."""
    since_s = time.monotonic()
    wait_until(
        lambda: time.monotonic() - since_s >= seconds, f"{seconds} s", timeout_s=seconds + 30
    )
    return time.monotonic() - since_s


def _rest(plan: Beside, clusters: Sequence[Agents], seen: Sequence[Seen]) -> None:
    # What joining left to tell is told by then.
    _wait(min(10.0, plan.rest_s))
    before = [(cluster.octets(), cluster.cpu_s()) for cluster in clusters]
    elapsed_s = _wait(plan.rest_s)
    for cluster, found, (octets, cpu_s) in zip(clusters, seen, before, strict=True):
        found.rest_bytes_per_s = _sent(octets, cluster) / elapsed_s / plan.members
        spent = [now - was for was, now in zip(cpu_s, cluster.cpu_s(), strict=True)]
        found.cpu_percent = 100 * statistics.mean(spent) / elapsed_s


def _sent(before: Sequence[object], cluster: Agents) -> int:
    return sum(
        now.sent - was.sent  # type: ignore[attr-defined]
        for was, now in zip(before, cluster.octets(), strict=True)
    )


def _payloads(plan: Beside, clusters: Sequence[Agents], seen: Sequence[Seen]) -> None:
    for _ in range(plan.payloads):
        for cluster, found in zip(clusters, seen, strict=True):
            heard = cluster.tell()
            wait_until(
                lambda heard=heard: len(heard()) == plan.members,  # type: ignore[misc]
                f"payload at all of {cluster.kind}", timeout_s=60,
            )  # fmt: skip
            found.spread_s.append(max(heard()) - heard()[0])


def _kills(plan: Beside, clusters: Sequence[Agents], seen: Sequence[Seen]) -> None:
    since_s, before = time.monotonic(), [cluster.octets() for cluster in clusters]
    for number in range(plan.kills):
        say(f"{plan.members} members, {plan.profile}: kill {number + 1} of {plan.kills}")
        # Never the first: it is whom the others are told to join.
        victim = 1 + number % (plan.members - 1)
        name = f"m{victim}"
        killed_s = [cluster.kill(victim) for cluster in clusters]
        over_s = time.monotonic() + _GIVEN_UP_S

        wait_until(
            lambda: time.monotonic() > over_s or _known(clusters, name, killed_s),  # noqa: B023
            "death known to all", timeout_s=_GIVEN_UP_S + 10,
        )  # fmt: skip
        for cluster, found, at_s in zip(clusters, seen, killed_s, strict=True):
            times = sorted(said_s - at_s for said_s in cluster.said_dead(name, at_s))
            complete = len(times) == plan.members - 1
            found.never += not complete
            found.first_s.append(times[0] if times else _GIVEN_UP_S)
            found.all_s.append(times[-1] if complete else _GIVEN_UP_S)
            cluster.restart(victim)
        for cluster in clusters:
            wait_until(cluster.whole, f"return to {cluster.kind}", timeout_s=120)
    elapsed_s = time.monotonic() - since_s
    for cluster, found, octets in zip(clusters, seen, before, strict=True):
        found.churn_bytes_per_s = _sent(octets, cluster) / elapsed_s / plan.members


def _known(clusters: Sequence[Agents], name: str, killed_s: Sequence[float]) -> bool:
    """Whether all survivors of all kinds have called the killed member dead."""
    return all(
        len(cluster.said_dead(name, at_s)) == len(cluster.agents) - 1
        for cluster, at_s in zip(clusters, killed_s, strict=True)
    )


class _Stutter:
    """Stops some agents for most of the time: looked at often, it does what is due."""

    def __init__(self, clusters: Sequence[Agents], slow: Sequence[int]) -> None:
        self._agents = [cluster.agents[index] for cluster in clusters for index in slow]
        self._stopped = False
        self._due_s = 0.0

    def look(self) -> None:
        now = time.monotonic()
        if now < self._due_s:
            return
        self._stopped = not self._stopped
        self._due_s = now + (_SLOW_STOPPED_S if self._stopped else _SLOW_RUNNING_S)
        for agent in self._agents:
            agent.send(signal.SIGSTOP if self._stopped else signal.SIGCONT)

    def end(self) -> None:
        for agent in self._agents:
            agent.send(signal.SIGCONT)


def _slow(plan: Beside, network: Network, clusters: Sequence[Agents], seen: Sequence[Seen]) -> None:
    """Let a fifth of the members be slow, one at least, and packets be lost everywhere."""
    slow = list(range(plan.members - max(1, plan.members // 5), plan.members))
    slow_names = {f"m{index}" for index in slow}
    stutter = _Stutter(clusters, slow)
    network.lose(plan.loss_percent)
    since_s = time.monotonic()

    def over() -> bool:
        stutter.look()
        return time.monotonic() - since_s > plan.slow_s

    wait_until(over, "end of the slow minutes", timeout_s=plan.slow_s + 30)
    elapsed_s = time.monotonic() - since_s
    stutter.end()
    network.heal()
    for cluster, found in zip(clusters, seen, strict=True):
        deaths = cluster.deaths(since_s)
        found.false_deaths = sum(name not in slow_names for _, name in deaths)
        found.slow_deaths = sum(name in slow_names for _, name in deaths)
        found.member_hours = plan.members * elapsed_s / 3600


_FIGURES: tuple[tuple[str, str, Callable[[Seen], Sequence[float]], float | None], ...] = (
    ("detection, first", "s", lambda seen: seen.first_s, 1.0),
    ("detection, all", "s", lambda seen: seen.all_s, 1.0),
    ("dissemination", "s", lambda seen: seen.spread_s, None),
    ("at rest", "B/s", lambda seen: [seen.rest_bytes_per_s], None),
    ("under churn", "B/s", lambda seen: [seen.churn_bytes_per_s], None),
    ("processor at rest", "%", lambda seen: [seen.cpu_percent], None),
)


def _rows(plan: Beside, seen: Sequence[Seen]) -> list[Row]:
    ours = seen[0]
    serf = seen[1] if len(seen) > 1 else None
    peer = "serf" if serf is not None else "serf (absent)"
    where = f"{plan.members} members, {plan.profile}"

    rows = []
    for name, unit, values, target in _FIGURES:
        mine = values(ours)
        extra: dict[str, object] = {"least": min(mine), "most": max(mine), "never": ours.never}
        theirs = None
        if serf is not None:
            found = values(serf)
            theirs = statistics.mean(found)
            extra |= {
                "peer_least": min(found), "peer_most": max(found), "peer_never": serf.never,
            }  # fmt: skip
        rows.append(
            Row(f"{name}, {where}", statistics.mean(mine), unit, peer, theirs, target, extra)
        )
    return [
        *rows,
        Row(
            f"false deaths, {where}", ours.false_deaths / ours.member_hours, "1/h", peer,
            serf.false_deaths / serf.member_hours if serf else None, 1.0,
            {
                "count": ours.false_deaths, "peer_count": serf.false_deaths if serf else None,
                "member_hours": round(ours.member_hours, 3),
                "interval": poisson_interval(ours.false_deaths, ours.member_hours),
                "slow_called_dead": ours.slow_deaths,
                "peer_slow_called_dead": serf.slow_deaths if serf else None,
            },
        ),
    ]  # fmt: skip
