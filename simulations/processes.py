"""Real nodes for the stage: processes, relays between them, and agents who talk to them.

Problem: a scenario has verbs for machines, links and agents; the demo's cluster has three
fixed regions, one fixed story, and no process that dies in it.

Idea: the demo's ``RegionNode`` and ``Relay``, one per machine and one per pair. Of each
pair the later machine dials the earlier one, through the pair's relay, which stays where
it is while the node behind it dies and comes back at another port. An ``Agent`` carries
out the same ``Step``s as the simulator's clients, over a control socket.

Invariants: a node outlives neither its stage nor the process that plays; what is cut is
silent, never closed; a write enters ``acknowledged`` when its node has acknowledged it,
and not before.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import pycrdt

from crdtmem.client import Client, connect
from crdtmem.crdt import DATATYPES
from crdtmem.crdt.document import updates_of
from crdtmem.crdt.updates import materialise
from crdtmem.demo.cluster import RegionNode, until
from crdtmem.entries import unpack_dot
from crdtmem.errors import CrdtmemError, NotCovered, Unreachable
from crdtmem.handles import WriteOptions
from crdtmem.policy import Policy
from crdtmem.relay import BACKWARD, FORWARD, LinkShape, Relay
from crdtmem.replica import Committed
from crdtmem.settings import parse_address
from crdtmem.transaction import Operation, Options, Transaction
from simulations.client import ROOT
from simulations.errors import BadPlan
from simulations.regions import one_way_us
from simulations.steps import Step

__all__ = ["Agents", "Processes", "Tally"]

_START_S: Final = 60.0
_PASSING_MS: Final = 2_000

Place = tuple[tuple[str, ...], int, str]


class Processes:
    """The nodes and links of a stage, by the names of its machines."""

    def __init__(self, places: Mapping[str, str], folder: Path, pace: float) -> None:
        self.regions: dict[str, str] = {}
        self.nodes: dict[str, RegionNode] = {}
        self.relays: dict[tuple[str, str], Relay] = {}
        self._folder, self._pace = folder, pace
        self._peers: dict[str, list[str]] = {}
        for name, region in places.items():
            self._place(name, region)

    def _place(self, name: str, region: str) -> None:
        """Make a node, not started, and its links to all that are there before it."""
        node = self.nodes[name] = RegionNode(region, self._folder)
        node.folder = self._folder / name
        for number, target in enumerate(self.regions):
            shape = self._usual(name, target, region)
            self.relays[name, target] = Relay("127.0.0.1", 0, shape, seed=number)
        self.regions[name] = region
        self._peers[name] = []

    def _usual(self, dialler: str, target: str, region: str = "") -> LinkShape:
        """Return what the link between two machines is like where nothing is wrong with it."""
        here, there = region or self.regions[dialler], self.regions[target]
        return LinkShape(latency_ms=one_way_us(here, there) * self._pace / 1_000)

    async def start(self) -> None:
        """Start everything; the first machine founds, the others join it."""
        for (dialler, _), relay in self.relays.items():
            await relay.start()
            # Closed until the node behind it has said which port it got.
            relay.cut()
            self._peers[dialler].append(f"127.0.0.1:{relay.listening_port}")
        async with asyncio.TaskGroup() as group:
            for name in self.nodes:
                group.create_task(self.begin(name))
        first = next(iter(self.nodes))
        for (_, target), relay in self.relays.items():
            if target == first:
                relay.heal()
        await until(self._all_are_members, "membership of all", timeout_s=_START_S)
        for relay in self.relays.values():
            relay.heal()

    async def add(self, name: str, region: str) -> None:
        """Add a machine that dials all others, and start it; it joins when it can."""
        self._place(name, region)
        for (dialler, target), relay in self.relays.items():
            if dialler == name:
                ready = self.nodes[target].ready
                relay.port = parse_address(ready["listen"])[1]
                await relay.start()
                self._peers[name].append(f"127.0.0.1:{relay.listening_port}")
        await self.begin(name)

    async def begin(self, name: str) -> None:
        """Start one node, and point the relays that lead to it at its port."""
        node = self.nodes[name]
        await node.start(self._peers[name])
        node.watcher = await connect(node.url, retry=False)
        for (_, target), relay in self.relays.items():
            if target == name:
                relay.port = parse_address(node.ready["listen"])[1]

    async def kill(self, name: str) -> None:
        """Kill one node, as a crash does."""
        node = self.nodes[name]
        process = node.process
        if process is None or process.returncode is not None:
            return
        process.kill()
        await process.wait()
        await self._forget(node)

    async def end(self, name: str) -> None:
        """Stop one node as it should be."""
        await self.nodes[name].stop()
        self.nodes[name].watcher = None

    async def _forget(self, node: RegionNode) -> None:
        if node.watcher is not None:
            await node.watcher.close()
            node.watcher = None

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal to one node's process."""
        process = self.nodes[name].process
        if process is not None and process.returncode is None:
            process.send_signal(number)

    def is_up(self, name: str) -> bool:
        """Tell whether a node runs."""
        process = self.nodes[name].process
        return process is not None and process.returncode is None

    def mute(self, speaker: str, listener: str) -> None:
        """Let nothing through from one machine to another."""
        if (speaker, listener) in self.relays:
            self.relays[speaker, listener].cut(FORWARD)
        else:
            self.relays[listener, speaker].cut(BACKWARD)

    def spoil(self, one: str, other: str, wrong: Mapping[str, float]) -> None:
        """Let a link be bad both ways; times and rates are the scenario's, before its pace.

        Raises ``BadPlan`` for what a relay cannot do: it carries streams, which know no
        harmed, doubled or overtaking pieces.
        """
        relay = self.relays.get((one, other)) or self.relays[other, one]
        shape = relay.shape
        for name, value in wrong.items():
            if name == "loss":
                shape = replace(shape, loss=value)
            elif name == "latency_ms":
                shape = replace(shape, latency_ms=value * self._pace)
            elif name == "jitter_ms":
                shape = replace(shape, jitter_ms=value * self._pace)
            elif name == "kib_per_s":
                shape = replace(shape, bandwidth_bytes_per_s=int(value * 1024 / self._pace))
            else:
                raise BadPlan(f"real links know nothing of {name}: play it in the simulator")
        relay.reshape(shape)

    def heal(self) -> None:
        """Let everything through, as it was."""
        for (dialler, target), relay in self.relays.items():
            relay.reshape(self._usual(dialler, target))
            relay.heal()

    async def evict(self, replica: int, by: str, *, forced: bool) -> None:
        """Give up a member for good, as ``crdtmem evict`` does. Raises ``CrdtmemError``s."""
        await self.nodes[by].client.call("evict", (replica, forced))

    async def statuses(self) -> dict[str, dict[str, Any]]:
        """Return what each running node says of itself."""
        names = [name for name in self.nodes if self.is_up(name)]
        found = await asyncio.gather(*(self._status(self.nodes[name]) for name in names))
        return dict(zip(names, found, strict=True))

    async def _status(self, node: RegionNode) -> dict[str, Any]:
        """Return a node's status; one that goes on under a new id has parted with its callers.

        What was seen of the former one may be set aside: who looks on takes the node as it is.
        """
        try:
            return await node.status()
        except (NotCovered, Unreachable):
            node.check()
            await self._forget(node)
            node.watcher = await connect(node.url, retry=False)
            return await node.status()

    async def _all_are_members(self) -> bool:
        statuses = (await self.statuses()).values()
        count = len(self.nodes)
        return all(status["member"] and len(status["members"]) == count for status in statuses)

    async def close(self) -> None:
        """End everything. Idempotent."""
        for name in self.nodes:
            self.signal(name, signal.SIGCONT)
        await asyncio.gather(*(node.stop() for node in self.nodes.values()))
        for relay in self.relays.values():
            await relay.close()


@dataclass(slots=True)
class Tally:
    """What was asked, and what was acknowledged: by replica the last sequence, and where."""

    outcomes: dict[str, int] = field(default_factory=dict)
    acknowledged: dict[int, int] = field(default_factory=dict)
    places: dict[Place, None] = field(default_factory=dict)

    def count(self, outcome: str) -> None:
        """Count one operation's outcome."""
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1

    def enter(self, committed: Committed, operations: list[Operation]) -> None:
        """Enter an acknowledged write."""
        for operation in operations:
            self.places[operation.space, operation.datatype, operation.key] = None
        if committed.count:
            replica, first = unpack_dot(committed.first)
            last = first + committed.count - 1
            self.acknowledged[replica] = max(last, self.acknowledged.get(replica, 0))


class Agents:
    """Carries steps out on real nodes: what ``client.Clients`` does in a simulated world."""

    def __init__(self, processes: Processes, tally: Tally) -> None:
        self._processes = processes
        self._tally = tally
        self._number = 0

    async def perform(self, machine: str, step: Step) -> None:
        """Do one step on a machine; whatever comes of it is counted."""
        await self.attempt(machine, step)

    async def attempt(self, machine: str, step: Step) -> tuple[Committed | None, str]:
        """Do one step; return what was committed, if anything, and the code of the error."""
        node = self._processes.nodes[machine]
        client = node.watcher
        try:
            if client is None:
                self._tally.count("refused")
                return None, "overloaded"
            if step.kind == "read":
                arguments = step.arguments
                code = DATATYPES[arguments["datatype"]].code
                await client.read(tuple(arguments["space"]), code, arguments["key"])
                committed = None
            elif step.kind == "policy":
                committed = await self._set_policy(client, step.arguments)
            else:
                committed = await self._commit(client, step)
        except CrdtmemError as error:
            self._tally.count("unknown" if error.code == "unreachable" else "refused")
            return None, error.code
        self._tally.count("ok")
        return committed, ""

    async def _set_policy(self, client: Client, arguments: Mapping[str, Any]) -> Committed:
        policy = Policy(
            arguments.get("resolver", "latest"),
            arguments.get("version", 1),
            arguments.get("trust_ordered", False),
        )
        committed = await client.space(*arguments["space"]).set_policy(policy)
        self._tally.enter(committed, [])
        return committed

    async def _commit(self, client: Client, step: Step) -> Committed:
        arguments = step.arguments
        operations = await self._operations(client, step)
        self._number += 1
        transaction = Transaction(
            author=arguments.get("author", f"agent {step.client}"),
            trust=arguments.get("trust", 0),
            operation_id=f"step {self._number}".encode(),
        )
        for operation in operations:
            transaction.add(operation)
        options = WriteOptions(
            durability=arguments.get("durability", "local"),
            timeout_ms=min(_PASSING_MS, arguments.get("timeout_ms", _PASSING_MS)),
            operation_id=transaction.operation_id,
        )
        committed = await client.commit(transaction, options)
        self._tally.enter(committed, operations)
        return committed

    async def _operations(self, client: Client, step: Step) -> list[Operation]:
        arguments, kind = step.arguments, step.kind
        if kind == "write":
            return await self._written(client, arguments)
        space, key = tuple(arguments["space"]), arguments["key"]
        if kind == "transfer":
            nodes = list(self._processes.nodes.values())
            other = nodes[arguments["to"] % len(nodes)].watcher
            to = 1 if other is None else other.replica_id
            code = DATATYPES["bounded_counter"].code
            return [Operation(space, code, key, "transfer", (arguments["amount"], to))]
        code = DATATYPES["document"].code
        if kind == "update":
            update = base64.b64decode(arguments["update"])
        else:
            reading = await client.read(space, code, key)
            document = materialise(updates_of(reading.entries), client.draw_number() >> 12 | 1)
            update = _edited(document, arguments)
        return [Operation(space, code, key, "update", (update,))]

    async def _written(self, client: Client, arguments: Mapping[str, Any]) -> list[Operation]:
        operations: list[Operation] = []
        for space, datatype, key, name, given, *rest in arguments["operations"]:
            options: Options | None = None
            if rest and rest[0]:
                ttl_ms = rest[0].get("ttl_ms")
                options = Options(
                    expires_at_us=None if ttl_ms is None else client.now_us() + ttl_ms * 1_000,
                    metadata=dict(rest[0].get("metadata", {})),
                )
            code = DATATYPES[datatype].code
            if datatype == "log" and name == "remove":
                entries = (await client.read(tuple(space), code, key)).entries[: given[0]]
                given = [[list(unpack_dot(entry[0])) for entry in entries]]
            operations.append(Operation(tuple(space), code, key, name, tuple(given), options))
        conditional = bool(arguments.get("expect"))
        if conditional or arguments.get("observe"):
            first = operations[0]
            reading = await client.read(first.space, first.datatype, first.key)
            old = first.options or Options()
            options = Options(
                observed=reading.observed.dots,
                conditional=conditional,
                expires_at_us=old.expires_at_us,
                metadata=old.metadata,
            )
            operations[0] = Operation(
                first.space, first.datatype, first.key, first.name, first.arguments, options
            )
        return operations


def _edited(document: pycrdt.Doc[Any], arguments: Mapping[str, Any]) -> bytes:
    """Return the update that one edit of a document's text makes."""
    changes: list[bytes] = []
    subscription = document.observe(lambda event: changes.append(event.update))
    text = document.get(ROOT, type=pycrdt.Text)
    length = len(str(text))
    position = min(arguments.get("position", 0), length)
    with contextlib.ExitStack() as stack:
        stack.enter_context(document.transaction())
        if arguments.get("delete"):
            del text[position : min(length, position + arguments["delete"])]
        text.insert(position, arguments.get("insert") or " ")
    document.unobserve(subscription)
    return changes[0]
