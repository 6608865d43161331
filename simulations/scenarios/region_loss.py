"""A whole region loses power while agents work, and comes back.

Three regions, two machines each. One region goes dark in the middle of the work, without
a word to its peers. What must hold: the other two go on, also where a majority of the
regions is asked for; what the lost region had acknowledged is there when it is back; and
all six machines agree half a minute later.
"""

from simulations.stage import Stage

__all__ = ["REAL_PACE", "TITLE", "play"]

TITLE = "A region goes dark, and comes back"
REAL_PACE = 0.1


def play(stage: Stage) -> None:
    """Play it."""
    stage.regions("eu-west", "us-east", "ap-southeast", machines=2)
    stage.start()
    stage.load("mixed", rate_per_s=10, for_s=50)
    stage.run(10)
    last_words = stage.write("us-east-1", "last words", "we saw it coming")
    stage.run(2)
    stage.expect(last_words.ok, "us-east has acknowledged its last words")

    stage.say("us-east loses power")
    stage.crash("us-east", silent=True)
    stage.run(3)
    headline = stage.write("eu-west-1", "headline", "us-east is dark")
    stage.run(25)
    stage.expect(headline.ok, "eu-west goes on writing")
    heard = stage.read("ap-southeast-2", "headline")
    stage.expect(heard == "us-east is dark", "ap-southeast hears of it")

    stage.say("the power is back")
    stage.restart("us-east")
    stage.run(10)
    took_s = stage.converge(within_s=60)
    stage.say(f"all agree after {took_s:.1f} s")
    for machine in stage.machines:
        known = stage.read(machine, "last words")
        stage.expect(known == "we saw it coming", f"{machine} knows the last words of us-east")
