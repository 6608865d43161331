"""The answers of the API as models, for its description.

Answers are written from plain values, without building these: what a verb answers needs no
validation. Tests hold real answers against the description that is written from here.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "Accepted",
    "Answer",
    "ConflictAnswer",
    "Conflicts",
    "ContextAnswer",
    "Keyring",
    "Keys",
    "LostWrites",
    "Members",
    "Names",
    "Open",
    "Peers",
    "PolicyAnswer",
    "Problem",
    "ReadAnswer",
    "Reads",
    "Sibling",
    "Written",
]

ContextToken: TypeAlias = Annotated[
    str, Field(description="What the node had joined: pass it as X-Context.", pattern=r"^c1\.")
]
ObservedToken: TypeAlias = Annotated[
    str, Field(description="What this read returned: pass it as observed.", pattern=r"^o1\.")
]
DotText: TypeAlias = Annotated[str, Field(pattern=r"^[0-9a-f]{16}:[0-9]+$")]
ReplicaText: TypeAlias = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]


class Answer(BaseModel):
    """What all answers share: later versions may add fields, never take any away."""

    model_config = ConfigDict(extra="allow")


class Open(Answer):
    """A map whose fields may differ from version to version."""


class Problem(Answer):
    """Why a request was not carried out (RFC 9457)."""

    type: str = Field(description="urn:crdtmem:problem: and the code.")
    title: str
    status: int
    detail: str
    code: str = Field(description="Stable; what programs look at.")
    hint: str = Field(description="What to do about it.")
    state_left: str = Field(description="Whether anything was changed.")


class Sibling(Answer):
    """One live entry: its value, and who wrote it, where and when."""

    value: Any
    author: str
    region: str
    time_us: int
    order: int
    trust: int
    dot: DotText
    expires_at_us: int | None = None
    metadata: dict[str, Any] = {}


class ReadAnswer(Answer):
    """What a reader sees of one key."""

    value: Any
    exists: bool
    contested: bool = Field(description="Whether concurrent values are kept.")
    resolver: str = Field(description="What made the value of them.")
    unknown_resolver: bool = Field(description="Whether this node lacks that resolver.")
    also: list[str] = Field(description="Other datatypes that hold something under this key.")
    observed: ObservedToken
    siblings: list[Sibling] | None = None


class Reads(Answer):
    """Several keys, read at one moment."""

    context: ContextToken
    readings: list[ReadAnswer]


class Written(Answer):
    """What came of a write; durable when it is answered."""

    context: ContextToken
    results: list[Any] = Field(description="Of each operation; empty where it was repeated.")
    first: DotText | None = Field(description="The first of the dots that it made.")
    count: int = Field(description="How many dots it made.")
    repeated: bool = Field(description="Whether it had been carried out before.")


class Keys(Answer):
    """Keys in order; ``cursor`` is where the next page begins, null at the end."""

    keys: list[str]
    cursor: str | None


class Names(Answer):
    """The spaces that hold anything, as lists of labels."""

    spaces: list[list[str]]


class PolicyAnswer(Answer):
    """How a space is read, and who may displace whom."""

    policy: dict[str, Any]
    is_default: bool


class ConflictAnswer(Answer):
    """A place that holds concurrent values."""

    space: list[str]
    datatype: str
    key: str
    field: Any
    resolver: str
    value: Any
    siblings: list[Sibling]


class Conflicts(Answer):
    """Conflicts in order; ``cursor`` is where the next page begins, null at the end."""

    conflicts: list[ConflictAnswer]
    cursor: str | None


class ContextAnswer(Answer):
    """What the node has joined."""

    context: ContextToken


class Members(Answer):
    """The members of the cluster, this node first."""

    members: list[Open]


class Peers(Answer):
    """The streams to other nodes."""

    peers: list[Open]


class Keyring(Answer):
    """The keys of the ring, by name, never the keys themselves."""

    sealed: bool
    members: int
    keys: list[Open]


class LostWrites(Answer):
    """Writes that were set aside."""

    writes: list[Open]


class Accepted(Answer):
    """It was done, or is under way for good."""

    accepted: bool
