"""A running node is copied, and both copies run.

Once the copy can be told from the original (a copied folder), once it cannot (an image
of the whole disk): two machines with one name. What must hold: one of them, or both,
take a new name before two different writes bear the same one, or the fork is found at
first contact, named by an alarm, and no acknowledged write of either is lost from where
it was made.
"""

from simulations.stage import Stage

__all__ = ["SIMULATOR_ONLY", "TITLE", "play"]

TITLE = "One store, two machines"
SIMULATOR_ONLY = "it copies disks with their identity"


def play(stage: Stage) -> None:
    """Play it."""
    stage.regions("eu-west", "us-east", "ap-southeast")
    stage.start()
    stage.load("mixed", rate_per_s=8, for_s=20)
    stage.run(10)
    stage.say("us-east is copied as a folder, and the copy started beside it")
    stage.clone("us-east", "us-east-copy")
    stage.run(10)
    stage.wait_until(
        lambda: stage.replica_id("us-east") != stage.replica_id("us-east-copy"),
        "name of its own for the copy",
    )
    stage.converge(within_s=60)
    written = stage.write("us-east-copy", "hello", "from the copy")
    stage.run(5)
    stage.expect(written.ok, "the copy writes, under a name of its own")

    stage.say("eu-west is copied as a whole disk: nothing on it tells the two apart")
    stage.clone("eu-west", "eu-west-twin", hidden=True)
    stage.load("mixed", rate_per_s=10, for_s=10)
    stage.run(15)
    stage.wait_until(
        lambda: len({stage.replica_id(machine) for machine in stage.machines}) == 5,
        "name of its own for each of the five",
    )
    took_s = stage.converge(within_s=120)
    stage.say(f"all five agree after {took_s:.1f} s")
    for machine in stage.machines:
        hello = stage.read(machine, "hello")
        stage.expect(hello == "from the copy", f"{machine} has heard from the copy")
