"""Faults of the mesh: members that are slow, lie, share a name, miss a key, or start all at once.

Problem: who is alive is decided by answers in time; so what a mesh has to survive is less the
dead than the half-living, and members that say what is not so.

Idea: a stutter is many short pauses, as a busy event loop makes them. A liar holds the keys and
says forged things in packets of its own: accusations and farewells of others, words that they
never said, members that there never were. Rotating keys is done as an operator does it, step by
step, each tried again until the node allows it, while somebody is away.

Invariants: in worlds without a mesh these do what they can, or nothing; a liar's node itself goes
on as an honest one; nothing is forged that only its author's key could sign.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from random import Random
from typing import Any, Final

from gossip.effects import Effect
from gossip.errors import KeyringError
from gossip.keyring import Keyring
from gossip.mesh import Mesh
from gossip.messages import Alive, Dead, Message, Profile, Record, Stamp, Suspect
from gossip.packing import Packing
from gossip.swim import Swim
from simulations.faults.base import (
    Arguments,
    Downtime,
    Fault,
    Lasting,
    Shape,
    later,
    machines_named,
    restart_later,
)
from simulations.mesh import address_of
from simulations.node import Machine
from simulations.world import World

__all__ = ["LIED", "MESH", "Liar", "MassRestart", "Namesake", "RotateKeys", "Stutter"]

LIED: Final = "a member lied"
"""What is noted when somebody does."""

_KEY_BYTES: Final = 32
_INVENTED: Final = 8
"""Members are invented among the first so many sayings only: each has to be probed and suspected
before it is gone, one after another, which takes longer than anybody waits here."""

_HIGHEST: Final = (1 << 48) - 1
_SAYINGS: Final = ("accuse", "bury", "farewell", "raise", "relive", "move", "invent")


class Stutter(Lasting):
    """An event loop that is busy."""

    name = "stutter"
    kind = "mesh"
    about = "a process stands still for a moment, again and again, as a busy event loop does"

    def draw(self, random: Random, shape: Shape) -> dict[str, Any]:
        """Draw whose, how long each time, and how often."""
        still_us = int(50_000 * 40 ** random.random())
        return {
            "machine": shape.one(random),
            "still_us": still_us,
            "every_us": still_us + int(20_000 * 50 ** random.random()),
            "for_us": shape.duration_us(random),
        }

    def strike(self, world: World, arguments: Arguments) -> None:
        """Let it stand still by turns."""
        still_us, every_us = int(arguments["still_us"]), int(arguments["every_us"])
        for machine in machines_named(world, arguments["machine"]):
            for at_us in range(0, int(arguments["for_us"]), every_us):
                later(world, at_us, machine.pause)
                later(world, at_us + still_us, machine.resume)

    def lift(self, world: World, arguments: Arguments) -> None:
        """Let it run."""
        for machine in machines_named(world, arguments["machine"]):
            machine.resume()


class MassRestart(Fault):
    """Everybody at once."""

    name = "mass_restart"
    kind = "mesh"
    about = "all machines lose power in the same moment, and start again within a second"

    def draw(self, random: Random, shape: Shape) -> dict[str, Any]:
        """Draw for how long they are down, and how far apart they start."""
        down_us = shape.duration_us(random) // 2
        return {"for_us": down_us, "apart_us": random.choice((0, 0, 50_000, 1_000_000))}

    def apply(self, world: World, arguments: Arguments) -> None:
        """Switch all off, and on."""
        for machine in list(world.machines.values()):
            machine.crash(silent=True)
        for number, machine in enumerate(list(world.machines.values())):
            late_us = number * int(arguments["apart_us"]) // len(world.machines)
            restart_later(world, machine, int(arguments["for_us"]) + late_us)


class Namesake(Downtime):
    """Two members of one name."""

    name = "namesake"
    kind = "mesh"
    about = "a machine is restarted under the name of another: two members share it"

    def draw(self, random: Random, shape: Shape) -> dict[str, Any]:
        """Draw as for others, but for a shorter time: it is the name that matters."""
        drawn = super().draw(random, shape)
        return {**drawn, "for_us": drawn["for_us"] // 4}

    def draw_more(self, random: Random, shape: Shape) -> dict[str, Any]:
        """Draw whose name it takes."""
        return {"of": shape.one(random)}

    def take_down(self, world: World, machine: Machine, arguments: Arguments) -> None:
        """Let it stop, to start under that name."""
        machine.stop()
        machine.calls_itself = str(arguments["of"])


class RotateKeys(Fault):
    """A new key, and somebody who misses it."""

    name = "rotate_keys"
    kind = "mesh"
    about = "a key is installed, used, and the old one removed, while a member is cut off or down"

    def draw(self, random: Random, shape: Shape) -> dict[str, Any]:
        """Draw who is away, how, for how long, and how fast the keys change."""
        return {
            "absent": shape.one(random),
            "down": random.random() < 0.5,
            "every_us": shape.duration_us(random) // 4,
            "for_us": shape.duration_us(random),
        }

    def apply(self, world: World, arguments: Arguments) -> None:
        """Send somebody away, and rotate on the first machine that is left."""
        absent, for_us = str(arguments["absent"]), int(arguments["for_us"])
        others = [name for name in world.machines if name != absent]
        for machine in machines_named(world, absent):
            if arguments["down"]:
                machine.crash()
                restart_later(world, machine, for_us)
            else:
                world.network.cut([absent], others)
                world.kernel.after(for_us, world.network.heal, [absent], others)
        if others:
            key = world.kernel.random(f"keys/{world.kernel.now_us}").randbytes(_KEY_BYTES)
            every_us = int(arguments["every_us"])
            for number, step in enumerate((self._install, self._use, self._remove), 1):
                later(world, number * every_us, self._try, world, others[0], step, key, every_us)

    def _try(
        self, world: World, name: str, step: Callable[..., list[Effect]], key: bytes, every_us: int
    ) -> None:
        machine = world.machines[name]
        executor, life = machine.executor, machine.mesh
        if executor is None or life is None or life.ring is None:
            return
        ring, mesh = life.ring, life.mesh

        def command() -> None:
            try:
                life.command(lambda now, wall: step(mesh, ring, key, now, wall))
            except KeyringError:
                # Not yet: a live member lacks the key, as far as is known here.
                later(world, max(every_us, 500_000), self._try, world, name, step, key, every_us)
            else:
                world.sometimes(f"a key rotated: {step.__name__.strip('_')}")

        machine.fire(executor, command)

    def _install(self, mesh: Mesh, _: Keyring, key: bytes, now: int, wall: int) -> list[Effect]:
        return mesh.install_key(key, now, wall)

    def _use(self, mesh: Mesh, ring: Keyring, key: bytes, now: int, wall: int) -> list[Effect]:
        number = next((held.id for held in ring.live if held.material == key), 0)
        return mesh.use_key(number, now, wall)

    def _remove(self, mesh: Mesh, ring: Keyring, key: bytes, now: int, wall: int) -> list[Effect]:
        if ring.primary.material != key:
            raise KeyringError("another key is the primary", hint="use the new one first")
        return mesh.remove_key(ring.live[-1].id, now, wall)


class Liar(Fault):
    """A member that says what is not so."""

    name = "liar"
    kind = "mesh"
    about = "a member with a key forges accusations, farewells, words and members, many of them"

    def draw(self, random: Random, shape: Shape) -> dict[str, Any]:
        """Draw who lies about whom, what, how often."""
        return {
            "machine": shape.one(random),
            "victim": shape.one(random),
            "sayings": random.sample(_SAYINGS, random.randint(1, len(_SAYINGS))),
            "times": random.randint(1, 30),
            "every_us": int(5_000 * 100 ** random.random()),
        }

    def apply(self, world: World, arguments: Arguments) -> None:
        """Lie, again and again."""
        for liar in machines_named(world, arguments["machine"]):
            for number in range(int(arguments["times"])):
                late_us = number * int(arguments["every_us"])
                later(world, late_us, self._lie, world, liar, number, arguments)

    def _lie(self, world: World, liar: Machine, number: int, arguments: Arguments) -> None:
        for victim in machines_named(world, arguments["victim"]):
            if liar.mesh is None or liar.paused or victim.mesh is None or victim is liar:
                return
            random = world.kernel.random(f"liar/{liar.name}/{world.kernel.now_us}/{number}")
            saying = arguments["sayings"][number % len(arguments["sayings"])]
            if saying == "invent" and number >= _INVENTED:
                continue
            world.sometimes("a member lied")
            for pool in _common(liar.mesh.mesh, victim.mesh.mesh):
                messages = _lies(str(saying), pool.me, victim.mesh.mesh.me, random)
                self._send(world, liar, pool, messages)

    def _send(self, world: World, liar: Machine, pool: Swim, messages: list[Message]) -> None:
        shared = pool._pool
        packing = Packing(pool.pool, shared.config, pool._seal.overhead)
        for packet in packing.packets(pool.me.stamp, shared.table.hash, messages):
            for name in world.machines:
                if name != liar.name:
                    world.network.send_datagram(liar.name, name, pool._seal.seal(packet))


def _common(liar: Mesh, victim: Mesh) -> Iterator[Swim]:
    """Yield the liar's pools in which it can meet the victim."""
    if liar.me.profile.region == victim.me.profile.region:
        yield liar._local
    if liar._wide is not None and victim._wide is not None:
        yield liar._wide


def _lies(saying: str, liar: Record, victim: Record, random: Random) -> list[Message]:
    stamp = victim.stamp
    higher = victim.incarnation + random.choice((1, 3, 500, 5_000))
    match saying:
        case "accuse":
            return [Suspect(stamp, random.choice((liar.member, random.getrandbits(60) | 1)))]
        case "bury":
            said = replace(victim, incarnation=min(higher, _HIGHEST)).stamp
            return [Dead(random.choice((stamp, said)), liar.member)]
        case "farewell":
            later_life = Stamp(stamp.member, stamp.generation + random.choice((0, 1)), 0)
            return [Dead(random.choice((stamp, later_life)), stamp.member)]
        case "raise":
            return [Alive(replace(victim, incarnation=random.choice((higher, _HIGHEST))))]
        case "relive":
            life = victim.generation + random.choice((1, 1_000))
            return [Alive(replace(victim, generation=life, incarnation=0))]
        case "move":
            moved = replace(victim.profile, gossip_address=liar.profile.gossip_address)
            return [Alive(replace(victim, incarnation=victim.incarnation + 1, profile=moved))]
        case _:
            return [_nobody(liar, random)]


def _nobody(liar: Record, random: Random) -> Alive:
    """Return the word of a member that there never was, said to live nowhere."""
    place = address_of(f"nobody-{random.randrange(1_000)}")
    profile = Profile("nobody", liar.profile.region, place, place)
    return Alive(Record(random.getrandbits(60) | 1, random.randint(1, 9), 0, profile))


MESH: Final[tuple[Fault, ...]] = (Stutter(), MassRestart(), Namesake(), RotateKeys(), Liar())
