"""Every agent of every region writes the same few keys, as fast as it can.

One register, one counter, one set, one log, contested from all sides, across a cut. What
must hold: the counter is exact; the log holds every entry once; the register shows one
value everywhere, and the concurrent ones beside it; and at the bound on siblings a blind
write is refused rather than a value dropped.
"""

from simulations.stage import Receipt, Stage

__all__ = ["REAL_PACE", "TITLE", "play"]

TITLE = "Everybody writes the same key"
REAL_PACE = 0.1


def play(stage: Stage) -> None:
    """Play it."""
    regions = stage.regions("eu-west", "us-east", "ap-southeast")
    stage.start()
    counted: list[Receipt] = []
    logged: list[Receipt] = []
    for turn in range(40):
        if turn == 10:
            stage.say("us-east is cut off")
            stage.cut("us-east")
        if turn == 30:
            stage.say("us-east is back")
            stage.heal()
        for machine in regions:
            stage.write(machine, "hot", f"{machine} {turn}")
            counted.append(stage.do(machine, "counter", "hot", "increment", 1))
            logged.append(stage.do(machine, "log", "hot", "append", f"{machine} {turn}"))
            stage.do(machine, "set", "hot", "add" if turn % 2 else "remove", turn // 2)
        stage.run(0.5)
    took_s = stage.converge(within_s=60)
    stage.say(f"all agree after {took_s:.1f} s")
    exact = sum(receipt.ok for receipt in counted)
    entries = sum(receipt.ok for receipt in logged)
    stage.expect(exact == len(counted), "every increment was acknowledged")
    first = stage.reading(regions[0], "hot")
    for machine in regions:
        total = stage.read(machine, "hot", "counter")
        stage.expect(total == exact, f"the counter shows {exact} on {machine}")
        log = stage.read(machine, "hot", "log")
        stage.expect(len(log) == len(set(log)) == entries, f"the log is whole on {machine}")
        shown = stage.reading(machine, "hot")
        stage.expect(shown.value == first.value, f"{machine} shows the same value as all others")
        elements = stage.read(machine, "hot", "set")
        stage.expect(set(elements) == set(range(20)), f"the set is whole on {machine}")
