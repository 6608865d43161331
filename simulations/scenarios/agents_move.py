"""Agents carry what they know from region to region while links and nodes fail under them.

Each agent hands its context to the next region that it works in, which must not answer
from an older world. What must hold: nobody ever reads less than it has read or written,
wherever it goes; a write that was repeated in another region because the first never
answered counts once.
"""

from simulations.stage import Stage

__all__ = ["REAL_PACE", "TITLE", "play"]

TITLE = "Agents on the move"
REAL_PACE = 0.1


def play(stage: Stage) -> None:
    """Play it."""
    regions = stage.regions("eu-west", "us-east", "ap-southeast")
    stage.start()
    stage.load("mixed", rate_per_s=12, for_s=60, clients=12)
    for turn in range(6):
        lost = regions[turn % 3]
        stage.run(4)
        if turn % 2:
            stage.say(f"{lost} is cut off")
            stage.cut(lost)
            stage.run(4)
            stage.heal()
        else:
            stage.say(f"{lost} dies")
            stage.crash(lost)
            stage.run(4)
            stage.restart(lost)
    took_s = stage.converge(within_s=90)
    stage.say(f"all agree after {took_s:.1f} s")
