"""One region hangs on a thin, lossy line.

64 KiB a second, a tenth of all packets lost, half a second of delay. What must hold: it
slows down itself and nobody else; what waits for it stays within its bound; and it is up
to date soon after the line is good again.
"""

from simulations.stage import Stage

__all__ = ["REAL_PACE", "TITLE", "play"]

TITLE = "A region on a thin line"
REAL_PACE = 0.2


def play(stage: Stage) -> None:
    """Play it."""
    stage.regions("eu-west", "us-east", "af-nairobi")
    stage.start()
    stage.links("af-nairobi", loss=0.1, latency_ms=500, kib_per_s=64)
    stage.load("mixed", rate_per_s=20, for_s=40)
    stage.run(20)
    news = stage.write("eu-west", "news", "hot off the press")
    stage.run(1)
    stage.expect(news.ok, "eu-west is not held up")
    heard = stage.read("us-east", "news")
    stage.expect(heard == "hot off the press", "us-east hears of it within a second")
    stage.run(20)
    stage.say("the line is good again")
    stage.heal()
    took_s = stage.converge(within_s=60)
    stage.say(f"all agree after {took_s:.1f} s")
