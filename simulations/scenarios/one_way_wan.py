"""One region is heard by nobody, and hears everybody.

A route works in one direction only: packets leave, none return. What must hold: no
machine mistakes silence for agreement; what the mute region writes meanwhile is kept
there and comes out when the route is whole; the others are not held up by what they
cannot be told; and nothing is deleted that was written out of earshot.
"""

from simulations.stage import Stage

__all__ = ["REAL_PACE", "TITLE", "play"]

TITLE = "A wide-area route that works one way only"
REAL_PACE = 0.1


def play(stage: Stage) -> None:
    """Play it."""
    stage.regions("eu-west", "us-east", "ap-southeast")
    stage.start()
    stage.do("eu-west", "set", "topics", "add", "weather")
    stage.load("mixed", rate_per_s=8, for_s=50)
    stage.run(8)
    stage.say("the others hear nothing of ap-southeast any more, which still hears them")
    stage.one_way(["eu-west", "us-east"], "ap-southeast")
    stage.run(5)
    unheard = stage.do("ap-southeast", "set", "topics", "add", "monsoon")
    cleared = stage.do("eu-west", "set", "topics", "remove", "weather")
    stage.run(30)
    stage.expect(unheard.ok and cleared.ok, "both sides go on writing")
    known = stage.read("eu-west", "topics", "set") or []
    stage.expect("monsoon" not in known, "eu-west has not heard of the monsoon")

    stage.say("the route is whole again")
    stage.heal()
    took_s = stage.converge(within_s=90)
    stage.say(f"all agree after {took_s:.1f} s")
    for machine in stage.machines:
        topics = stage.read(machine, "topics", "set")
        stage.expect(list(topics) == ["monsoon"], f"{machine} lists the monsoon and nothing else")
