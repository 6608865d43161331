"""``python -m gossip``: one bare member, for measuring and for looking at a mesh.

Problem: failure detection is measured with real processes that carry nothing but the mesh.

Idea: a member with a driver on sockets and no layer above it. What happens to members is
printed as it happens: one line each, or one JSON object per line (``--json``). ``--state``
keeps its identity, its count of starts and its peers in a file, so that a later start is the
same member in a new life; without it every start is a new member.

With ``--json`` the lines are ``{"event": "ready", "address", "member", "generation", "pid"}``,
``{"event": "member", "member", "name", "region", "address", "state", "previous", "generation",
"incarnation", "gone", "at_us"}``, ``{"event": "warning", …}``, ``{"event": "left"}`` at the end,
at SIGUSR1 ``{"event": "counters", …}``, and ``{"event": "payload", "origin", "payload", "at_us"}``
for what a member tells everybody at SIGUSR2 (itself included, for the time at which it did).
``at_us`` is the wall clock.

SIGTERM and SIGINT make it leave. ``--set`` changes constants of the profile, in both pools.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, Final

import click
import uvloop

from gossip.config import PROFILES, profile
from gossip.driver import Driver, wall_us
from gossip.effects import Deliver, Effect, MemberChanged, Remember, Warn
from gossip.errors import ConfigError, GossipError
from gossip.keyring import Keyring
from gossip.mesh import Mesh
from gossip.messages import Profile, Record
from gossip.sealing import SESSION_BYTES, Seal
from gossip.stream_seal import SALT_BYTES, StreamSeal
from gossip.transport.base import FrameSeal, split_address
from gossip.transport.sockets import Sockets

__all__ = ["main"]

_EXIT_USAGE: Final = 2


class _State:
    """The member's identity and memory, in a file or for this start only."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self.member = secrets.randbits(63) + 1
        self.generation = 0
        self.peers = b""
        if path is not None and path.exists():
            try:
                kept = json.loads(path.read_text(encoding="utf-8"))
                self.member = int(kept["member"], 16)
                self.generation = int(kept["generation"])
                self.peers = bytes.fromhex(kept["peers"])
            except (ValueError, KeyError, TypeError) as error:
                raise ConfigError(
                    f"{path} is not a member's state: {error}",
                    hint="name another file; the member will be a new one",
                ) from error
        # Kept before it is used: no two lives may have one number.
        self.generation += 1
        self.keep()

    def keep(self) -> None:
        """Write what there is, whole or not at all, durably."""
        if self._path is None:
            return
        kept = {
            "member": f"{self.member:016x}",
            "generation": self.generation,
            "peers": self.peers.hex(),
        }
        beside = self._path.with_name(self._path.name + ".new")
        with beside.open("w", encoding="utf-8") as file:
            json.dump(kept, file)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(self._path)


class _Member:
    """One running member and what it prints."""

    def __init__(self, state: _State, given: dict[str, Any]) -> None:
        self.state = state
        self.given = given
        self.show: Callable[[dict[str, Any]], None] = _as_json if given["json"] else _as_text
        for address in given["join"]:
            split_address(address)
        label = str(given["cluster"])
        keys = [bytes.fromhex(key) for key in given["key"]]
        self.ring = Keyring(keys) if keys else None
        self.seal = Seal(label, self.ring, secrets.token_bytes(SESSION_BYTES))
        self.driver = Driver(Sockets(self._stream_seal), on_effect=self._happened, events=0)
        self.mesh: Mesh | None = None
        self.told = 0

    def _stream_seal(self, opener: bool) -> FrameSeal:
        salt = secrets.token_bytes(SALT_BYTES)
        label = str(self.given["cluster"])
        return StreamSeal(label, self.ring, salt, initiator=opener, wall_us=wall_us())

    async def run(self) -> None:
        """Live until a signal comes."""
        loop = asyncio.get_running_loop()
        ending = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, ending.set)
        loop.add_signal_handler(signal.SIGUSR1, self._show_counters)
        loop.add_signal_handler(signal.SIGUSR2, self._tell)
        address = await self.driver.open(self.given["listen"])
        state, changes = self.state, self.given["set"]
        name = self.given["name"] or f"{state.member:016x}"
        said = Profile(
            name,
            self.given["region"],
            self.given["advertise"] or address,
            keys=self.ring.ids if self.ring else (),
        )
        self.mesh = Mesh(
            Record(state.member, state.generation, 0, said),
            profile(self.given["profile"], **changes),
            profile("local" if self.given["profile"] == "local" else "wan", **changes),
            Random(secrets.randbits(64)),  # noqa: S311 - jitter and turns, not secrets
            self.seal,
            state.peers,
        )
        self.show(
            {
                "event": "ready",
                "address": address,
                "member": f"{state.member:016x}",
                "generation": state.generation,
                "sealed": self.ring is not None,
                "pid": os.getpid(),
            }
        )
        self.driver.start(self.mesh, self.given["join"])
        waits = [
            loop.create_task(ending.wait(), name="asked to end"),
            loop.create_task(self.driver.wait_closed(), name="stopped by a defect"),
        ]
        done, pending = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        await self.driver.leave()
        for task in done:
            await task
        self.show({"event": "left"})

    def _happened(self, effect: Effect) -> None:
        match effect:
            case MemberChanged(record, now, previous, gone):
                self.show(
                    {
                        "event": "member",
                        "member": f"{record.member:016x}",
                        "name": record.profile.name,
                        "region": record.profile.region,
                        "address": record.profile.gossip_address,
                        "state": "gone" if gone else now.name.lower(),
                        "previous": None if previous is None else previous.name.lower(),
                        "generation": record.generation,
                        "incarnation": record.incarnation,
                        "at_us": wall_us(),
                    }
                )
            case Warn(name, message, details):
                self.show(
                    {"event": "warning", "name": name, "message": message, "details": details}
                )
            case Deliver(origin, payload):
                self._show_payload(origin, payload)
            case Remember(peers):
                self.state.peers = peers
                self.state.keep()

    def _tell(self) -> None:
        mesh = self.mesh
        if mesh is not None:
            self.told += 1
            payload = f"{self.state.member:016x} {self.told}".encode()
            self._show_payload(self.state.member, payload)
            self.driver.command(lambda now, wall: mesh.broadcast(payload, now, wall))

    def _show_payload(self, origin: int, payload: bytes) -> None:
        self.show(
            {
                "event": "payload",
                "origin": f"{origin:016x}",
                "payload": payload.decode(errors="replace"),
                "at_us": wall_us(),
            }
        )

    def _show_counters(self) -> None:
        if self.mesh is not None:
            pools = self.mesh.pool_counters().items()
            self.show(
                {
                    "event": "counters",
                    "pools": {tag: counters.as_value() for tag, counters in pools},
                    "mesh": dict(self.mesh.counters),
                    "transport": dict(self.driver.transport.counters),
                    "driver": dict(self.driver.counters),
                    "lag_maximum_us": self.driver.lag_maximum_us,
                    "at_us": wall_us(),
                }
            )


def _as_json(event: dict[str, Any]) -> None:
    click.echo(json.dumps(event))


def _as_text(event: dict[str, Any]) -> None:
    what = event.pop("event")
    said = " ".join(f"{key}={value}" for key, value in event.items() if value not in (None, ""))
    click.echo(f"{what}: {said}")


def _addresses(_context: click.Context, _option: click.Parameter, given: Any) -> tuple[str, ...]:
    found = [address.strip() for text in given for address in text.split(",")]
    return tuple(address for address in found if address)


def _constants(_context: click.Context, _option: click.Parameter, given: Any) -> dict[str, int]:
    try:
        return {name: int(value) for name, value in (text.split("=", 1) for text in given)}
    except ValueError as error:
        raise click.BadParameter(f"NAME=VALUE, with a whole number: {error}") from error


@click.command()
@click.option("--listen", default="127.0.0.1:0", show_default=True, metavar="HOST:PORT")
@click.option("--advertise", default="", metavar="HOST:PORT", help="What others are to dial.")
@click.option(
    "--join", multiple=True, callback=_addresses, metavar="HOST:PORT",
    help="Any members; repeatable, and a list with commas.",
)  # fmt: skip
@click.option("--region", default="local", show_default=True)
@click.option("--name", default="", help="For people; its id where it has none.")
@click.option(
    "--cluster", default="default", show_default=True, help="Members of others are refused."
)
@click.option("--profile", type=click.Choice(sorted(PROFILES)), default="lan", show_default=True)
@click.option(
    "--set", multiple=True, callback=_constants, metavar="NAME=VALUE",
    help="Another constant of gossip.config, such as probe_interval_us=200000; repeatable.",
)  # fmt: skip
@click.option("--key", multiple=True, metavar="HEX", help="Seal with this key; the first seals.")
@click.option(
    "--state", type=click.Path(dir_okay=False, path_type=Path), help="Identity and peers."
)
@click.option("--json", is_flag=True, help="One JSON object per line.")
def main(**given: Any) -> None:
    """Run a bare member of a mesh until it is told to end."""
    try:
        member = _Member(_State(given["state"]), given)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(member.run())
    except (GossipError, ValueError) as error:
        click.echo(f"gossip: {error}", err=True)
        sys.exit(_EXIT_USAGE)


if __name__ == "__main__":
    main()
