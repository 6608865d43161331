"""Clients: simulated agents who write, read, move between machines and try again.

Problem: what a store promises, it promises to somebody who has seen something, goes to
another region with it, gets no answer there and asks again elsewhere. A load without
sessions tests none of that.

Idea: a ``Client`` is a session. It carries a causal context, which every answer grows and
every further request demands to be covered; it remembers what it read of each place, for
writes that supersede exactly that; and it repeats what was refused for the moment, or was
never answered, on the next machine under the same operation id. Every attempt is a
``Call`` of the history. ``Clients`` hands each ``Step`` to its client at its time.

``STEPS`` is the table of kinds, each with what carries it out. Arguments are JSON:

=============  ==============================================================================
``write``      ``operations``: ``[space, datatype, key, operation, arguments]`` or with a
               sixth, ``{"ttl_ms", "metadata"}``; in one transaction. ``observe`` reads the
               first operation's place here and now and supersedes just that; ``expect``
               is the same as a condition; ``remembered`` does so with what this client read
               of it before, wherever that was. ``durability`` is waited for.
``read``       ``space``, ``datatype``, ``key``; the answer covers the session's context.
``edit``       ``space``, ``key``, ``position``, ``insert``, ``delete``: one edit of a document's
               text, made upon what the machine holds of it.
``update``     ``space``, ``key``, ``update`` (Base64): a document update made elsewhere.
``transfer``   ``space``, ``key``, ``amount``, ``to`` (a machine's number): rights of a bounded
               counter, to whoever runs there now.
``policy``     ``space``, ``resolver``, ``version``, ``trust_ordered``.
=============  ==============================================================================

All but ``read`` also take ``author``, ``trust``, ``timeout_ms`` (how long waits may take),
``retries`` and ``session`` (false: demands and remembers nothing).

Invariants: a client does one thing at a time, in the order of its steps; what it never got
an answer to stays ``unknown``; nothing here looks into a node but through what an embedded
caller has: submit, wait, read, await durability.
"""

from __future__ import annotations

import base64
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Final

import pycrdt

from crdtmem.causality import VersionVector
from crdtmem.crdt import DATATYPES
from crdtmem.crdt.document import updates_of
from crdtmem.crdt.updates import materialise
from crdtmem.entries import SEQUENCE_BITS, SEQUENCE_MASK
from crdtmem.errors import CrdtmemError, InvalidValue, Overloaded
from crdtmem.policy import SYSTEM_SPACE, Policy, policy_key
from crdtmem.reading import Reading
from crdtmem.replica import Committed
from crdtmem.transaction import Operation, Options, Transaction
from simulations.errors import BadPlan
from simulations.history import Call, History
from simulations.node import Machine, Ticket, VirtualExecutor
from simulations.steps import Step
from simulations.world import World

__all__ = ["GRACE_US", "STEPS", "Client", "Clients", "place_of"]

GRACE_US: Final = 5_000_000
"""How long after a deadline a client still waits for the answer before it goes elsewhere."""

ROOT: Final = "text"
"""The name of the root that edits of documents are made in."""

_TIMEOUT_MS: Final = 5_000
_PAUSE_US: Final = 50_000
_PASSING: Final = frozenset({"overloaded", "replica_halted", "not_covered", "closed"})

Place = tuple[tuple[str, ...], int, str]


def place_of(space: Iterable[str], datatype: str, key: str) -> Place:
    """Return where something lives: the space's name, the datatype's code, the key."""
    return tuple(space), DATATYPES[datatype].code, key


class Clients:
    """All clients of a world, made as their first step comes up."""

    def __init__(self, world: World, history: History) -> None:
        self.world = world
        self.history = history
        self._clients: dict[int, Client] = {}

    def client(self, number: int) -> Client:
        """Return one of them."""
        found = self._clients.get(number)
        if found is None:
            found = self._clients[number] = Client(self.world, self.history, number)
        return found

    def schedule(self, steps: Iterable[Step], begins_us: int | None = None) -> None:
        """Let every step happen, counted from ``begins_us``, now if it is not given."""
        kernel = self.world.kernel
        begins_us = kernel.now_us if begins_us is None else begins_us
        for step in steps:
            if step.kind not in STEPS:
                raise BadPlan(f"there is no kind of step called {step.kind!r:.80}")
            kernel.at(begins_us + step.at_us, self.perform, step)

    def perform(self, step: Step) -> None:
        """Let the step's client do it, after what it does already."""
        self.client(step.client).perform(step)

    @property
    def idle(self) -> bool:
        """Whether no client waits for anything or has anything left to do."""
        return all(client.idle for client in self._clients.values())


class Client:
    """One session. See the module."""

    def __init__(self, world: World, history: History, number: int) -> None:
        self.world = world
        self.history = history
        self.number = number
        self.random = world.kernel.random(f"client/{number}")
        self.context = VersionVector()
        self.remembered: dict[Place, frozenset[int]] = {}
        self._operations = 0
        self._queue: deque[Step] = deque()
        self._step: Step | None = None
        self._call: Call | None = None

    @property
    def idle(self) -> bool:
        """Whether it waits for nothing and has nothing left to do."""
        return self._step is None and not self._queue

    def perform(self, step: Step) -> None:
        """Do a step, after those before it."""
        self._queue.append(step)
        self._next()

    def _next(self) -> None:
        if self._step is None and self._queue:
            self._step = self._queue.popleft()
            self._operations += 1
            name = f"client {self.number}, {self._operations}"
            self._attempt(self._step, 0, name.encode())

    # ------------------------------------------------------------------ attempts

    def _attempt(self, step: Step, attempt: int, operation_id: bytes) -> None:
        world = self.world
        names = list(world.machines)
        machine = world.machines[names[(step.machine + attempt) % len(names)]]
        arguments = step.arguments
        timeout_us = arguments.get("timeout_ms", _TIMEOUT_MS) * 1_000
        now_us = world.kernel.now_us
        in_session = arguments.get("session", True)
        call = Call(
            len(self.history.calls),
            self.number,
            machine.name,
            step,
            now_us,
            attempt,
            None if step.kind == "read" else operation_id,
            self.context.copy() if in_session else {},
            now_us + timeout_us,
            machine.engine.replica_id if machine.up else 0,
            machine.lives,
        )
        self._call = call
        call.ended = self._ended
        self.history.begin(call)
        world.note("ask", machine.name, step.kind, self.number)
        world.kernel.after(timeout_us + GRACE_US, self._give_up, call)
        if machine.executor is None:
            self.history.answered(call, None, Overloaded("the node is down"))
            return
        try:
            STEPS[step.kind](self, machine, call)
        except CrdtmemError as error:
            self.history.answered(call, None, error)

    def _ended(self, call: Call) -> None:
        """An answer came, or none will: learn from it, and go on, or try again."""
        self.world.note(call.outcome, call.machine, call.code, self.number)
        if call.context is not None and call.step.arguments.get("session", True):
            context = self.context.copy()
            context.join(call.context)
            self.context = context
        if call is self._call:
            self._call = None
            self._go_on(call)

    def _give_up(self, call: Call) -> None:
        if call is self._call:
            call.given_up_us = self.world.kernel.now_us
            self.world.sometimes("a client gave up waiting")
            self._call = None
            self._go_on(call)

    def _go_on(self, call: Call) -> None:
        step = call.step
        again = call.attempt < step.arguments.get("retries", 0) and _may_pass(call)
        if again:
            if call.outcome == "unknown" and call.operation_id is not None:
                self.world.sometimes("a write repeated without knowing what became of it")
            pause_us = int(_PAUSE_US * (1 + self.random.random()) * (1 + call.attempt))
            name = b"" if call.operation_id is None else call.operation_id
            self.world.kernel.after(pause_us, self._attempt, step, call.attempt + 1, name)
            return
        if call.code == "not_covered":
            # What it has seen is not coming: it was given up with whoever wrote it, or is far.
            self.world.sometimes("a client began a new session")
            self.context = VersionVector()
            self.remembered.clear()
        self._step = None
        self.world.kernel.after(0, self._next)

    # ------------------------------------------------------------------ asking

    def _ask(
        self,
        machine: Machine,
        call: Call,
        submit: Callable[[VirtualExecutor, Ticket], None],
        answered: Callable[[Any], None],
    ) -> None:
        """Ask the node for something that it answers later."""
        executor = machine.executor
        if executor is None:
            self.history.answered(call, None, Overloaded("the node is down"))
            return

        def answer(result: Any, error: CrdtmemError | None) -> None:
            if call.is_open and error is not None:
                self.history.answered(call, call.result, error)
            elif call.is_open:
                answered(result)

        ticket = Ticket(answer)

        def work() -> None:
            try:
                submit(executor, ticket)
            except CrdtmemError as error:
                ticket.set_exception(error)

        machine.enter(work)

    def read(self, machine: Machine, call: Call) -> None:
        """Carry out a ``read``: wait for the session's context, then look."""
        arguments = call.step.arguments
        space, code, key = place_of(arguments["space"], arguments["datatype"], arguments["key"])

        def looked(_: Any) -> None:
            reading = machine.replica.read(space, code, key, machine.clock.now_us())
            self.remembered[space, code, key] = reading.observed.dots
            call.clock_us = machine.clock.now_us()
            call.context = reading.context.vector
            self.history.answered(call, reading, None)

        self._ask(machine, call, partial(_wait, call), looked)

    def write(self, machine: Machine, call: Call) -> None:
        """Carry out a ``write``."""
        arguments = call.step.arguments
        operations = [_operation(machine, row) for row in arguments["operations"]]
        conditional = bool(arguments.get("expect"))
        if conditional or arguments.get("observe"):
            first = operations[0]
            place = (first.space, first.datatype, first.key)
            if arguments.get("remembered"):
                dots = self.remembered.get(place, frozenset())
            else:
                dots = machine.replica.read(*place, machine.clock.now_us()).observed.dots
            operations[0] = _observing(first, dots, conditional=conditional)
            call.observed = dots
        self._commit(machine, call, operations)

    def edit(self, machine: Machine, call: Call) -> None:
        """Carry out an ``edit``: change a copy of the document, write what that added."""
        arguments = call.step.arguments
        place = place_of(arguments["space"], "document", arguments["key"])
        reading = machine.replica.read(*place, machine.clock.now_us())
        update = _edited(reading, self.random.getrandbits(52) | 1, arguments)
        space, code, key = place
        self._commit(machine, call, [Operation(space, code, key, "update", (update,))])

    def update(self, machine: Machine, call: Call) -> None:
        """Carry out an ``update``."""
        arguments = call.step.arguments
        space, code, key = place_of(arguments["space"], "document", arguments["key"])
        update = base64.b64decode(arguments["update"])
        self._commit(machine, call, [Operation(space, code, key, "update", (update,))])

    def transfer(self, machine: Machine, call: Call) -> None:
        """Carry out a ``transfer``, to whoever runs on the other machine now."""
        arguments = call.step.arguments
        machines = list(self.world.machines.values())
        other = machines[arguments["to"] % len(machines)]
        if not other.up:
            raise Overloaded("the node that is to get the rights is down")
        space, code, key = place_of(arguments["space"], "bounded_counter", arguments["key"])
        to = (arguments["amount"], other.engine.replica_id)
        self._commit(machine, call, [Operation(space, code, key, "transfer", to)])

    def policy(self, machine: Machine, call: Call) -> None:
        """Carry out a ``policy``, as ``Space.set_policy`` does."""
        arguments = call.step.arguments
        policy = Policy(
            arguments.get("resolver", "latest"),
            arguments.get("version", 1),
            arguments.get("trust_ordered", False),
        )
        code = DATATYPES["register"].code
        key = policy_key(tuple(arguments["space"]))
        value = (policy.as_value(),)
        self._commit(machine, call, [Operation(SYSTEM_SPACE, code, key, "set", value)])

    def _commit(self, machine: Machine, call: Call, operations: list[Operation]) -> None:
        arguments = call.step.arguments
        transaction = Transaction(
            author=arguments.get("author", f"agent {self.number}"),
            trust=arguments.get("trust", 0),
            operation_id=call.operation_id,
        )
        for operation in operations:
            transaction.add(operation)

        def submit(executor: VirtualExecutor, ticket: Ticket) -> None:
            executor.check_open()
            transaction.seal(executor.engine.limits)
            now_us = executor.now_us()
            deadline_us = now_us + call.deadline_us - call.at_us
            executor.attempt(
                lambda: executor.engine.submit(
                    ticket, transaction, now_us, after=call.demanded, deadline_us=deadline_us
                )
            )

        self._ask(machine, call, submit, partial(self._committed, machine, call))

    def _committed(self, machine: Machine, call: Call, committed: Committed) -> None:
        """Note what is durable here, then wait until it is as widely as was asked."""
        vector = committed.context.vector
        call.repeated, call.result = committed.repeated, committed
        self.history.noted_durable(call, committed.first, committed.count, vector)
        durability = call.step.arguments.get("durability", "local")
        if durability == "local":
            self.history.answered(call, committed, None)
            return

        def submit(executor: VirtualExecutor, ticket: Ticket) -> None:
            executor.check_alive()
            now_us = executor.now_us()
            deadline_us = now_us + max(0, call.deadline_us - self.world.kernel.now_us)
            executor.attempt(
                lambda: executor.engine.await_durability(
                    ticket, vector, durability, now_us, deadline_us
                )
            )

        done = partial(self.history.answered, call, error=None)
        self._ask(machine, call, submit, done)


STEPS: Final[Mapping[str, Callable[[Client, Machine, Call], None]]] = {
    "write": Client.write,
    "read": Client.read,
    "edit": Client.edit,
    "update": Client.update,
    "transfer": Client.transfer,
    "policy": Client.policy,
}
"""What carries out each kind of step."""


def _may_pass(call: Call) -> bool:
    """Tell whether it may go better elsewhere, or later."""
    if call.outcome == "ok" or call.dots is not None:
        return False
    return call.outcome == "unknown" or call.code in _PASSING or call.code.startswith("store")


def _wait(call: Call, executor: VirtualExecutor, ticket: Ticket) -> None:
    executor.check_alive()
    now_us = executor.now_us()
    deadline_us = now_us + call.deadline_us - call.at_us
    executor.attempt(lambda: executor.engine.wait(ticket, call.demanded, now_us, deadline_us))


def _operation(machine: Machine, row: list[Any]) -> Operation:
    space, datatype, key, name, arguments, *rest = row
    options: Options | None = None
    if rest and rest[0]:
        ttl_ms = rest[0].get("ttl_ms")
        options = Options(
            expires_at_us=None if ttl_ms is None else machine.clock.now_us() + ttl_ms * 1_000,
            metadata=dict(rest[0].get("metadata", {})),
        )
    code = DATATYPES[datatype].code
    if datatype == "log" and name == "remove":
        arguments = [_first_entries(machine, (tuple(space), code, key), *arguments)]
    return Operation(tuple(space), code, key, name, tuple(arguments), options)


def _first_entries(machine: Machine, place: Place, count: int) -> list[list[int]]:
    """Return the dots of the first entries of a log, as ``remove`` takes them."""
    entries = machine.replica.read(*place, machine.clock.now_us()).entries[:count]
    return [[entry[0] >> SEQUENCE_BITS, entry[0] & SEQUENCE_MASK] for entry in entries]


def _observing(operation: Operation, dots: frozenset[int], *, conditional: bool) -> Operation:
    old = operation.options or Options()
    options = Options(
        observed=dots,
        conditional=conditional,
        expires_at_us=old.expires_at_us,
        metadata=old.metadata,
    )
    return Operation(
        operation.space,
        operation.datatype,
        operation.key,
        operation.name,
        operation.arguments,
        options,
    )


def _edited(reading: Reading, client: int, arguments: Mapping[str, Any]) -> bytes:
    """Return the update that one edit of a document's text makes. Raises ``InvalidValue``."""
    document = materialise(updates_of(reading.entries), client)
    changes: list[bytes] = []
    subscription = document.observe(lambda event: changes.append(event.update))
    text = document.get(ROOT, type=pycrdt.Text)
    length = len(str(text))
    position = min(arguments.get("position", 0), length)
    with document.transaction():
        if arguments.get("delete"):
            del text[position : min(length, position + arguments["delete"])]
        if arguments.get("insert"):
            text.insert(position, arguments["insert"])
    document.unobserve(subscription)
    if not changes:
        raise InvalidValue("the edit changes nothing")
    return changes[0]
