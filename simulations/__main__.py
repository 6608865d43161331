"""The command line: ``python -m simulations``.

Problem: whoever meets a failing seed wants to see it again, make it smaller and send it to
somebody else; whoever changes the code wants to know, in one command, whether it still holds.

Idea: one command per wish, each with ``--json``, which prints one object and nothing else.
A *trace* is a plan as a file. What fails says by which command it is repeated.

Exit codes are those of ``errors``: 10 for a broken promise, 11 for one not kept in time, 12 for
a crash of the program itself, 13 for a campaign that missed what it must reach, 14 for one
that ended a seed which took too long, 2 for what cannot be run.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from crdtmem.cli.ending import print_json
from simulations.campaign import SEED_S, Summary, repeat_command, run_campaign
from simulations.checkers import CHECKERS
from simulations.errors import BadPlan, SimulationError
from simulations.faults import FAULTS
from simulations.plan import Plan
from simulations.runner import Outcome, Run, run
from simulations.shrink import shrink as shrink_plan
from simulations.shrink import size_of
from simulations.sometimes import SOMETIMES
from simulations.swarm import draw_plan
from simulations.workloads import WORKLOADS

__all__ = ["campaign", "list_all", "main", "replay", "report", "run_one", "shrink"]

F = TypeVar("F", bound=Callable[..., Any])

_FILE: Final = click.Path(path_type=Path, dir_okay=False)
_JSON: Final = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


class _Group(click.Group):
    """Commands whose ``SimulationError``s end them with their own exit codes."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except SimulationError as error:
            click.echo(f"Error: {error}", err=True)
            sys.exit(error.exit_code)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Run crdtmem in hostile worlds of virtual time, one seed each."""


# ------------------------------------------------------------------ list


@main.command("list")
@_JSON
def list_all(as_json: bool) -> None:
    """List scenarios, faults, workloads, checkers and rare paths."""
    from simulations.scenarios import SCENARIOS

    tables: dict[str, dict[str, str]] = {
        "scenarios": {name: scenario.title for name, scenario in SCENARIOS.items()},
        "faults": {name: fault.about for name, fault in FAULTS.items()},
        "workloads": {name: workload.about for name, workload in WORKLOADS.items()},
        "checkers": {name: checker.about for name, checker in CHECKERS.items()},
        "sometimes": {name: rare.reached_by for name, rare in SOMETIMES.items()},
    }
    if as_json:
        print_json(tables)
        return
    console = Console()
    for title, rows in tables.items():
        table = Table(title=title, title_justify="left", show_header=False, box=None)
        table.add_column(no_wrap=True)
        table.add_column()
        for name, about in rows.items():
            table.add_row(name, " ".join(about.split()))
        console.print(table)
        console.print()


# ------------------------------------------------------------------ run


@main.command("run")
@click.argument("scenario", required=False)
@click.option("--seed", type=int, help="The seed; a scenario's own by default, else 1.")
@click.option("--real", is_flag=True, help="Play the scenario with real processes.")
@click.option("--save", type=click.Path(path_type=Path, dir_okay=False), help="Write the trace.")
@click.option("--picture", type=_FILE, help="Draw a scenario's timeline as a page of HTML.")
@click.option("--elle", type=_FILE, help="Write a scenario's history for Elle: .edn or .json.")
@_JSON
def run_one(
    scenario: str | None,
    seed: int | None,
    real: bool,
    save: Path | None,
    picture: Path | None,
    elle: Path | None,
    as_json: bool,
) -> None:
    """Run one SCENARIO (a name, or a file of your own), or the swarm's plan of a seed."""
    if (scenario is None or real) and (picture or elle):
        raise BadPlan("only a scenario in the simulator can be drawn or handed to Elle")
    if scenario is None:
        if real:
            raise BadPlan("only scenarios can be played with real processes")
        plan = draw_plan(1 if seed is None else seed)
        if save is not None:
            save.write_text(plan.to_json(), encoding="utf-8")
        _end(run(plan), repeat_command(plan.seed), as_json)
        return
    if save is not None:
        raise BadPlan("a scenario is its own trace: only a swarm's plan can be saved")
    with_seed = "" if seed is None else f" --seed {seed}"
    if real:
        from simulations.real import run_real

        _end(run_real(scenario, seed), f"python -m simulations run {scenario} --real", as_json)
        return
    tell: Callable[[str], None] = _silent if as_json else click.echo
    outcome = _play(scenario, seed, tell, picture, elle)
    _end(outcome, f"python -m simulations run {scenario}{with_seed}", as_json)


def _play(
    name: str,
    seed: int | None,
    tell: Callable[[str], None],
    picture: Path | None,
    elle: Path | None,
) -> Outcome:
    """Play a scenario in the simulator, and write what was asked for of it."""
    from simulations import simulated_stage
    from simulations.elle import histories
    from simulations.picture import picture_of
    from simulations.stage import load_scenario

    scenario = load_scenario(name)
    stage = simulated_stage.SimulatedStage(
        scenario.seed if seed is None else seed, keep=picture is not None, tell=tell
    )
    outcome = simulated_stage.run_scenario(scenario, stage=stage)
    if picture is not None:
        page = picture_of(scenario.title, stage.world, stage.divergence, outcome)
        picture.write_text(page, encoding="utf-8")
    if elle is not None and stage.played is not None:
        found = histories(stage.played.history.calls, as_json=elle.suffix == ".json")
        for kind, text in found.items():
            # h.edn becomes h.list-append.edn and h.rw-register.edn.
            elle.with_name(f"{elle.stem}.{kind}{elle.suffix}").write_text(text, encoding="utf-8")
    return outcome


def _silent(_: str) -> None:
    """Say nothing: the answer is one JSON object."""


def _end(outcome: Outcome, repeat: str, as_json: bool) -> None:
    """Show an outcome, and end with its exit code."""
    if as_json:
        print_json({**outcome.as_dict(), "repeat": repeat})
    else:
        _show(outcome)
        if not outcome.passed:
            click.echo(f"repeat it with: {repeat}")
    sys.exit(outcome.exit_code)


def _show(outcome: Outcome) -> None:
    simulated_s = outcome.simulated_us / 1e6
    click.echo(
        f"seed {outcome.seed}: {outcome.verdict}; {simulated_s:.1f} s simulated, "
        f"{outcome.events:,} events, {outcome.bytes:,} bytes, "
        f"converged {outcome.converged_us / 1e6:.1f} s after healing"
    )
    click.echo(f"trace {outcome.trace_hash}")
    for title, counts in (
        ("calls", outcome.calls),
        ("faults", outcome.injected),
        ("rare", outcome.reached),
        ("alarms", outcome.alarms),
    ):
        if counts:
            click.echo(f"{title}: " + ", ".join(f"{name} {n}" for name, n in counts.items()))
    if not outcome.passed:
        click.echo(f"{outcome.checker}: {outcome.message}")
    if outcome.verdict == "crash":
        click.echo(outcome.details)


# ------------------------------------------------------------------ campaign


class _Seeds(click.ParamType):  # type: ignore[type-arg]
    """Seeds as ``A..B``, both included."""

    name = "A..B"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> range:
        if isinstance(value, range):
            return value
        first, dots, last = str(value).partition("..")
        if not first.isdigit() or (dots and not last.isdigit()):
            self.fail(f"{value!r} is no range of seeds; write 1..200", param, ctx)
        found = range(int(first), int(last or first) + 1)
        return found or self.fail(f"{value!r} is empty", param, ctx)


@main.command("campaign")
@click.option("--seeds", type=_Seeds(), default="1..100", show_default=True, help="Which seeds.")
@click.option("--jobs", type=click.IntRange(1, 256), help="Processes; all cores by default.")
@click.option("--twice", is_flag=True, help="Run each seed twice, and compare the hashes.")
@click.option(
    "--seed-seconds",
    "seed_s",
    type=click.FloatRange(0, min_open=True),
    default=SEED_S,
    show_default=True,
    help="How long a run may take, by the wall clock, before it is ended and fails.",
)
@_JSON
def campaign(seeds: range, jobs: int | None, twice: bool, seed_s: float, as_json: bool) -> None:
    """Run many seeds over all cores."""
    if as_json:
        summary = run_campaign(seeds, jobs=jobs, twice=twice, seed_s=seed_s)
        print_json(summary.as_dict())
    else:
        summary = _campaign_with_bar(seeds, jobs, twice, seed_s)
        _show_summary(summary)
    sys.exit(summary.exit_code)


def _campaign_with_bar(seeds: range, jobs: int | None, twice: bool, seed_s: float) -> Summary:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as progress:
        task = progress.add_task("seeds", total=len(seeds))

        def tell(summary: Summary) -> None:
            failed = f", {len(summary.failures)} failed" if summary.failures else ""
            speed = summary.simulated_us / 1e6 / max(summary.wall_seconds, 1e-3)
            words = f"seeds, {speed:,.0f} x real time{failed}"
            progress.update(task, completed=summary.runs, description=words)

        return run_campaign(seeds, jobs=jobs, twice=twice, seed_s=seed_s, progress=tell)


def _show_summary(summary: Summary) -> None:
    click.echo(
        f"{summary.runs} runs in {summary.wall_seconds:.1f} s, "
        f"{summary.simulated_us / 1e6:,.0f} s simulated, {summary.events:,} events; "
        f"{len(summary.failures)} failed"
    )
    for title, counts in (("rare paths", summary.sometimes), ("faults", summary.faults)):
        click.echo(f"{title}: " + ", ".join(f"{name} {n}" for name, n in sorted(counts.items())))
    for name in summary.never:
        click.echo(f"never reached: {name}")
    for outcome in sorted(summary.failures, key=lambda outcome: outcome.seed):
        click.echo(f"seed {outcome.seed}: {outcome.verdict}, {outcome.checker}: {outcome.message}")
        click.echo(f"  repeat it with: {repeat_command(outcome.seed)}")


# ------------------------------------------------------------------ replay, shrink


def _read(trace: Path) -> Plan:
    try:
        return Plan.from_json(trace.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise BadPlan(f"{trace} cannot be read: {error}") from error


_TRACE: Final = click.argument("trace", type=click.Path(path_type=Path, dir_okay=False))


@main.command("replay")
@_TRACE
@click.option("--until", "until_s", type=float, help="Stop after so many seconds of the plan.")
@_JSON
def replay(trace: Path, until_s: float | None, as_json: bool) -> None:
    """Run a TRACE again, or its beginning, and print what happened last."""
    plan = _read(trace)
    played = Run(plan, keep=until_s is not None)

    def part() -> None:
        played.found()
        played.schedule()
        played.safety(int((until_s or 0) * 1e6))

    outcome = played.play() if until_s is None else played.judge(part)
    if until_s is not None and not as_json:
        for record in played.world.trace.records()[-_LAST:]:
            since_s = (record.time_us - played.base_us) / 1e6
            click.echo(
                f"{since_s:12.6f} {record.kind:<14} {record.lane:<16} {record.other} "
                f"{record.number or ''}".rstrip()
            )
    _end(outcome, f"python -m simulations replay {trace}", as_json)


_LAST: Final = 60


@main.command("shrink")
@_TRACE
@click.option("--output", "-o", type=click.Path(path_type=Path, dir_okay=False), help="Where to.")
@click.option("--minutes", type=float, default=5.0, show_default=True, help="How long at most.")
@_JSON
def shrink(trace: Path, output: Path | None, minutes: float, as_json: bool) -> None:
    """Find the smallest plan that fails as a TRACE does, and write it beside it."""
    plan = _read(trace)
    output = output or trace.with_suffix(".small.json")
    end_s = time.monotonic() + 60 * minutes
    runs = 0

    def tell(smaller: Plan, so_far: int) -> None:
        nonlocal runs
        runs = so_far
        if not as_json:
            sizes = ", ".join(f"{name} {size:,}" for name, size in size_of(smaller).items())
            click.echo(f"{so_far} runs: {sizes}", err=True)

    small, outcome = shrink_plan(plan, go_on=lambda: time.monotonic() < end_s, tell=tell)
    output.write_text(small.to_json(), encoding="utf-8")
    found = {
        "trace": str(output),
        "runs": runs,
        "from": size_of(plan),
        "to": size_of(small),
        "verdict": outcome.verdict,
        "checker": outcome.checker,
        "message": outcome.message,
        "repeat": f"python -m simulations replay {output}",
    }
    if as_json:
        print_json(found)
    else:
        _show(outcome)
        click.echo(f"written to {output}; repeat it with: {found['repeat']}")


# ------------------------------------------------------------------ report


@main.command("report")
@click.option("--output", "-o", type=click.Path(path_type=Path, dir_okay=False), help="Where to.")
@_JSON
def report(output: Path | None, as_json: bool) -> None:
    """Measure convergence and bytes against loss, latency and size; write one HTML file."""
    from simulations.report import write_report

    found = write_report(output or Path("simulations.html"))
    if as_json:
        print_json(found)
        return
    table = Table(*map(str, found["columns"]))
    for row in found["rows"]:
        table.add_row(*map(str, row))
    Console().print(table)
    click.echo(f"written to {found['path']}")


if __name__ == "__main__":
    main()
