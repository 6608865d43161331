"""Routes to the node and its cluster: how it fares, who is there, what an operator may ask.

What takes long (a backup, a verification) is answered when it is done; its progress is told
on the control socket only.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field

from crdtmem.server.answers import Accepted, Keyring, LostWrites, Members, Open, Peers
from crdtmem.server.exchange import Exchange
from crdtmem.server.operations import Body, DotText, ReplicaText
from crdtmem.server.routing import Route

__all__ = [
    "ROUTES",
    "Backup",
    "Evict",
    "InstallKey",
    "Leave",
    "NamedKey",
    "NoQuery",
    "Nothing",
    "RemoveKey",
    "Rescue",
    "Verify",
]

_ADMIN_REFUSALS: Final = frozenset({404, 409, 412, 429, 507})
_LONGEST_MS: Final = 24 * 3_600_000
_WAIT: Final = Field(10_000, ge=0, le=_LONGEST_MS, description="How long the others may take.")


class Nothing(Body):
    """An empty body, which may be left out."""


class Backup(Body):
    """Where a copy of the store goes."""

    path: str = Field(min_length=1, description="An absolute path on the node's machine.")


class Verify(Body):
    """How thoroughly the store is verified."""

    deep: bool = Field(False, description="Also derive the state again, and compare it.")


class Rescue(Body):
    """What is written again of what was set aside."""

    dots: Annotated[list[DotText], Field(strict=False, max_length=100_000)] | None = Field(
        None, description="Which writes; all that are lost if not given."
    )


class Evict(Body):
    """A member to be given up for good."""

    replica: ReplicaText
    forced: bool = Field(False, description="Count it in no majority: it never comes back.")


class Leave(Body):
    """How a node goes for good."""

    forced: bool = Field(False, description="Go also where others lack what this node holds.")
    timeout_ms: int = _WAIT


class InstallKey(Body):
    """A key that all nodes are to hold, to open with."""

    key: Any = Field(
        None, description='32 bytes, in JSON {"$bytes": base64}; a fresh one if not given.'
    )
    timeout_ms: int = _WAIT


class NamedKey(Body):
    """A key of the ring."""

    key: Annotated[str, Field(pattern=r"^[0-9a-f]{8}$", description="As the ring names it.")]
    timeout_ms: int = _WAIT


class RemoveKey(NamedKey):
    """A key that nobody is to hold any more."""

    compromised: bool = Field(False, description="Open nothing with it any more, at once.")


class NoQuery(BaseModel):
    """Nothing may be asked for."""

    model_config = ConfigDict(extra="forbid")


# ------------------------------------------------------------------ looking


async def _status(exchange: Exchange) -> web.StreamResponse:
    """Tell how the node fares."""
    return exchange.reply(await exchange.ask("status", ()))


async def _members(exchange: Exchange) -> web.StreamResponse:
    """Tell who is there."""
    return exchange.reply({"members": await exchange.ask("members", ())})


async def _peers(exchange: Exchange) -> web.StreamResponse:
    """Tell whom the node has streams with."""
    return exchange.reply({"peers": await exchange.ask("peers", ())})


async def _keyring(exchange: Exchange) -> web.StreamResponse:
    """Tell which keys there are, never the keys themselves."""
    return exchange.reply(await exchange.ask("keyring", ()))


async def _lost_writes(exchange: Exchange) -> web.StreamResponse:
    """Tell which writes were set aside, and what became of them."""
    return exchange.reply({"writes": await exchange.gather("rescue_list", ())})


# ------------------------------------------------------------------ doing


async def _backup(exchange: Exchange) -> web.StreamResponse:
    """Copy the store."""
    body: Backup = await exchange.body()
    return exchange.reply(await exchange.ask("backup", (body.path,)))


async def _verify(exchange: Exchange) -> web.StreamResponse:
    """Verify the store."""
    body: Verify = await exchange.body()
    return exchange.reply(await exchange.ask("verify", (body.deep,)))


async def _checkpoint(exchange: Exchange) -> web.StreamResponse:
    """Write a checkpoint."""
    await exchange.body()
    return exchange.reply(await exchange.ask("checkpoint", ()))


async def _rescue(exchange: Exchange) -> web.StreamResponse:
    """Write again what was set aside."""
    body: Rescue = await exchange.body()
    dots = None if body.dots is None else tuple(body.dots)
    return exchange.reply(await exchange.ask("rescue", (dots,)))


async def _evict(exchange: Exchange) -> web.StreamResponse:
    """Propose to give a member up for good."""
    body: Evict = await exchange.body()
    done = await exchange.ask("evict", (int(body.replica, 16), body.forced))
    return exchange.reply({"accepted": done}, status=200)


async def _leave(exchange: Exchange) -> web.StreamResponse:
    """Hand over what the node holds, and end it."""
    body: Leave = await exchange.body()
    return exchange.reply(await exchange.ask("leave", (body.forced, body.timeout_ms)))


async def _rejoin(exchange: Exchange) -> web.StreamResponse:
    """Go on under a new id, on the other side of a cluster that was parted by force."""
    await exchange.body()
    return exchange.reply({"accepted": await exchange.ask("rejoin", ())})


async def _stop(exchange: Exchange) -> web.StreamResponse:
    """End the node."""
    await exchange.body()
    return exchange.reply({"accepted": await exchange.ask("stop", ())})


async def _install_key(exchange: Exchange) -> web.StreamResponse:
    """Have all nodes hold a key."""
    body: InstallKey = await exchange.body()
    return await _rotate(exchange, "install", exchange.plain(body.key), body.timeout_ms)


async def _use_key(exchange: Exchange) -> web.StreamResponse:
    """Have all nodes seal with a key."""
    body: NamedKey = await exchange.body()
    return await _rotate(exchange, "use", int(body.key, 16), body.timeout_ms)


async def _remove_key(exchange: Exchange) -> web.StreamResponse:
    """Have all nodes forget a key."""
    body: RemoveKey = await exchange.body()
    action = "remove_compromised" if body.compromised else "remove"
    return await _rotate(exchange, action, int(body.key, 16), body.timeout_ms)


async def _rotate(exchange: Exchange, action: str, key: Any, timeout_ms: int) -> web.StreamResponse:
    return exchange.reply(await exchange.ask("rotate", (action, key, timeout_ms)))


# ------------------------------------------------------------------ the table


def _looking(path: str, name: str, summary: str, handler: Any, answer: Any) -> Route:
    return Route("GET", f"/v1/{path}", name, summary, handler, tag="node", answer=answer)


def _doing(path: str, name: str, summary: str, handler: Any, body: Any, answer: Any) -> Route:
    required = any(field.is_required() for field in body.model_fields.values())
    return Route(
        "POST", f"/v1/admin/{path}", name, summary, handler,
        tag="admin", answer=answer, body=body, body_required=required, refusals=_ADMIN_REFUSALS,
    )  # fmt: skip


ROUTES: Final = (
    _looking("status", "status", "How the node fares.", _status, Open),
    _looking("members", "members", "Who is there, this node first.", _members, Members),
    _looking("peers", "peers", "Whom the node has streams with.", _peers, Peers),
    _looking("admin/keyring", "keyring", "Which keys there are.", _keyring, Keyring),
    _looking("admin/rescue", "lost_writes", "Writes set aside.", _lost_writes, LostWrites),
    _doing("backup", "backup", "Copy the store.", _backup, Backup, Open),
    _doing("verify", "verify", "Verify the store.", _verify, Verify, Open),
    _doing("checkpoint", "checkpoint", "Write a checkpoint.", _checkpoint, Nothing, Open),
    _doing("rescue", "rescue", "Write again what was set aside.", _rescue, Rescue, Open),
    _doing("evict", "evict", "Propose to give a member up.", _evict, Evict, Accepted),
    _doing("leave", "leave", "Hand over, and end the node for good.", _leave, Leave, Open),
    _doing("rejoin", "rejoin", "Join the other side, under a new id.", _rejoin, Nothing, Accepted),
    _doing("stop", "stop", "End the node.", _stop, Nothing, Accepted),
    _doing("keyring/install", "install_key", "Have all hold a key.", _install_key, InstallKey,
           Keyring),
    _doing("keyring/use", "use_key", "Have all seal with a key.", _use_key, NamedKey, Keyring),
    _doing("keyring/remove", "remove_key", "Have all forget a key.", _remove_key, RemoveKey,
           Keyring),
)  # fmt: skip
