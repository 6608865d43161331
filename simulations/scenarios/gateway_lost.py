"""Both gateways of a region die, one after the other; a third machine takes their place.

What must hold: the other region goes on showing whoever lives there, and shows the dead as dead;
what the third machine writes reaches everybody across the ocean; and when the two come back the
duties settle again, with nobody listed twice.
"""

from simulations.stage import Stage

__all__ = ["SIMULATOR_ONLY", "TITLE", "play"]

TITLE = "A region loses its gateways"
SIMULATOR_ONLY = "with real processes, joining by the mesh is an end-to-end test"


def play(stage: Stage) -> None:
    """Play it."""
    stage.regions("eu-west", "us-east", machines=4, by="mesh")
    stage.start()
    stage.gather()
    ids = sorted((stage.replica_id(machine), machine) for machine in stage.named("us-east"))
    gateways, others = [machine for _, machine in ids[:2]], [machine for _, machine in ids[2:]]
    for gateway in gateways:
        stage.say(f"{gateway} loses power")
        stage.crash(gateway, silent=True)
        stage.run(20)
    note = stage.write(others[-1], "note", "without gateways")
    stage.wait_until(
        lambda: all(
            stage.read(machine, "note") == "without gateways"
            for machine in stage.machines
            if stage.is_up(machine)
        ),
        "note everywhere",
        within_s=240,
    )
    stage.expect(note.ok, f"{others[-1]} has acknowledged its note")
    took_s = stage.gather()
    stage.say(f"all show who is there after {took_s:.1f} s")
    for machine in stage.named("eu-west"):
        shown = [name for name in stage.shown(machine) if name.startswith("us-east")]
        stage.expect(shown == sorted(others), f"{machine} shows those of us-east that live")
    stage.restart(gateways)
    took_s = stage.gather()
    stage.say(f"all show each other after {took_s:.1f} s")
    stage.converge(within_s=60)
