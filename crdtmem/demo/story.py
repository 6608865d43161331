"""What happens in the demo, in order.

Three phases of writing: all regions linked; one cut off, while every region decides the
same questions; the links healed. Then a wait until all three have joined the same, and
the judgement: is everything that was ever acknowledged in all of them?
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from itertools import islice
from typing import Any, Final

from crdtmem.client import Client
from crdtmem.codec import thaw
from crdtmem.crdt import DATATYPES
from crdtmem.crdt.member import parse_field
from crdtmem.demo.agents import TEAMS, Agent, Feeder, contest, set_policies
from crdtmem.demo.cluster import REGIONS, Cluster, until
from crdtmem.demo.ledger import Ledger
from crdtmem.demo.picture import Picture, lags
from crdtmem.demo.report import DemoReport
from crdtmem.entries import unpack_dot
from crdtmem.errors import NotCovered
from crdtmem.handles import Conflict
from crdtmem.importer import Planned
from crdtmem.resolve import RESOLVERS

__all__ = ["Story"]

_STEPS: Final = (16, 24, 10)
"""Steps of each agent: linked, cut, healed."""

_PAUSE_S: Final = 0.09
_PHASE_S: Final = 1.2
"""How long a phase lasts at least: long against the links, and to the eye."""

_WATCH_S: Final = 0.25
_CONVERGE_S: Final = 60.0
_ALIVE_S: Final = 15.0
_SHARES: Final = (0.4, 0.4, 0.2)
"""Share of the real events written in each phase."""


class Story:
    """The demo's course, in a cluster that has started."""

    def __init__(
        self,
        cluster: Cluster,
        picture: Picture,
        report: DemoReport,
        planned: list[Planned] | None,
    ) -> None:
        self._cluster = cluster
        self._picture = picture
        self._report = report
        self._planned = planned
        self._ledger = Ledger()
        self._agents: list[Agent] = []

    @property
    def _clients(self) -> dict[str, Client]:
        return {region: node.client for region, node in self._cluster.nodes.items()}

    async def watch(self) -> None:
        """Show how the regions fare, until cancelled. Raises when a node has died."""
        while True:
            await self._look()
            await asyncio.sleep(_WATCH_S)

    async def _look(self) -> dict[str, dict[str, Any]]:
        statuses = await self._cluster.statuses()
        self._picture.show(statuses, self._ledger.acknowledged, self._cluster.cut_region)
        return statuses

    async def run(self) -> None:
        """Write in three phases, wait until the regions agree, and check."""
        async with AsyncExitStack() as stack:
            clients = self._clients
            policies = await set_policies(clients[REGIONS[0]])
            for client in clients.values():
                await client.wait_for(policies, timeout_ms=30_000)
            for region, names in TEAMS.items():
                for name in names if self._planned is None else ():
                    url = self._cluster.nodes[region].url
                    seed = self._report.seed
                    agent = await Agent.connect(name, region, url, self._ledger, seed)
                    stack.push_async_callback(agent.close)
                    self._agents.append(agent)
            await self._write()
            self._picture.phase("waiting until every region has everything")
            await self._settle()
            await self._judge()

    async def _write(self) -> None:
        cut_region = self._report.cut_region
        self._picture.phase("all regions write, all links are up")
        await self._write_phase(0)
        self._picture.phase(f"{cut_region} is cut off; all regions go on, also on the same keys")
        self._cluster.cut(cut_region)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._write_phase(1))
            for region, client in self._clients.items():
                group.create_task(contest(region, client, self._ledger))
        self._picture.phase(f"the links of {cut_region} heal; all regions go on")
        self._cluster.heal()
        await self._write_phase(2)

    async def _write_phase(self, phase: int) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(_PHASE_S))
            for agent in self._agents:
                group.create_task(agent.work(_STEPS[phase], _PAUSE_S))
            if self._planned is not None:
                for number, (region, client) in enumerate(self._clients.items()):
                    share = islice(self._phase_events(phase), number, None, len(REGIONS))
                    feeder = Feeder(region, client, self._ledger)
                    group.create_task(feeder.feed(share))

    def _phase_events(self, phase: int) -> Iterator[Planned]:
        assert self._planned is not None
        total = len(self._planned)
        start = round(total * sum(_SHARES[:phase]))
        end = total if phase == len(_SHARES) - 1 else round(total * sum(_SHARES[: phase + 1]))
        return islice(self._planned, start, end)

    async def _settle(self) -> dict[str, dict[str, Any]]:
        """Wait until every region has joined all there is, and all agree; return how they fare.

        They may agree and write again: collection goes on by itself. Judged is one moment.
        """
        try:
            for client in self._clients.values():
                await client.wait_for(self._ledger.context, timeout_ms=int(_CONVERGE_S * 1000))
            return await until(
                self._look_if_settled, "agreement of all three regions", timeout_s=_CONVERGE_S
            )
        except NotCovered as error:
            # That is a result, not a failure of the demo: the judgement says what is missing.
            self._report.faults.append(error.message)
            return await self._look()

    async def _look_if_settled(self) -> dict[str, dict[str, Any]] | None:
        statuses = await self._look()
        return statuses if _agree(statuses) else None

    async def _judge(self) -> None:
        """Check every acknowledged write in every region, and list the conflicts."""
        self._picture.phase("checking every acknowledged write in every region")
        report, clients = self._report, self._clients
        verdict = await self._ledger.check(clients)
        statuses = await self._settle()
        report.digests = {region: status["digest"] for region, status in statuses.items()}
        report.converged = _agree(statuses)
        report.acknowledged = self._ledger.total
        report.lost = len(verdict.lost)
        report.faults += verdict.faults
        for region, status in statuses.items():
            report.faults += [f"{region}: alarm: {alarm['message']}" for alarm in status["alarms"]]
        await self._judge_members()
        listed = {
            region: sorted(await client.conflicts(), key=_place_of)
            for region, client in clients.items()
        }
        first = listed[REGIONS[0]]
        report.conflict_list = [await self._settled(conflict) for conflict in first]
        told = [conflict.as_value() for conflict in first]
        for region, conflicts in listed.items():
            if [conflict.as_value() for conflict in conflicts] != told:
                report.faults.append(f"{region} lists other conflicts than {REGIONS[0]}")

    async def _judge_members(self) -> None:
        """Wait until every node sees all nodes alive; who does not is a fault."""

        async def all_alive() -> bool:
            self._report.members = await self._cluster.members()
            seen = self._report.members.values()
            return all(len(row) == len(REGIONS) and {*row.values()} == {"alive"} for row in seen)

        try:
            await until(all_alive, "sight of all nodes alive", timeout_s=_ALIVE_S)
        except NotCovered as error:
            self._report.faults.append(f"{error.message}: {self._report.members}")

    async def _settled(self, conflict: Conflict) -> dict[str, Any]:
        """Return a conflict with what each resolver would make of it."""
        client = self._clients[REGIONS[0]]
        reading = await client.read(conflict.space, DATATYPES[conflict.datatype].code, conflict.key)
        dots = {sibling["dot"] for sibling in conflict.siblings}
        entries = tuple(
            entry
            for entry in sorted(reading.entries, key=lambda entry: entry[0])
            if str(unpack_dot(entry[0])) in dots
        )
        settled = {
            resolver.name: thaw(resolver.resolve(entries)) for resolver in RESOLVERS.values()
        }
        return {**conflict.as_value(), "path": _path_of(conflict), "settled": settled}


def _agree(statuses: dict[str, dict[str, Any]]) -> bool:
    """Tell whether all regions have joined the same, and prove it by digest."""
    digests = {status["digest"] for status in statuses.values()}
    return len(digests) == 1 and not any(lags(statuses).values())


def _place_of(conflict: Conflict) -> tuple[Any, ...]:
    """Return what conflicts are listed by: the most contested first, then by place."""
    return (
        -len(conflict.siblings),
        conflict.space,
        conflict.datatype,
        conflict.key,
        repr(conflict.field),
    )


def _path_of(conflict: Conflict) -> list[str]:
    """Return the names that lead to a contested member of a map; nothing elsewhere."""
    member = parse_field(conflict.field) if conflict.datatype == "map" else None
    return [] if member is None else list(member.path)
