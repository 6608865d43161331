"""A node is set back to an old backup, once openly and once behind its back.

An operator restores a copied store: the store notices and takes a new identity. A
platform restores a whole disk, mark and all: the store cannot notice, but its first peer
does. What must hold: no sequence number is given out twice under one name; what the node
had shared comes back to it; nothing deleted meanwhile returns; and the node goes on
under a new id by itself.
"""

from simulations.stage import Stage

__all__ = ["SIMULATOR_ONLY", "TITLE", "play"]

TITLE = "An old backup is put in place of a live store"
SIMULATOR_ONLY = "it sets back whole disks"


def play(stage: Stage) -> None:
    """Play it."""
    stage.regions("eu-west", "us-east", "ap-southeast")
    stage.start(topology="mesh")
    stage.write("us-east", "plan", "the first plan")
    stage.load("mixed", rate_per_s=8, for_s=15)
    stage.run(8)
    stage.backup("us-east")
    stage.say("a backup of us-east is made")
    stage.write("us-east", "plan", "the second plan")
    stage.write("us-east", "secret", "not for long")
    stage.run(10)
    stage.do("eu-west", "register", "secret", "delete")
    stage.converge(within_s=30)

    for hidden in (False, True):
        before = stage.replica_id("us-east")
        how = "a whole disk, so that the store cannot tell" if hidden else "a copied folder"
        stage.say(f"us-east is restored from the backup: {how}")
        stage.restore("us-east", hidden=hidden)
        stage.load("mixed", rate_per_s=10, for_s=10)
        stage.run(15)
        stage.converge(within_s=60)
        after = stage.replica_id("us-east")
        stage.expect(before != after, "us-east writes under a new id")
        for machine in stage.machines:
            plan = stage.read(machine, "plan")
            stage.expect(plan == "the second plan", f"{machine} holds the second plan")
            secret = stage.read(machine, "secret")
            stage.expect(secret is None, f"the secret is still gone on {machine}")
