"""Fifty regions, one node each, with the latencies that the globe gives them.

Writers sit in all of them; two continents are cut off from each other for a while. What
must hold: everything that holds for three; a write is known on the other side of the
earth within a second or two; and the fifty agree within a minute after the cut.
"""

from simulations.regions import REGIONS
from simulations.stage import Stage

__all__ = ["SIMULATOR_ONLY", "SLOW", "TITLE", "play"]

TITLE = "Fifty regions"
SIMULATOR_ONLY = "fifty processes are too many for one machine"
SLOW = True

_ASIA = tuple(name for name in REGIONS if name.startswith("ap-"))


def play(stage: Stage) -> None:
    """Play it."""
    # What others acknowledged is told less often where there are fifty of them.
    stage.settings(sync__relayed_us=60_000_000, sync__acknowledge_us=500_000)
    stage.regions(*REGIONS)
    stage.start(topology="hubs")
    stage.load("registers", rate_per_s=4, for_s=8)
    stage.run(2)
    stage.write("ap-auckland", "antipodes", "good morning")
    stage.run(3)
    greeting = stage.read("eu-madrid", "antipodes")
    stage.expect(greeting == "good morning", "Madrid has heard Auckland within three seconds")
    stage.say("Asia and the Pacific are cut off from the rest of the world")
    stage.cut(_ASIA)
    stage.run(5)
    stage.say("the cables are mended")
    stage.heal()
    took_s = stage.converge(within_s=60)
    stage.say(f"all fifty agree after {took_s:.1f} s")
