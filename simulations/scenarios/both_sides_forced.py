"""A cluster is parted, and on either side an operator gives the other up by force.

Force takes the absent out of every majority, so each side becomes a cluster of its own. When
the line is back, neither side takes the other's word: else nobody would be left. What must
hold: both go on serving, an alarm says what happened, and as soon as an operator has decided
for one side, the other's nodes rejoin it under new names; nothing that any of them had
acknowledged is lost: it is there, or set aside to be rescued.
"""

from simulations.stage import Stage

__all__ = ["SIMULATOR_ONLY", "TITLE", "play"]

TITLE = "Given up on both sides"
SIMULATOR_ONLY = "it gives members up by replica id, which real nodes tell later"

_STAY = ("eu-west", "us-east")
_REJOIN = ("ap-southeast", "us-west")


def play(stage: Stage) -> None:
    """Play it."""
    stage.regions(*_STAY, *_REJOIN)
    stage.start()
    stage.write("us-west", "shared", "known to all")
    stage.run(5)
    stage.say("the cluster is parted, and each side gives the other up by force")
    stage.cut(_STAY, _REJOIN)
    stage.run(3)
    for victim in _REJOIN:
        stage.evict(victim, by=_STAY[0], forced=True)
    for victim in _STAY:
        stage.evict(victim, by=_REJOIN[0], forced=True)
    stage.run(10)
    written = {name: stage.write(name, f"alone in {name}", name) for name in stage.machines}
    stage.run(5)
    for name, receipt in written.items():
        stage.expect(receipt.ok, f"{name} goes on writing on its side")
    former = {name: stage.replica_id(name) for name in stage.machines}

    stage.say("the line is back")
    stage.heal()
    stage.wait_until(
        lambda: stage.alarms("given up on both sides") >= len(stage.machines),
        "alarm everywhere",
        within_s=60,
    )
    for name in stage.machines:
        stage.expect(stage.replica_id(name) == former[name], f"{name} stays what it is")
        again = stage.write(name, f"still in {name}", name)
        stage.run(2)
        stage.expect(again.ok, f"{name} still writes")

    stage.say("an operator decides: the west and the far east rejoin")
    stage.rejoin(_REJOIN)
    stage.wait_until(
        lambda: all(stage.is_up(n) and stage.replica_id(n) != former[n] for n in _REJOIN),
        "new names",
        within_s=60,
    )
    took_s = stage.converge(within_s=120)
    stage.say(f"all agree after {took_s:.1f} s")
    for name in stage.machines:
        stage.expect(stage.read(name, "shared") == "known to all", f"{name} has what all knew")
        for other in _STAY:
            heard = stage.read(name, f"alone in {other}")
            stage.expect(heard == other, f"{name} has what {other} wrote alone")
    anew = stage.write(_REJOIN[0], "anew", "under a new name")
    stage.run(5)
    stage.expect(anew.ok, f"{_REJOIN[0]} writes again")
