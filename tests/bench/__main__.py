"""Benchmarks: ``python -m tests.bench kernel|simulator|gossip|fleet|service [--json] [--quick]``.

Exits with 1 when a row that has a target misses it.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from typing import Any

from tests.bench.report import Row, as_json, show


def measure(given: argparse.Namespace) -> tuple[list[Row], dict[str, Any]]:
    """Run one suite. Each is loaded when it is asked for: only the kernel's needs the peers."""
    more = {} if given.rounds is None else {"rounds": given.rounds}
    if given.suite == "simulator":
        from tests.bench import simulator

        worlds = simulator.Plan.quick() if given.quick else simulator.Plan()
        return simulator.run(replace(worlds, **more))
    if given.suite == "gossip":
        from tests.bench import gossip

        rounds = gossip.Plan.quick() if given.quick else gossip.Plan()
        return gossip.run(replace(rounds, plot=given.plot))
    if given.suite == "fleet":
        from tests.bench import fleet

        return fleet.run(fleet.Plan.quick() if given.quick else fleet.Plan())
    if given.suite == "service":
        from tests.bench import service

        asked = service.Plan.quick(given.directory) if given.quick else service.Plan()
        return service.run(replace(asked, directory=given.directory, **more))
    from tests.bench import kernel

    plan = kernel.Plan(directory=given.directory)
    if given.quick:
        plan = kernel.Plan.quick(given.directory)
    return kernel.run(replace(plan, **more))


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("suite", choices=["kernel", "simulator", "gossip", "fleet", "service"])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="small sizes, one round")
    parser.add_argument("--rounds", type=int, default=None, help="rounds per figure (5, or 3)")
    parser.add_argument("--directory", default="", help="where the kernel's stores are made")
    parser.add_argument("--plot", default="", help="where gossip's picture (SVG) is written")
    given = parser.parse_args()
    rows, about = measure(given)
    if given.json:
        print(as_json(rows, about))
    else:
        show(rows, about, title=f"crdtmem {given.suite}")
    return 1 if any(row.passes is False for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
