"""Six machines in two regions lose power at once, and all start again in the same moment.

What must hold: nobody is stuck as dead in anybody's table, and nobody sits in a mesh of its own:
within a minute everybody shows everybody, in their new lives, and what was acknowledged before
is there.
"""

from simulations.stage import Stage

__all__ = ["SIMULATOR_ONLY", "TITLE", "play"]

TITLE = "The whole mesh restarts at once"
SIMULATOR_ONLY = "with real processes, joining by the mesh is an end-to-end test"


def play(stage: Stage) -> None:
    """Play it."""
    machines = stage.regions("eu-west", "us-east", machines=3, by="mesh")
    stage.start()
    stage.gather()
    notes = {machine: stage.write(machine, f"of {machine}", machine) for machine in machines}
    stage.run(5)
    for machine, note in notes.items():
        stage.expect(note.ok, f"{machine} has acknowledged a note")
    stage.say("all lose power")
    stage.crash(machines, silent=True)
    stage.run(30)
    stage.say("all are back")
    stage.restart(machines)
    took_s = stage.gather()
    stage.say(f"all show each other after {took_s:.1f} s")
    stage.expect(took_s <= 60, "they met within a minute")
    stage.converge(within_s=30)
    for machine in machines:
        known = stage.read(machines[0], f"of {machine}")
        stage.expect(known == machine, f"the note of {machine} is there")
