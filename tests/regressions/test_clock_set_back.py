"""A clock set back held up acknowledgements, comparisons and deadlines for as long as it was off.

Found by the simulator (seeds 1047 and 1119): after a step back of seven minutes a node did not
ask for what it lacked, and its callers waited seven minutes beyond their deadlines.
"""

import pytest

from crdtmem.clock import SteadyClock
from simulations.kernel import Kernel
from simulations.plan import Injection, Place, Plan
from simulations.runner import run
from simulations.workloads import WORKLOADS

_HOUR_US = 3_600_000_000


@pytest.mark.parametrize("seed", [1, 2])
def test_a_cluster_converges_though_every_clock_is_set_back(seed: int) -> None:
    machines = tuple(Place(name, name) for name in ("eu-west", "us-east", "ap-south", "us-west"))
    jumps = {"every_us": 350_000, "jumps_us": [-600_000_000] * 9}
    plan = Plan(
        seed=seed,
        machines=machines,
        topology="star",
        workloads=("sessions",),
        steps=tuple(
            WORKLOADS["sessions"].steps(Kernel(seed).random("test"), 4, 4, 4_000_000, 30.0)
        ),
        injections=tuple(
            Injection(500_000 + 70_000 * number, "jumps", {"machine": place.name, **jumps})
            for number, place in enumerate(machines)
        ),
        safety_us=4_000_000,
        liveness_us=60_000_000,
    )
    outcome = run(plan)
    assert outcome.passed, outcome.message


def test_steady_time_follows_the_clock_forward_and_never_back() -> None:
    clock = SteadyClock()
    true_us = 0

    def at(wall_us: int) -> int:
        return clock.read(wall_us, lambda: true_us)

    assert [at(100), at(250), at(250)] == [100, 250, 250]
    # Set back by 150; from now on both clocks run on.
    seen = {}
    for now_us in range(0, 1_000, 10):
        true_us = now_us
        seen[now_us] = at(100 + now_us)
    assert list(seen.values()) == sorted(seen.values())
    assert seen[0] == 250
    # Half as fast until it has been caught up with, after twice the step.
    assert seen[200] == 350
    assert seen[300] == 400
    assert seen[990] == 1_090
