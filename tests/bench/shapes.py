"""The fixed shapes that every system is measured on: the same operations, in the same order.

Half of the operations of a register shape make keys, the other half rewrite them in another
order, so that both fresh writes and overwrites are in every figure. Counters are counted up
four times each.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

__all__ = ["PER_TRANSACTION", "SHAPES", "Shape"]

PER_TRANSACTION = 100


@dataclass(frozen=True)
class Shape:
    """One shape: how its keys and values look, and whether its operations count."""

    name: str
    title: str
    counts: bool = False

    def key(self, number: int) -> str:
        """Return the key of that number."""
        return f"key-{number:016d}" if self.name == "long" else f"k{number}"

    def value(self, number: int) -> Any:
        """Return the value that operation ``number`` writes, or the amount that it adds."""
        if self.counts:
            return 1 + number % 7
        if self.name == "long":
            return f"{number:08d} The quick brown fox jumps over the lazy dog. "[:50] * 2
        return f"v{number % 1_000}"

    def transactions(self, operations: int) -> list[dict[str, Any]]:
        """Return transactions of ``PER_TRANSACTION`` operations, as key to value or amount."""
        source = random.Random(f"shape {self.name}")
        passes = 4 if self.counts else 2
        width = max(operations // passes, PER_TRANSACTION)
        transactions: list[dict[str, Any]] = []
        number = 0
        for _ in range(passes):
            order = list(range(width))
            source.shuffle(order)
            for at in range(0, width - PER_TRANSACTION + 1, PER_TRANSACTION):
                chosen = order[at : at + PER_TRANSACTION]
                transactions.append(
                    {self.key(n): self.value(number + i) for i, n in enumerate(chosen)}
                )
                number += PER_TRANSACTION
        return transactions


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("short", "short keys and values"),
        Shape("long", "20-byte keys, 100-byte values"),
        Shape("counters", "counters", counts=True),
    )
}
