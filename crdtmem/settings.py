"""The settings of one node: every name, its meaning, its range and its trade-off.

Problem: a setting that nobody can explain is set by guess and kept by fear;
two settings that contradict each other are found out under load.

Idea: one frozen ``Settings`` of small sections. Every field carries its
description, which is what ``crdtmem config --check`` prints. What must hold
between fields is checked when a ``Settings`` is made, so that none exists that
a node could not run with.

Rules:
1. Names end in their unit: ``_bytes``, ``_ms``, ``_days``.
2. Settings that contradict each other are refused, with both named; nothing is
   adjusted in silence.
3. A node that speaks plain text, which must be asked for by name, listens on loopback
   only, unless told otherwise in so many words (``allow_public_listen``).

Where values come from, and which source wins, is ``config``'s concern. Pure
code receives ``Limits`` and plain values, never ``Settings``.

Source: foca's ``config.rs``, where every field says meaning, range, trade-off.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields as dataclass_fields
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import AfterValidator as After
from pydantic import BaseModel, Field, PrivateAttr, model_validator
from pydantic import BeforeValidator as Before

from crdtmem.errors import ConfigError
from crdtmem.limits import DEFAULT_LIMITS, Limits
from crdtmem.settings_parts import (
    Section,
    is_loopback,
    is_unspecified,
    parse_address,
    parse_size,
)
from crdtmem.settings_service import Admission, Http
from gossip.config import Config, profile
from gossip.errors import ConfigError as MeshConfigError

__all__ = [
    "DESCRIPTIONS",
    "SWITCHES",
    "Admission",
    "Checkpoints",
    "Clock",
    "GroupCommit",
    "History",
    "Http",
    "Mesh",
    "Reconnect",
    "Settings",
    "Streams",
    "SyncLog",
    "is_loopback",
    "look_up",
    "parse_address",
    "parse_size",
]

_MIB: Final = 1024 * 1024
# The kernel's struct sockaddr_un holds 108 bytes, one of them a terminator.
_SOCKET_PATH_BYTES: Final = 107


def _check_peer(text: str) -> str:
    parse_address(text)
    return text


def _check_route(text: str) -> str:
    advertised, equals, dialled = text.partition("=")
    if not equals:
        raise ValueError(f"{text!r} is not ADVERTISED=DIALLED, each HOST:PORT")
    parse_address(advertised)
    parse_address(dialled)
    return text


def _check_constant(text: str) -> str:
    name, equals, number = text.partition("=")
    if not equals or not number.isascii() or not number.isdigit():
        raise ValueError(f"{text!r} is not NAME=VALUE with a whole number")
    if name not in {field.name for field in dataclass_fields(Config)}:
        raise ValueError(f"{name!r} is no constant of gossip.config")
    return text


def _check_advertise(text: str) -> str:
    if text:
        host, _ = parse_address(text)
        if is_unspecified(host):
            raise ValueError(f"{text!r} means every address, which nobody can dial")
    return text


def _check_listen(text: str) -> str:
    parse_address(text, lowest_port=0)
    return text


def _check_store(url: str) -> str:
    if re.fullmatch(r"[a-z][a-z0-9+]*:.*", url, re.DOTALL) is None:
        raise ValueError(f"{url!r} names no engine; write sqlite:///PATH or memory:")
    return url


def _check_socket_path(path: str) -> str:
    if not 0 < len(path.encode()) <= _SOCKET_PATH_BYTES:
        raise ValueError(f"a socket's path takes 1 to {_SOCKET_PATH_BYTES} bytes")
    return path


def _split_list(given: object) -> object:
    """The environment and flags write a list as one string, parted by commas."""
    if isinstance(given, str):
        return tuple(part.strip() for part in given.split(",") if part.strip())
    return given


Label: TypeAlias = Annotated[str, Field(pattern=r"^[a-z0-9-]{1,32}$")]
Addresses: TypeAlias = Annotated[
    tuple[Annotated[str, After(_check_peer)], ...], Before(_split_list), Field(max_length=1000)
]
Routes: TypeAlias = Annotated[
    tuple[Annotated[str, After(_check_route)], ...], Before(_split_list), Field(max_length=1000)
]
Constants: TypeAlias = Annotated[
    tuple[Annotated[str, After(_check_constant)], ...], Before(_split_list), Field(max_length=100)
]
LogLevel: TypeAlias = Literal["debug", "info", "warning", "error"]


class GroupCommit(Section):
    """How many writes share one fsync."""

    flight_deltas: int = Field(
        20_000,
        ge=1,
        description="Most deltas that one fsync makes durable together. More raises throughput "
        "under load and the delay of the last write in the group; at least limits.batch_deltas.",
    )
    linger_ms: int = Field(
        0,
        ge=0,
        le=1_000,
        description="How long a commit waits for company, 0 to 1000. Writes that arrive during "
        "an fsync always share the next, so waiting helps only disks with a very slow fsync.",
    )


class Checkpoints(Section):
    """How often the state is written whole, so that recovery need not replay all."""

    log_bytes: int = Field(
        64 * _MIB,
        ge=64 * 1024,
        description="Log written since the last checkpoint that starts the next. Less recovers "
        "faster and writes more in steady state.",
    )


class SyncLog(Section):
    """What is kept for peers that lag behind."""

    budget_bytes: int = Field(
        256 * _MIB,
        ge=_MIB,
        description="Log kept to answer peers that lag. A peer further behind gets a snapshot, "
        "which costs more once and nothing else.",
    )


class History(Section):
    """What is kept so that a past answer can be reproduced."""

    retention_days: int = Field(
        30,
        ge=0,
        description="Days of history kept for reads as of a past context, replay and cursors; "
        "0 keeps all. Older questions are answered with HistoryGap, never with a guess.",
    )


class Clock(Section):
    """When a clock is called wrong. Causality never depends on it."""

    skew_alarm_ms: int = Field(
        500,
        ge=1,
        description="Distance from the cluster's median clock that raises an alarm. Nothing is "
        "refused beyond it: stamps are joined, counted and named.",
    )


class Reconnect(Section):
    """How a lost stream is sought again: doubling, with jitter, between two bounds."""

    minimum_ms: int = Field(
        100,
        ge=1,
        description="First pause before a lost stream is dialled again. Less heals short breaks "
        "sooner and knocks harder on a peer that is starting.",
    )
    maximum_ms: int = Field(
        10_000,
        ge=1,
        le=3_600_000,
        description="Longest pause between two attempts, at least reconnect.minimum_ms. It bounds "
        "how late a healed link is noticed.",
    )


class Streams(Section):
    """Flow control between nodes."""

    credit_window_bytes: int = Field(
        8 * _MIB,
        ge=64 * 1024,
        description="Bytes a peer may send before it hears that earlier ones are durable. At "
        "least limits.frame_bytes; more fills long links, and is memory at risk per slow peer.",
    )


class Mesh(Section):
    """How nodes find each other, see who is alive, and keep strangers out."""

    profile: Literal["auto", "local", "lan", "wan"] = Field(
        "auto",
        description="Pace of failure detection within the region: local (one machine), lan, wan; "
        "auto is local where listen is loopback, else lan. Between regions it is wan, or local "
        "on one machine. Faster finds the dead sooner, and suspects the slow more often.",
    )
    keyring: str = Field(
        "",
        description="Path of the key ring that seals datagrams and streams; every node of a "
        "cluster needs the same keys. Empty: beside the store, made at the first start of a node "
        "that joins nobody.",
    )
    plain_text: bool = Field(
        False,
        description="Sends everything unsealed: whoever is on the path can read and join. Only on "
        "loopback, or with allow_public_listen on a network that you trust whole.",
    )
    routes: Routes = Field(
        (),
        description="ADVERTISED=DIALLED, each HOST:PORT: where this node reaches an address that "
        "others advertise, across a translating router or a relay.",
    )
    constants: Constants = Field(
        (),
        description="NAME=VALUE: other constants of failure detection than the profile's, within "
        "the region and between regions (gossip.config explains each). The same in all nodes.",
    )

    def pools(self, listen: str) -> tuple[Config, Config]:
        """Return how the pool of the region behaves, and that between regions."""
        chosen: str = self.profile
        if chosen == "auto":
            chosen = "local" if is_loopback(parse_address(listen, lowest_port=0)[0]) else "lan"
        changes = {name: int(value) for name, value in (c.split("=") for c in self.constants)}
        wide = "local" if chosen == "local" else "wan"
        try:
            return profile(chosen, **changes), profile(wide, **changes)
        except MeshConfigError as error:
            raise _contradiction(
                f"mesh.constants: {error.args[0]}", error.hint, "mesh.constants"
            ) from error


class Settings(Section):
    """Everything that one node is told. Made by ``load_settings``; never changed."""

    region: Label = Field(
        "local",
        description="Place with its own failure domain that this node belongs to (eu-west): 1 to "
        "32 of a-z, 0-9 and -. Nodes of one region are assumed to be near each other.",
    )
    node_name: Label = Field(
        "node-1",
        description="Name of this node for people, unique within its region; same form as a "
        "region. Never an identity: the store draws that.",
    )
    cluster: Label = Field(
        "crdtmem",
        description="Name that both sides of a stream must share. It keeps a staging node from "
        "joining production by a mistyped address.",
    )
    store: Annotated[str, After(_check_store)] = Field(
        "sqlite:///crdtmem.db",
        description="URL of the store: sqlite:///relative, sqlite:////absolute, or memory: (gone "
        "at exit). Put it on a disk whose fsync can be trusted.",
    )
    listen: Annotated[str, After(_check_listen)] = Field(
        "127.0.0.1:7420",
        description="HOST:PORT for other nodes: streams by TCP, and the mesh's datagrams by UDP; "
        "port 0 takes any that is free for both.",
    )
    advertise: Annotated[str, After(_check_advertise)] = Field(
        "",
        description="HOST:PORT that others are told to reach this node at; empty for listen. "
        "Needed where listen is 0.0.0.0, or behind a translating router.",
    )
    allow_public_listen: bool = Field(
        False,
        description="Lets a node that speaks plain text be reachable from other machines. Only on "
        "a network that you trust whole.",
    )
    join: Addresses = Field(
        (),
        description="HOST:PORT of some nodes of the cluster, any that are likely to be up; names "
        "are looked up anew at each try. Empty for the first node, which founds the cluster.",
    )
    peers: Addresses = Field(
        (),
        description="HOST:PORT of nodes to keep a stream to whatever the mesh says, for networks "
        "that carry no datagrams at all. With join, none are needed.",
    )
    control_socket: Annotated[str, After(_check_socket_path)] = Field(
        "crdtmem.sock",
        description="Path of the Unix socket that the command line and local clients use, at "
        "most 107 bytes. Whoever can open it controls the node.",
    )
    log_level: LogLevel = Field(
        "info", description="Least severe message logged: debug, info, warning or error."
    )
    limits: Limits = Field(DEFAULT_LIMITS, description="Bounds on local writes and frames.")
    group_commit: GroupCommit = Field(GroupCommit(), description="Writes that share an fsync.")
    checkpoints: Checkpoints = Field(Checkpoints(), description="Recovery's starting points.")
    sync_log: SyncLog = Field(SyncLog(), description="Log kept for lagging peers.")
    history: History = Field(History(), description="Log kept for questions about the past.")
    clock: Clock = Field(Clock(), description="Clock alarms.")
    reconnect: Reconnect = Field(Reconnect(), description="Pauses before redialling.")
    streams: Streams = Field(Streams(), description="Flow control between nodes.")
    mesh: Mesh = Field(Mesh(), description="Finding other nodes, and who is alive.")
    http: Http = Field(Http(), description="The HTTP API.")
    admission: Admission = Field(Admission(), description="Unanswered work, of all clients.")

    _sources: dict[str, str] = PrivateAttr(default_factory=dict)

    @classmethod
    def from_sources(cls, values: Mapping[str, Any], sources: Mapping[str, str]) -> Settings:
        """Make settings of nested ``values``, remembering where each dotted name was set.

        Raises pydantic's ``ValidationError`` for a value of the wrong form and
        ``ConfigError`` for values that contradict each other.
        """
        settings = cls.model_validate(values)
        settings._sources.update(sources)
        return settings

    def source_of(self, name: str) -> str:
        """Return where a dotted name was set: a file, a variable, a flag or ``"default"``."""
        return self._sources.get(name, "default")

    @model_validator(mode="after")
    def _check_together(self) -> Settings:
        host, _ = parse_address(self.listen, lowest_port=0)
        if self.mesh.plain_text and not self.allow_public_listen and not is_loopback(host):
            raise _contradiction(
                f"listen is {self.listen}, which other machines can reach, and mesh.plain_text "
                "leaves everything unsealed",
                "leave mesh.plain_text out, or set allow_public_listen on a network that you trust "
                "whole",
                "listen",
                "mesh.plain_text",
            )
        if is_unspecified(host) and not self.advertise:
            raise _contradiction(
                f"listen is {self.listen}, every address of this machine, and others must be told "
                "one that they can reach",
                "set advertise to this node's HOST:PORT, or listen on one address",
                "listen",
                "advertise",
            )
        self.mesh.pools(self.listen)
        if len(set(self.join)) != len(self.join):
            raise _contradiction("join names a node twice", "name each once", "join")
        if len(set(self.peers)) != len(self.peers):
            raise _contradiction("peers names a peer twice", "name each peer once", "peers")
        _require_order(self, "group_commit.flight_deltas", "limits.batch_deltas")
        _require_order(self, "streams.credit_window_bytes", "limits.frame_bytes")
        _require_order(self, "admission.in_flight_bytes", "limits.frame_bytes")
        self.admission.check_memory()
        _require_order(self, "reconnect.maximum_ms", "reconnect.minimum_ms")
        return self


def look_up(settings: Settings, name: str) -> Any:
    """Return the value of a setting by its dotted name, such as ``limits.key_bytes``."""
    value: Any = settings
    for part in name.split("."):
        value = getattr(value, part)
    return value


def _contradiction(message: str, hint: str, *names: str) -> ConfigError:
    return ConfigError(message, hint=hint, settings=names)


def _require_order(settings: Settings, larger: str, smaller: str) -> None:
    high, low = look_up(settings, larger), look_up(settings, smaller)
    if high < low:
        raise _contradiction(
            f"{larger} is {high}, less than {smaller}, which is {low}",
            f"raise {larger} to at least {low}, or lower {smaller}",
            larger,
            smaller,
        )


def _describe(model: type[BaseModel], prefix: str = "") -> dict[str, str]:
    """Return the description of every leaf, by dotted name, in the order of declaration."""
    table: dict[str, str] = {}
    for name, field in model.model_fields.items():
        if field.annotation is Limits:
            for bound in dataclass_fields(Limits):
                table[f"{prefix}{name}.{bound.name}"] = bound.metadata["description"]
        elif isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            table.update(_describe(field.annotation, f"{prefix}{name}."))
        else:
            table[prefix + name] = field.description or ""
    return table


DESCRIPTIONS: Final = _describe(Settings)
SWITCHES: Final = frozenset(
    f"{prefix}{name}"
    for prefix, section in (("", Settings), ("mesh.", Mesh))
    for name, field in section.model_fields.items()
    if field.annotation is bool
)
