"""Two halves of the world can reach each other through one machine only.

What must hold: what one half writes reaches the other through the bridge, though nobody
told the bridge to carry it; a delete on one side and an addition on the other, made
without knowing of each other, both have their way; and when the bridge falls, both
halves go on, and meet again.
"""

from simulations.stage import Stage

__all__ = ["REAL_PACE", "TITLE", "play"]

TITLE = "One machine between two halves"
REAL_PACE = 0.2

_WEST = ("us-east", "us-west")
_EAST = ("ap-south", "ap-southeast")


def play(stage: Stage) -> None:
    """Play it."""
    stage.regions("eu-west", *_WEST, *_EAST)
    stage.start()
    stage.say("west and east reach each other through eu-west only")
    stage.cut(_WEST, _EAST)
    stage.load("mixed", rate_per_s=10, for_s=40)
    stage.run(10)
    stage.write("us-west", "telegram", "from west to east")
    stage.run(10)
    arrived = stage.read("ap-southeast", "telegram")
    stage.expect(arrived == "from west to east", "the telegram crosses the bridge")

    stage.say("the bridge falls")
    stage.crash("eu-west")
    stage.do("us-east", "set", "guests", "add", "west")
    stage.do("ap-south", "set", "guests", "add", "east")
    stage.write("us-west", "side", "west")
    stage.write("ap-south", "side", "east")
    stage.run(15)
    stage.expect(stage.read("us-west", "side") == "west", "the west goes on alone")
    stage.expect(stage.read("ap-southeast", "side") == "east", "the east goes on alone")

    stage.say("the bridge stands again")
    stage.restart("eu-west")
    took_s = stage.converge(within_s=90)
    stage.say(f"all agree after {took_s:.1f} s, across the bridge alone")
    for machine in stage.machines:
        guests = stage.read(machine, "guests", "set")
        stage.expect(sorted(guests) == ["east", "west"], f"{machine} expects both guests")
        side = stage.reading(machine, "side")
        stage.expect(len(side.siblings) == 2, f"{machine} keeps both sides' word")
