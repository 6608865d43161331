"""A machine that was away takes a snapshot over a bad line, while all the others write on.

The line loses packets and breaks in the middle of the transfer, and so does the sender.
What must hold: the snapshot is joined as a whole or not at all; what the receiver wrote
meanwhile survives it; and writing goes on everywhere all the time.
"""

from simulations.stage import Stage

__all__ = ["SIMULATOR_ONLY", "TITLE", "play"]

TITLE = "A snapshot over a bad line"
SIMULATOR_ONLY = "real nodes keep a mebibyte of log at least, which no load of seconds fills"


def play(stage: Stage) -> None:
    """Play it."""
    stage.settings(sync_log_bytes=10_000, checkpoint_bytes=5_000)
    stage.regions("eu-west", "us-east", "ap-southeast")
    stage.start()
    stage.load("mixed", rate_per_s=12, for_s=60)
    stage.run(10)
    stage.say("ap-southeast is switched off, and the others cut their logs")
    stage.stop("ap-southeast")
    stage.run(25)
    stage.say("it is back, on a bad line")
    stage.links("ap-southeast", loss=0.2, latency_ms=300, kib_per_s=24)
    stage.restart("ap-southeast")
    stage.run(1)
    own = stage.write("ap-southeast", "meanwhile", "written during the transfer")
    stage.run(1)
    stage.crash("eu-west")
    stage.run(2)
    stage.restart("eu-west")
    stage.run(25)
    stage.expect(own.ok, "ap-southeast writes while it is behind")
    stage.heal()
    took_s = stage.converge(within_s=90)
    stage.say(f"all agree after {took_s:.1f} s")
    for machine in stage.machines:
        kept = stage.read(machine, "meanwhile")
        stage.expect(
            kept == "written during the transfer", f"{machine} has what was written meanwhile"
        )
