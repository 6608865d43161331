"""Keys are rotated twice; one machine is down the first time, another cut off the second time.

What must hold: the rotation goes through without those who are away; each of them comes back
with a key that nobody seals with any more, is let in by its streams, and has the new ring; in
the end all have one ring, show each other, and agree.
"""

from simulations.stage import Stage

__all__ = ["SIMULATOR_ONLY", "TITLE", "play"]

TITLE = "A key rotation with somebody away"
SIMULATOR_ONLY = "with real processes, rotation is an end-to-end test"

_SECOND_US = 1_000_000


def play(stage: Stage) -> None:
    """Play it."""
    stage.regions("eu-west", "us-east", machines=3, by="swift sealed")
    stage.start()
    stage.gather()
    for absent, down in (("eu-west-3", True), ("us-east-2", False)):
        stage.say(f"{absent} is away, and the keys are rotated")
        # Long enough for the others to hold it for dead, and rotate without it.
        stage.fault(
            "rotate_keys",
            absent=absent,
            down=down,
            every_us=40 * _SECOND_US,
            for_us=240 * _SECOND_US,
        )
        stage.run(230)
        stage.expect(absent not in stage.shown("eu-west-1"), f"{absent} is held for dead")
        stage.run(15)
        took_s = stage.gather()
        stage.say(f"all show each other after {took_s:.1f} s, with one ring")
    for step in ("install", "use", "remove"):
        times = stage.reached(f"a key rotated: {step}")
        stage.expect(times == 2, f"a key was rotated twice: {step}")
    stage.write("eu-west-3", "note", "after all")
    stage.converge(within_s=60)
    stage.expect(stage.read("us-east-2", "note") == "after all", "the note reached us-east-2")
