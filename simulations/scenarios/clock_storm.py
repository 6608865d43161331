"""Every clock is wrong, in every way, all the time.

Clocks jump by a year to either side, run a tenth too fast and too slow, and are set back
in the middle of a write. What must hold: causality never rests on a clock, so nothing is
lost and all converge; a write that was made after another was seen supersedes it however
the clocks stand; and whoever is far from the others is named by an alarm.
"""

from simulations.stage import Stage

__all__ = ["SIMULATOR_ONLY", "TITLE", "play"]

TITLE = "Every clock is wrong"
SIMULATOR_ONLY = "processes of one machine share its clock"

_YEAR_S = 365 * 86_400


def play(stage: Stage) -> None:
    """Play it."""
    stage.regions("eu-west", "us-east", "ap-southeast", "us-west")
    stage.start()
    stage.load("mixed", rate_per_s=8, for_s=40)
    stage.run(5)
    stage.say("the storm begins")
    stage.clock("us-east", jump_s=_YEAR_S)
    stage.clock("ap-southeast", jump_s=-_YEAR_S, drift_ppm=-100_000)
    stage.clock("us-west", drift_ppm=100_000)
    stage.run(10)

    stage.say("us-east, a year ahead, writes; then ap-southeast, a year behind, who has seen it")
    stage.write("us-east", "word", "from the future")
    stage.run(5)
    seen = stage.read("ap-southeast", "word")
    stage.expect(seen == "from the future", "ap-southeast has seen the word")
    stage.write("ap-southeast", "word", "from the past")
    stage.run(5)
    for machine in stage.machines:
        now = stage.read(machine, "word")
        stage.expect(now == "from the past", f"on {machine} what was written later holds")

    for _ in range(8):
        stage.clock(stage.random.choice(stage.machines), jump_s=stage.random.uniform(-3600, 3600))
        stage.run(2)
    took_s = stage.converge(within_s=60)
    stage.say(f"all agree after {took_s:.1f} s, and no two clocks do")
    stage.expect(stage.alarms("clock skew") > 0, "an alarm has named a clock that is off")
