"""A firewall lets only streams pass, for half an hour; then even those are cut.

What must hold: while streams pass nobody is held for dead, and writes go on reaching everybody;
when nothing passes any more, the one behind the firewall is found missing; and once all is open
again everybody shows everybody.
"""

from simulations.stage import Stage

__all__ = ["SIMULATOR_ONLY", "TITLE", "play"]

TITLE = "Datagrams are blocked"
SIMULATOR_ONLY = "blocking datagrams alone takes a firewall; the namespace test has one"

_HALF_HOUR_S = 1_800


def play(stage: Stage) -> None:
    """Play it."""
    stage.regions("eu-west", machines=4, by="mesh")
    stage.start()
    stage.gather()
    behind, *others = stage.machines
    pairs = [[behind, other] for other in others] + [[other, behind] for other in others]
    stage.say(f"datagrams from and to {behind} are blocked")
    stage.fault("streams_only", pairs=pairs, for_us=2 * _HALF_HOUR_S * 1_000_000)
    for _ in range(30):
        stage.run(_HALF_HOUR_S / 30)
        shown = all(len(stage.shown(machine)) == 3 for machine in stage.machines)
        stage.expect(shown, "everybody shows everybody")
    stage.write(behind, "note", "through the firewall")
    stage.converge(within_s=30)
    stage.expect(stage.read(others[0], "note") == "through the firewall", "the note came through")
    stage.say("now streams are cut too")
    stage.cut(behind)
    stage.wait_until(
        lambda: all(behind not in stage.shown(other) for other in others),
        "mesh without it",
        within_s=180,
    )
    stage.say("all is open again")
    stage.heal()
    took_s = stage.gather()
    stage.expect(took_s <= 120, "they met within two minutes")
