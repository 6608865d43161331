"""One disk is slow, one is full, one fails every third fsync, and one begins to rot.

What must hold: what could not be made durable is not acknowledged, and what was
acknowledged is durable; a full disk refuses writes and serves reads; a node whose commit
may or may not have reached the disk finds out which before it goes on; and damage is
noticed, said, and made good from the others.
"""

from simulations.stage import Stage

__all__ = ["SIMULATOR_ONLY", "TITLE", "play"]

TITLE = "Four disks, each broken in its own way"
SIMULATOR_ONLY = "it breaks disks, and a real one is hard to come by"


def play(stage: Stage) -> None:
    """Play it."""
    stage.regions("eu-west", "us-east", "ap-southeast", "us-west")
    stage.start()
    stage.write("us-east", "before", "the disk was full")
    stage.load("mixed", rate_per_s=8, for_s=50)
    stage.run(5)
    stage.say("eu-west's disk is slow, us-east's full, ap-southeast's fails now and then")
    stage.disk("eu-west", slow=100)
    stage.disk("us-east", full=True)
    stage.disk("ap-southeast", fails=0.3)
    stage.run(5)
    refused = stage.write("us-east", "while", "the disk is full")
    stage.run(15)
    stage.expect(not refused.ok, "us-east acknowledges nothing that it cannot keep")
    before = stage.read("us-east", "before")
    stage.expect(before == "the disk was full", "us-east still answers who reads")

    stage.say("us-west's disk has rotted: its last ten records are not what was written")
    stage.fault("rot", machine="us-west", records=10, for_us=2_000_000)
    stage.run(10)
    stage.say("all disks are mended")
    stage.mend_disks()
    stage.run(10)
    again = stage.write("us-east", "after", "there is space again")
    stage.run(5)
    stage.expect(again.ok, "us-east writes again by itself")
    took_s = stage.converge(within_s=90)
    stage.say(f"all agree after {took_s:.1f} s")
    stage.expect(stage.alarms("store") > 0, "alarms have named the disks")
