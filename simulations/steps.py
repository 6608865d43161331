"""Steps: what one simulated agent does at one moment, as plain data.

Problem: a failing run is repeated from a file and shrunk by leaving things out; that
needs the load as an explicit list, not as code that draws it on the way.

Idea: a ``Step`` says when, which client, on which machine, and what. It holds nothing
that JSON cannot: numbers, texts, lists and dictionaries.

Invariants: a step means the same whatever other steps are left out around it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Step"]


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that one client does on one machine.

    ``at_us`` counts from the beginning of the safety phase; ``client`` and ``machine``
    are numbers from 0, the machine's modulo how many there are; ``kind`` names what
    ``client.perform`` does with ``arguments``.
    """

    at_us: int
    client: int
    machine: int
    kind: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
