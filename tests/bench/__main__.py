"""Benchmarks: ``python -m tests.bench kernel [--json] [--quick] [--directory DIR]``.

Exits with 1 when a row that has a target misses it.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace

from tests.bench import kernel
from tests.bench.report import as_json, show


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("suite", choices=["kernel"])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="small sizes, one round")
    parser.add_argument("--rounds", type=int, default=None, help="rounds per figure (5)")
    parser.add_argument("--directory", default="", help="where stores are made: a real disk")
    given = parser.parse_args()
    plan = kernel.Plan(directory=given.directory)
    if given.quick:
        plan = kernel.Plan.quick(given.directory)
    if given.rounds is not None:
        plan = replace(plan, rounds=given.rounds)
    rows, about = kernel.run(plan)
    if given.json:
        print(as_json(rows, about))
    else:
        show(rows, about)
    return 1 if any(row.passes is False for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
