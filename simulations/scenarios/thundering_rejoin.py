"""Twelve machines lose power at once, and all come back in the same second.

What must hold: whoever starts first does not found a second cluster; nobody is fenced,
evicted or forgotten; the storm of connections that cross ends with one stream per pair;
and what was acknowledged before is there, though nobody was left to ask.
"""

from simulations.stage import Stage

__all__ = ["REAL_PACE", "TITLE", "play"]

TITLE = "Everybody restarts at once"
REAL_PACE = 0.2


def play(stage: Stage) -> None:
    """Play it."""
    machines = stage.regions("eu-west", "us-east", "ap-southeast", machines=1 if stage.real else 4)
    stage.start()
    stage.load("mixed", rate_per_s=10, for_s=10)
    stage.run(8)
    notes = {machine: stage.write(machine, f"of {machine}", machine) for machine in machines}
    stage.run(1)
    for machine, note in notes.items():
        stage.expect(note.ok, f"{machine} has acknowledged a note")
    stage.say("all lose power")
    ids = {stage.replica_id(machine) for machine in machines}
    stage.crash(machines, silent=True)
    stage.run(20)
    stage.say("all are back")
    stage.restart(machines)
    stage.load("mixed", rate_per_s=10, for_s=10)
    stage.run(10)
    took_s = stage.converge(within_s=60)
    stage.say(f"all agree after {took_s:.1f} s")
    stage.expect({stage.replica_id(m) for m in machines} == ids, "all still bear their names")
    for machine in machines:
        known = stage.read(machines[0], f"of {machine}")
        stage.expect(known == machine, f"the note of {machine} is there")
