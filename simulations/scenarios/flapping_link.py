"""A link comes and goes every other second, for a minute.

What must hold: nobody waits for ever on a stream that is neither dead nor alive; each
short time that the link works brings both sides nearer to each other; and the third
region, whose links are fine, is no slower for it.
"""

from simulations.stage import Stage

__all__ = ["REAL_PACE", "TITLE", "play"]

TITLE = "A link that comes and goes"
REAL_PACE = 0.2


def play(stage: Stage) -> None:
    """Play it."""
    stage.regions("eu-west", "us-east", "ap-southeast")
    stage.start()
    stage.load("mixed", rate_per_s=8, for_s=60)
    stage.run(5)
    stage.say("the link between eu-west and us-east begins to flap")
    for number in range(10):
        word = stage.write("eu-west", "turn", number)
        stage.flap("eu-west", "us-east", every_s=1.5, for_s=3)
        stage.run(0.5)
        stage.expect(word.ok, f"eu-west has acknowledged turn {number}")
    stage.say("the link is steady again")
    took_s = stage.converge(within_s=60)
    stage.say(f"all agree after {took_s:.1f} s")
    for machine in stage.machines:
        stage.expect(stage.read(machine, "turn") == 9, f"{machine} knows the last turn")
