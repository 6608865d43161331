"""A machine is away for a month, far longer than any log is kept, and returns.

What must hold: its peers cut their logs and forget nothing that it will need; it comes
back through a snapshot, not through the log; what was deleted while it was away is not
brought back by it; what only it knew reaches everybody; and an element that it removed
in its last minute stays removed, though a month of work lies in between.
"""

from simulations.stage import Stage

__all__ = ["SIMULATOR_ONLY", "TITLE", "play"]

TITLE = "Back after a month"
SIMULATOR_ONLY = "nobody waits a month for a test"

_DAY_S = 86_400
_HOUR_US = 3_600_000_000


def play(stage: Stage) -> None:
    """Play it."""
    # Quiet streams are asked how they are once an hour, so that a month passes quickly.
    stage.settings(
        sync_log_bytes=20_000,
        checkpoint_bytes=10_000,
        sync__ping_us=_HOUR_US,
        sync__digest_us=_HOUR_US,
        sync__silence_us=3 * _HOUR_US,
    )
    stage.regions("eu-west", "us-east", "ap-southeast")
    stage.start(topology="star")
    stage.do("eu-west", "set", "crew", "add", "Ada")
    stage.do("eu-west", "set", "crew", "add", "Bob")
    stage.write("eu-west", "to be deleted", "an old plan")
    stage.load("mixed", rate_per_s=8, for_s=10)
    stage.run(15)
    stage.converge(within_s=30)

    stage.say("ap-southeast is cut off, says two more things, and is switched off for a month")
    stage.cut("ap-southeast")
    stage.do("ap-southeast", "set", "crew", "remove", "Bob")
    note = stage.write("ap-southeast", "note", "written in the dark")
    stage.run(1)
    stage.expect(note.ok, "ap-southeast has acknowledged its note")
    stage.stop("ap-southeast")
    stage.heal()

    stage.do("us-east", "register", "to be deleted", "delete")
    for _ in range(30):
        stage.load("mixed", rate_per_s=10, for_s=6, on=["eu-west", "us-east"])
        stage.run(_DAY_S)
    stage.say("a month has passed")

    stage.restart("ap-southeast")
    took_s = stage.converge(within_s=300)
    stage.say(f"all agree after {took_s:.1f} s")
    for machine in stage.machines:
        stage.expect(
            stage.read(machine, "to be deleted") is None, f"the old plan is gone on {machine}"
        )
        stage.expect(
            stage.read(machine, "note") == "written in the dark", f"{machine} has the note"
        )
        crew = stage.read(machine, "crew", "set")
        stage.expect(list(crew) == ["Ada"], f"only Ada is on the crew on {machine}")
