"""Three of six machines are lost for good, disks and all, and three new ones take their place.

What must hold: whatever was acknowledged anywhere and had reached any survivor is kept;
the survivors go on without being asked; the dead are given up by a decision, not by a
timer; the new machines join, and hold everything.
"""

from simulations.stage import Stage

__all__ = ["REAL_PACE", "TITLE", "play"]

TITLE = "Half of the cluster dies, and is replaced"
REAL_PACE = 0.3

_LOST = ("us-west", "sa-east", "ap-south")


def play(stage: Stage) -> None:
    """Play it."""
    stage.regions("eu-west", "us-east", "ap-southeast", *_LOST)
    stage.start()
    stage.write("sa-east", "will", "keep this")
    stage.load("mixed", rate_per_s=10, for_s=15)
    stage.run(20)
    stage.converge(within_s=30)
    stage.say("us-west, sa-east and ap-south burn down")
    stage.crash(_LOST, silent=True)
    stage.run(5)
    for machine in _LOST:
        stage.evict(machine, by="eu-west", forced=True)
        stage.run(10)
    stage.load("mixed", rate_per_s=8, for_s=20, on=["eu-west", "us-east", "ap-southeast"])
    stage.run(10)
    stage.say("new machines stand in their places")
    for machine in _LOST:
        stage.add(f"new-{machine}", machine)
    stage.run(15)
    took_s = stage.converge(within_s=120)
    stage.say(f"all agree after {took_s:.1f} s")
    for machine in (name for name in stage.machines if stage.is_up(name)):
        will = stage.read(machine, "will")
        stage.expect(will == "keep this", f"{machine} keeps the will of sa-east")
