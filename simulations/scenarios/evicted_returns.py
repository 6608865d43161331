"""A region is given up for good while it cannot be heard, and then it comes back.

It went on writing in the dark. What must hold: the survivors settle on one cut, though
each knew a different part of what it wrote; from then on they wait for it no more; when
it comes back it notices that it was given up, takes a new name, keeps what it wrote
beyond the cut apart to be rescued, and brings back nothing that was removed.
"""

from simulations.stage import Stage

__all__ = ["REAL_PACE", "TITLE", "play"]

TITLE = "Given up, and back"
REAL_PACE = 0.3


def play(stage: Stage) -> None:
    """Play it."""
    stage.regions("eu-west", "us-east", "ap-southeast", "us-west")
    stage.start()
    stage.write("us-west", "shared", "known to all")
    stage.load("mixed", rate_per_s=8, for_s=30)
    stage.run(10)
    former = stage.replica_id("us-west")
    stage.say("us-west is cut off, and goes on writing")
    stage.cut("us-west")
    stage.run(2)
    dark = stage.write("us-west", "in the dark", "nobody hears this")
    stage.run(8)
    stage.expect(dark.ok, "us-west acknowledges what it wrote in the dark")

    stage.say("eu-west gives us-west up")
    stage.evict("us-west", by="eu-west")
    stage.do("eu-west", "register", "shared", "delete")
    stage.run(15)
    stage.converge(within_s=60, whom=["eu-west", "us-east", "ap-southeast"])

    stage.say("us-west is back")
    stage.heal()
    stage.wait_until(
        lambda: stage.is_up("us-west") and stage.replica_id("us-west") != former,
        "new name for us-west",
        within_s=60,
    )
    took_s = stage.converge(within_s=120)
    stage.say(f"all agree after {took_s:.1f} s")
    for machine in stage.machines:
        shared = stage.read(machine, "shared")
        stage.expect(shared is None, f"what was deleted meanwhile stays deleted on {machine}")
        unheard = stage.read(machine, "in the dark")
        stage.expect(unheard is None, f"what lies beyond the cut is not replayed on {machine}")
    again = stage.write("us-west", "again", "a new name, the same region")
    stage.run(5)
    stage.expect(again.ok, "us-west writes again")
