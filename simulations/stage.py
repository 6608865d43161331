"""The stage: the stable interface in which scenarios are written.

Problem: a scenario should be readable by somebody who runs agents, and never heard of
heaps, seeds or watchers; it must stay valid while the simulator changes beneath it; and
what it claims should be tested against real processes too, without a second text.

Idea: a scenario is one file: a docstring that says what is tested and what must hold, a
``TITLE``, and ``def play(stage: Stage) -> None``. A ``Stage`` has the verbs: build, write,
break, mend, wait, expect. Time passes only in ``run`` and ``converge``. Two casts know the
verbs: ``simulated_stage`` plays them in virtual time with every checker watching,
``real`` plays most of them with processes, sockets and files.

    \"\"\"A region is cut off for a minute; both sides go on, and nothing is lost.\"\"\"
    from simulations.stage import Stage

    TITLE = "A minute alone"

    def play(stage: Stage) -> None:
        stage.regions("eu-west", "us-east", "ap-southeast")
        stage.start()
        stage.load("mixed", rate_per_s=20, for_s=90)
        stage.run(10)
        stage.cut("eu-west")
        stage.run(60)
        stage.heal()
        stage.converge(within_s=30)

Whatever a scenario leaves broken is mended when it ends: links heal, machines that are
down start, and the cluster must then converge within ``FINAL_S``. A scenario fails by a
``Violation``: of a checker (safety), of an ``expect`` (safety), of a ``converge`` in time
(liveness).

Further names that a scenario file may set: ``SEED`` (7), ``SLOW`` (takes a minute of wall
time), ``SIMULATOR_ONLY`` (why it cannot be played with real processes), ``REAL_PACE`` (how
long a second of the scenario lasts with real processes; 0.1).

*Whom* a verb is about is said by a machine's name, by a region's (all machines there) or
by several of either. Times are seconds, as people think of them.
"""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any, ClassVar, Final

from crdtmem.reading import Reading
from simulations.errors import BadPlan, SafetyViolation
from simulations.workloads import WORKLOADS

__all__ = [
    "FINAL_S",
    "PEERS",
    "SPACE",
    "Receipt",
    "Scenario",
    "Stage",
    "Whom",
    "load_scenario",
    "mixed",
]

FINAL_S: Final = 180.0
"""How long the cluster may take to converge when a scenario has ended and all is mended."""

SPACE: Final = ("stage",)
"""The space of what a scenario writes itself."""

_DEFAULT_SEED: Final = 7

PEERS: Final = "peers"
"""How machines find each other that are told of each other by their settings."""

Whom = str | Iterable[str]
"""Machines, by name or by region."""


@dataclass(slots=True)
class Receipt:
    """What came of one write: ``waiting``, ``ok``, ``refused`` (with ``code``) or ``unknown``."""

    outcome: str = "waiting"
    result: Any = None
    code: str = ""

    @property
    def ok(self) -> bool:
        """Whether it was acknowledged."""
        return self.outcome == "ok"


class Stage(ABC):
    """The verbs. See the module; ``random`` is the scenario's own source of chance."""

    real: ClassVar[bool] = False
    """Whether real processes play."""

    def __init__(self, seed: int, random: Random, tell: Callable[[str], None]) -> None:
        self.seed = seed
        self.random = random
        self.story: list[tuple[float, str]] = []
        self._tell = tell

    # ------------------------------------------------------------------ building

    @abstractmethod
    def settings(self, **settings: int) -> None:
        """Set what all machines have in common, before there are any.

        Names are those of a plan's ``config``: the fields of ``WorldConfig``, and
        ``limits__…`` and ``sync__…`` for those of ``Limits`` and ``SyncConfig``.
        """

    @abstractmethod
    def regions(self, *names: str, machines: int = 1, by: str = PEERS) -> list[str]:
        """Add machines to regions (keys of ``regions.REGIONS``); return their names.

        One machine bears its region's name, several are numbered: ``eu-west-1``. ``by`` is how
        all of them find each other: by configured ``peers``, by the ``mesh``, or by another of
        ``mesh.MESHES``: ``swift``, ``swift sealed``, ``lan sealed``.
        """

    @abstractmethod
    def start(self, *, topology: str = "mesh") -> None:
        """Start every machine and wait until all are members of one cluster.

        In a ``mesh`` everybody knows everybody; in a ``ring`` each the one before it; in a
        ``star`` all know the first only; in ``hubs`` the first machines of all regions know
        each other, and the others that of their region.
        """

    @abstractmethod
    def add(self, name: str, region: str) -> None:
        """Add a machine to a running cluster, as known to everybody, and start it."""

    @property
    @abstractmethod
    def machines(self) -> list[str]:
        """The names of all machines, in the order in which they were added."""

    @property
    @abstractmethod
    def now_s(self) -> float:
        """How long the cluster has existed."""

    def named(self, whom: Whom) -> list[str]:
        """Return the machines that are meant. Raises ``BadPlan`` where there are none."""
        found: list[str] = []
        for word in [whom] if isinstance(whom, str) else whom:
            meant = [word] if word in self.machines else self._in_region(word)
            if not meant:
                raise BadPlan(f"no machine and no region of this stage is called {word}")
            found += [name for name in meant if name not in found]
        return found

    def others(self, whom: Whom) -> list[str]:
        """Return all machines but those."""
        named = self.named(whom)
        return [name for name in self.machines if name not in named]

    @abstractmethod
    def _in_region(self, region: str) -> list[str]:
        """Return the machines of a region."""

    # ------------------------------------------------------------------ agents

    @abstractmethod
    def load(
        self,
        workload: str = "mixed",
        *,
        rate_per_s: float = 10.0,
        for_s: float = 10.0,
        clients: int | None = None,
        on: Whom | None = None,
    ) -> None:
        """Let agents work from now on, as ``workloads.WORKLOADS`` has it; ``mixed`` is all but
        recordings.

        ``rate_per_s`` is that of all of them together; by default there are two clients
        per machine, on all machines.
        """

    @abstractmethod
    def do(self, machine: str, datatype: str, key: str, operation: str, *arguments: Any) -> Receipt:
        """Let somebody do one operation on one key of the space ``stage``; do not wait."""

    @abstractmethod
    def reading(self, machine: str, key: str, datatype: str = "register") -> Reading:
        """Read a key of the space ``stage`` as it is on a machine now. It must be up."""

    def write(self, machine: str, key: str, value: Any) -> Receipt:
        """Write a register; see ``do``."""
        return self.do(machine, "register", key, "set", value)

    def read(self, machine: str, key: str, datatype: str = "register") -> Any:
        """Return the value of a key as a machine shows it now, ``None`` where there is none."""
        return self.reading(machine, key, datatype).value

    # ------------------------------------------------------------------ the network

    @abstractmethod
    def cut(self, whom: Whom, off: Whom | None = None) -> None:
        """Let nothing through between some machines and others, by default all others."""

    @abstractmethod
    def one_way(self, deaf: Whom, to: Whom | None = None) -> None:
        """Let some machines hear nothing of others, who still hear them."""

    @abstractmethod
    def heal(self) -> None:
        """Let everything through again, as quickly and as well as at first."""

    @abstractmethod
    def links(self, whom: Whom, to: Whom | None = None, **wrong: float) -> None:
        """Let something be wrong with links, both ways, until ``heal``.

        ``loss``, ``corrupt``, ``duplicate``, ``replay``, ``reorder``: probabilities;
        ``latency_ms``, ``jitter_ms``, ``kib_per_s``; ``clog_s``: everything is held back.
        """

    def flap(self, whom: Whom, off: Whom | None = None, *, every_s: float, for_s: float) -> None:
        """Cut and heal by turns while time passes; ends healed."""
        listed = self.named(whom)
        ends_s = self.now_s + for_s
        while self.now_s < ends_s - every_s / 2:
            self.cut(listed, off)
            self.run(every_s)
            self.heal()
            self.run(every_s)

    # ------------------------------------------------------------------ machines

    @abstractmethod
    def crash(self, whom: Whom, *, silent: bool = False) -> None:
        """Kill processes; what was not synced is gone. ``silent``: as when power fails."""

    @abstractmethod
    def stop(self, whom: Whom) -> None:
        """End processes cleanly."""

    @abstractmethod
    def restart(self, whom: Whom) -> None:
        """Start what is down."""

    @abstractmethod
    def pause(self, whom: Whom) -> None:
        """Let processes stand still, their connections open."""

    @abstractmethod
    def resume(self, whom: Whom) -> None:
        """Let them go on."""

    @abstractmethod
    def is_up(self, machine: str) -> bool:
        """Tell whether a node runs there."""

    # ------------------------------------------------------------------ the system

    @abstractmethod
    def fault(self, name: str, **arguments: Any) -> None:
        """Let a fault of ``faults.FAULTS`` strike, with its own arguments."""

    @abstractmethod
    def clock(self, whom: Whom, *, jump_s: float = 0.0, drift_ppm: int | None = None) -> None:
        """Set clocks forward or back; let them run fast or slow."""

    @abstractmethod
    def disk(
        self,
        whom: Whom,
        *,
        full: bool | None = None,
        fails: float | None = None,
        slow: int | None = None,
    ) -> None:
        """Let disks be full, fail that share of all syncs, be that many times slower."""

    @abstractmethod
    def mend_disks(self) -> None:
        """Let all disks work again."""

    @abstractmethod
    def backup(self, machine: str) -> None:
        """Keep a copy of what is durable on a machine."""

    @abstractmethod
    def restore(self, machine: str, *, hidden: bool = False) -> None:
        """Put the last copy back and start. ``hidden``: as a snapshot of the whole disk does.

        A copied folder shows that it is one. A whole disk that was set back does not:
        only peers can tell.
        """

    @abstractmethod
    def clone(self, machine: str, name: str, *, hidden: bool = False) -> None:
        """Copy a machine's disk to a new machine beside it, and start that."""

    @abstractmethod
    def evict(self, victim: str, *, by: str, forced: bool = False) -> None:
        """Let a machine propose to give another up for good. The victim stays as it is."""

    @abstractmethod
    def rejoin(self, whom: Whom) -> None:
        """Let machines join those that gave them up, and that they gave up: see the command."""

    @abstractmethod
    def upgrade(self, whom: Whom, version: int = 2) -> None:
        """Restart machines with a program that speaks the protocol from 1 up to a version.

        Version 2 is the next program's: it has frames that version 1 cannot parse. With
        1 machines are set back to the program of today.
        """

    # ------------------------------------------------------------------ looking

    @abstractmethod
    def replica_id(self, machine: str) -> int:
        """Return the id under which a machine writes now. It must be up."""

    def shown(self, machine: str) -> list[str]:
        """Return the machines that a machine's mesh holds for living. It must be up."""
        raise BadPlan("there is no mesh to ask here")

    def gather(self) -> float:
        """Let time pass until the mesh of everybody shows just who is there; return the seconds.

        Raises ``LivenessViolation`` if it takes too long.
        """
        raise BadPlan("there is no mesh to wait for here")

    @abstractmethod
    def alarms(self, name: str) -> int:
        """Return how often an alarm of this name was raised anywhere."""

    @abstractmethod
    def reached(self, name: str) -> int:
        """Return how often something rare happened, see ``sometimes``; 0 with real processes."""

    # ------------------------------------------------------------------ time

    @abstractmethod
    def run(self, seconds: float) -> None:
        """Let time pass."""

    @abstractmethod
    def wait_until(
        self, condition: Callable[[], bool], what: str, *, within_s: float = 60.0
    ) -> float:
        """Let time pass until something is so; return the seconds that it took.

        Raises ``LivenessViolation`` if it is not so in time.
        """

    @abstractmethod
    def converge(self, within_s: float = 60.0, *, whom: Whom | None = None) -> float:
        """Let time pass until all machines that are up hold the same; return the seconds.

        Agents go on while they have work. Raises ``LivenessViolation`` if it takes longer.
        """

    # ------------------------------------------------------------------ telling

    def say(self, text: str) -> None:
        """Tell the story, in the output and in the picture."""
        self.story.append((self.now_s, text))
        self._tell(f"{self.now_s:9.1f} s  {text}")

    def expect(self, condition: bool, sentence: str) -> None:
        """Say what must hold now. Raises ``SafetyViolation`` where it does not."""
        if not condition:
            raise SafetyViolation("expectation", f"it does not hold that {sentence}")
        self.say(f"it holds that {sentence}")


# ---------------------------------------------------------------------- scenarios


def mixed(workload: str) -> list[str]:
    """Return the workloads that a load of this name is made of. Raises ``BadPlan``."""
    if workload == "mixed":
        return [name for name, item in WORKLOADS.items() if not item.needs]
    if workload not in WORKLOADS:
        raise BadPlan(f"no workload is called {workload}; there are {', '.join(WORKLOADS)}")
    return [workload]


@dataclass(frozen=True, slots=True)
class Scenario:
    """A scenario file, read. ``about`` is its docstring; the rest see ``stage``."""

    name: str
    title: str
    about: str
    play: Callable[[Stage], None] = field(repr=False)
    seed: int = _DEFAULT_SEED
    slow: bool = False
    simulator_only: str = ""
    real_pace: float = 0.1

    @classmethod
    def of(cls, module: ModuleType, name: str | None = None) -> Scenario:
        """Return the scenario that a module is. Raises ``BadPlan`` if it is none."""
        name = name or module.__name__.rpartition(".")[2]
        play, about = getattr(module, "play", None), (module.__doc__ or "").strip()
        missing = list(_missing(module, play, about))
        if missing:
            raise BadPlan(f"{name} is no scenario: it has no {', no '.join(missing)}")
        return cls(
            name=name,
            title=module.TITLE,
            about=about,
            play=play,  # type: ignore[arg-type]
            seed=getattr(module, "SEED", _DEFAULT_SEED),
            slow=getattr(module, "SLOW", False),
            simulator_only=getattr(module, "SIMULATOR_ONLY", ""),
            real_pace=getattr(module, "REAL_PACE", 0.1),
        )


def _missing(module: ModuleType, play: object, about: str) -> Iterator[str]:
    if not callable(play):
        yield "play(stage)"
    if not about:
        yield "docstring that says what must hold"
    if not isinstance(getattr(module, "TITLE", None), str):
        yield "TITLE"


def load_scenario(name_or_path: str) -> Scenario:
    """Return a scenario by name, or from a user's own file. Raises ``BadPlan``."""
    from simulations.scenarios import SCENARIOS

    if name_or_path in SCENARIOS:
        return SCENARIOS[name_or_path]
    path = Path(name_or_path)
    if path.suffix != ".py" or not path.is_file():
        known = ", ".join(SCENARIOS)
        raise BadPlan(f"{name_or_path} is neither a file of Python nor one of {known}")
    specification = importlib.util.spec_from_file_location(path.stem, path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    try:
        specification.loader.exec_module(module)
    except (SyntaxError, ImportError, NameError, TypeError, ValueError) as error:
        raise BadPlan(f"{path} cannot be read: {error!r}") from error
    return Scenario.of(module, path.stem)
