"""A cluster is upgraded machine by machine, and for a while two versions talk to each other.

The new program speaks the next version of the protocol, whose frames the old one cannot
parse. What must hold: two machines speak the newest version that both know; no machine is
shut out; work goes on during the upgrade, and also while it is half done, for as long as
that takes; and one that is set back to the old program still joins in.
"""

from simulations.stage import Stage

__all__ = ["SIMULATOR_ONLY", "TITLE", "play"]

TITLE = "Two versions in one cluster"
SIMULATOR_ONLY = "there is no next version of the program yet"


def play(stage: Stage) -> None:
    """Play it."""
    machines = stage.regions("eu-west", "us-east", "ap-southeast", machines=2)
    stage.start()
    stage.load("mixed", rate_per_s=10, for_s=60)
    for number, machine in enumerate(machines):
        stage.run(5)
        stage.say(f"{machine} gets the new program")
        stage.upgrade(machine)
        stage.run(3)
        word = stage.write(machine, "upgraded", number)
        stage.run(2)
        stage.expect(word.ok, f"{machine} writes with the new program")
        for other in machines:
            known = stage.read(other, "upgraded")
            stage.expect(known == number, f"{other} hears of {machine}")
    stage.say("eu-west-1 is set back to the old program")
    stage.upgrade("eu-west-1", 1)
    stage.run(3)
    back = stage.write("eu-west-1", "set back", True)
    stage.run(2)
    stage.expect(back.ok, "eu-west-1 still writes")
    took_s = stage.converge(within_s=60)
    stage.say(f"all agree after {took_s:.1f} s")
