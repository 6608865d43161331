"""A budget is spent from three sides at once, while nobody can ask anybody.

A bounded counter of 90: each region was handed the rights to 30. Then all links are cut,
and every region tries to spend 50, one by one. What must hold: each spends its 30 and
is refused the rest, at once and without a network; the total never passes 90, before or
after the links heal; and rights that come back can be spent again.
"""

from simulations.stage import Receipt, Stage

__all__ = ["REAL_PACE", "TITLE", "play"]

TITLE = "A budget that cannot be overspent"
REAL_PACE = 0.3


def play(stage: Stage) -> None:
    """Play it."""
    regions = stage.regions("eu-west", "us-east", "ap-southeast")
    stage.start()
    stage.do("eu-west", "bounded_counter", "budget", "mint", 90)
    stage.run(1)
    for machine in regions[1:]:
        to = stage.replica_id(machine)
        stage.do("eu-west", "bounded_counter", "budget", "transfer", 30, to)
    stage.run(3)
    stage.converge(within_s=30)
    stage.say("all links are cut; every region spends what it can")
    for machine in regions:
        stage.cut(machine)
    spent: dict[str, list[Receipt]] = {machine: [] for machine in regions}
    for _ in range(50):
        for machine in regions:
            spent[machine].append(stage.do(machine, "bounded_counter", "budget", "consume", 1))
        stage.run(0.1)
    for machine, receipts in spent.items():
        granted = sum(receipt.ok for receipt in receipts)
        stage.expect(granted == 30, f"{machine} spent its 30 and no more")
        refused = {receipt.code for receipt in receipts if not receipt.ok}
        stage.expect(refused == {"insufficient_rights"}, f"{machine} was told why")
    stage.heal()
    took_s = stage.converge(within_s=60)
    stage.say(f"all agree after {took_s:.1f} s")
    for machine in regions:
        left = stage.read(machine, "budget", "bounded_counter")
        stage.expect(left["available"] == 0, f"nothing is left on {machine}")
    back = stage.do("us-east", "bounded_counter", "budget", "release", 5)
    stage.run(2)
    again = stage.do("us-east", "bounded_counter", "budget", "consume", 5)
    over = stage.do("ap-southeast", "bounded_counter", "budget", "consume", 1)
    stage.run(2)
    stage.expect(back.ok and again.ok, "what us-east gave back it may spend again")
    stage.expect(not over.ok, "but nobody else may")
