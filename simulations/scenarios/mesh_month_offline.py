"""A machine is switched off for a month; the other one reaps it, and is switched off as well.

What must hold: whoever is dead for a day is listed no longer, and is sought all the same; after a
month each finds the other from what it had remembered; within a minute both show each other, and
what either alone knew reaches both.
"""

from simulations.stage import Stage

__all__ = ["SIMULATOR_ONLY", "SLOW", "TITLE", "play"]

TITLE = "Back in the mesh after a month"
SIMULATOR_ONLY = "nobody waits a month for a test"
SLOW = True

_DAY_S = 86_400
_HOUR_US = 3_600_000_000


def play(stage: Stage) -> None:
    """Play it."""
    # Quiet streams are asked how they are once an hour; the mesh probes as ever.
    stage.settings(sync__ping_us=_HOUR_US, sync__digest_us=_HOUR_US, sync__silence_us=3 * _HOUR_US)
    stage.regions("eu-west", "ap-southeast", by="mesh")
    stage.start()
    stage.gather()
    stage.run(40)
    stage.say("ap-southeast is cut off, notes something, and is switched off")
    stage.cut("ap-southeast")
    note = stage.write("ap-southeast", "note", "written in the dark")
    stage.run(1)
    stage.expect(note.ok, "ap-southeast has acknowledged its note")
    stage.crash("ap-southeast")
    stage.heal()
    stage.run(1.1 * _DAY_S)
    stage.expect(stage.shown("eu-west") == [], "eu-west shows nobody")
    stage.write("eu-west", "note of the other", "written alone")
    stage.run(1)
    stage.stop("eu-west")
    stage.run(29 * _DAY_S)
    stage.restart("eu-west")
    stage.run(300)
    stage.say("a month has passed")
    stage.restart("ap-southeast")
    took_s = stage.gather()
    stage.say(f"all show each other after {took_s:.1f} s")
    stage.expect(took_s <= 60, "they met within a minute")
    stage.converge(within_s=60)
    for machine in stage.machines:
        for key, text in (("note", "written in the dark"), ("note of the other", "written alone")):
            stage.expect(stage.read(machine, key) == text, f"{machine} has the {key}")
