"""The agents of the demo: what they write, and how fast.

Problem: a demo of replicated memory needs writers that behave like agents: several in
each region, each writing facts, counts, sets, a shared document and a log at the same
time, and now and then the very same key as somebody far away.

Idea: an ``Agent`` takes *steps*, each a few transactions over its region's control
socket, at a steady pace; what is acknowledged goes into the ledger. With real input,
a ``Feeder`` per region writes that region's share of the events instead. In both
cases ``contest`` makes every region decide the same questions while one is cut off:
one question per resolver, each in a space whose policy names that resolver.

Everything drawn is drawn from the seed; what time does to it is real.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from pycrdt import Doc, Text

from crdtmem.causality import Context
from crdtmem.client import Client, connect
from crdtmem.crdt.updates import client_id
from crdtmem.demo.ledger import Ledger
from crdtmem.importer import Planned
from crdtmem.policy import Policy
from crdtmem.session import OpenTransaction, Session
from crdtmem.transaction import Transaction

__all__ = [
    "DOCUMENT_ROOT",
    "MEMORY",
    "QUESTIONS",
    "TEAMS",
    "Agent",
    "Feeder",
    "Question",
    "contest",
    "set_policies",
]

MEMORY: Final = ("team", "memory")
"""The space that the agents share."""

DOCUMENT_ROOT: Final = "report"

TEAMS: Final = {
    "eu-west": ("ada", "emil"),
    "us-east": ("grace", "walt"),
    "ap-south": ("asha", "ravi"),
}
"""The agents of each region."""

_FEED_AT_ONCE: Final = 16
_TOPICS: Final = ("flights", "hotels", "weather", "visas", "museums", "trains", "food", "budget")
_VERBS: Final = ("found", "checked", "compared", "booked", "asked about", "ruled out")


class Question(NamedTuple):
    """Something that every region answers by itself: per region a value, a trust, a confidence."""

    resolver: str
    key: str
    answers: dict[str, tuple[Any, int, float]]

    @property
    def space(self) -> tuple[str, str]:
        """The space of the question, whose policy names its resolver."""
        return ("team", self.resolver.replace("_", "-"))


def _question(resolver: str, key: str, *answers: tuple[Any, int, float]) -> Question:
    return Question(resolver, key, dict(zip(TEAMS, answers, strict=True)))


QUESTIONS: Final = (
    _question("latest", "destination", ("Lisbon", 0, 0.5), ("Kyoto", 0, 0.5), ("Oslo", 0, 0.5)),
    _question("keep_all", "hotel", ("Miramar", 0, 0.5), ("Central", 0, 0.5), ("Harbour", 0, 0.5)),
    _question("maximum", "highest-bid", (1200, 0, 0.5), (1450, 0, 0.5), (900, 0, 0.5)),
    _question("minimum", "best-price", (310, 0, 0.5), (295, 0, 0.5), (330, 0, 0.5)),
    _question("union", "to-see", (["fort"], 0, 0.5), (["fort", "bay"], 0, 0.5), (["zoo"], 0, 0.5)),
    _question("most_trusted", "passport-ok", (True, 1, 0.5), (False, 5, 0.5), (True, 2, 0.5)),
    _question("most_confident", "arrival", ("9:40", 0, 0.6), ("9:55", 0, 0.7), ("10:20", 0, 0.9)),
    _question("majority", "diet", ("vegan", 0, 0.5), ("none", 0, 0.5), ("vegan", 0, 0.5)),
    _question("manual", "approve", ("yes", 0, 0.5), ("no", 0, 0.5), ("ask again", 0, 0.5)),
)  # fmt: skip


class Agent:
    """One agent: a client of its region's node that writes under its own name."""

    def __init__(self, name: str, region: str, client: Client, ledger: Ledger, seed: int) -> None:
        self.name = name
        self.region = region
        self._client = client
        self._session: Session = client.session(author=name)
        self._ledger = ledger
        self._chance = random.Random(f"{seed}/{name}")  # noqa: S311 - a story, not a secret
        opened_by = client_id(client.replica_id, (*MEMORY, DOCUMENT_ROOT, name), session=0)
        self._document: Doc[Any] = Doc(client_id=opened_by)
        self._text = self._document.get(DOCUMENT_ROOT, type=Text)
        self._step = 0
        self._sources: list[str] = []

    @classmethod
    async def connect(cls, name: str, region: str, url: str, ledger: Ledger, seed: int) -> Agent:
        """Connect to a region's node. Raises ``Unreachable``."""
        return cls(name, region, await connect(url), ledger, seed)

    async def close(self) -> None:
        """Leave."""
        await self._client.close()

    async def work(self, steps: int, pause_s: float) -> None:
        """Take ``steps`` steps, one every ``pause_s`` unless the node is slower."""
        loop = asyncio.get_running_loop()
        due_s = loop.time() + self._chance.uniform(0, pause_s)
        for _ in range(steps):
            await asyncio.sleep(max(0.0, due_s - loop.time()))
            due_s = max(due_s + pause_s, loop.time())
            await self.step()

    async def step(self) -> None:
        """Learn one thing: a fact with its count and log entry, a source, a sentence."""
        self._step += 1
        topic, verb = self._chance.choice(_TOPICS), self._chance.choice(_VERBS)
        text = f"{self.name} {verb} {topic} ({self._step})"
        async with self._transaction() as opened:
            space = opened.space(*MEMORY)
            fact = {"text": text, "topic": topic, "step": self._step}
            space.map(f"fact:{self.name}:{self._step}").update(fact)
            # A member that all of them write: who was here last?
            space.map(f"topic:{topic}").set("noted_by", self.name)
            space.counter("facts").increment(1)
            space.log("journal").append({"who": self.name, "what": text})
        async with self._transaction() as opened:
            space = opened.space(*MEMORY)
            self._sources.append(f"{topic}/{self.name}/{self._step}")
            space.set("sources").add(self._sources[-1])
            if self._step % 4 == 0:
                space.set("sources").remove(self._sources.pop(0))
            space.document(DOCUMENT_ROOT).update(self._type(f"{text}.\n"))

    def _transaction(self) -> _Entered:
        return _Entered(self._session, self.region, self._ledger)

    def _type(self, sentence: str) -> bytes:
        """Type at the end of what this agent has typed, and return the update."""
        typed: list[bytes] = []
        watching = self._document.observe(lambda event: typed.append(event.update))
        self._text.insert(len(str(self._text)), sentence)
        self._document.unobserve(watching)
        return typed[0]


class _Entered:
    """A transaction that enters itself into the ledger once it is acknowledged."""

    def __init__(self, session: Session, region: str, ledger: Ledger) -> None:
        self._opened = session.transaction()
        self._region = region
        self._ledger = ledger
        self._transaction: OpenTransaction | None = None

    async def __aenter__(self) -> OpenTransaction:
        self._transaction = await self._opened.__aenter__()
        return self._transaction

    async def __aexit__(self, *error: Any) -> None:
        await self._opened.__aexit__(*error)
        opened = self._transaction
        assert opened is not None
        if opened.committed is not None:
            self._ledger.enter(self._region, opened.transaction, opened.committed)


class Feeder:
    """Writes a region's share of real events, many at a time."""

    def __init__(self, region: str, client: Client, ledger: Ledger) -> None:
        self._region = region
        self._client = client
        self._ledger = ledger

    async def feed(self, planned: Iterator[Planned]) -> None:
        """Commit transactions until there are no more. Raises what a commit raises."""

        async def feed_some() -> None:
            for transaction, _ in planned:
                await self._commit(transaction)

        # They share the iterator, so that order is kept as far as answers allow.
        async with asyncio.TaskGroup() as group:
            for _ in range(_FEED_AT_ONCE):
                group.create_task(feed_some())

    async def _commit(self, transaction: Transaction) -> None:
        committed = await self._client.commit(transaction, self._client.options)
        if not committed.repeated:
            self._ledger.enter(self._region, transaction, committed)


async def set_policies(client: Client) -> Context:
    """Give every question's space the policy that names its resolver; return the context."""
    context = Context()
    for question in QUESTIONS:
        policy = Policy(resolver=question.resolver)
        committed = await client.space(*question.space).set_policy(policy)
        context = context.merge(committed.context)
    return context


async def contest(region: str, client: Client, ledger: Ledger) -> None:
    """Answer every question the way this region sees it."""
    names = TEAMS[region]
    for number, question in enumerate(QUESTIONS):
        value, trust, confidence = question.answers[region]
        session = client.session(author=names[number % len(names)], trust=trust)
        async with _Entered(session, region, ledger) as opened:
            place = opened.space(*question.space).register(question.key)
            place.set(value, metadata={"c": confidence})
