"""The hot loops in C, where they were compiled, and nothing where they were not.

Problem: joining and staging plain runs is most of the work of a busy replica, and plain
Python cannot do it in one pass; yet no installation may fail, and no result differ, for
want of a compiler.

Idea: ``loops.c`` holds a few functions, compiled when the package is installed where that
can be done. Whoever has a use for one asks whether it is there, and does the same in
Python where it is not, or where the function says that its run is not plain. The
extension is a module of its own, so that a checkout runs the one that is installed.

Invariants: states, batches and their bytes are the same with and without; an extension
that was compiled for another version of this module is as good as none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

__all__ = [
    "COMPILED",
    "are_amounts",
    "count_run",
    "furthest",
    "join_keys",
    "join_run",
    "pair_up",
    "put_run",
    "split_keys",
]

_INTERFACE: Final = 3
"""The version of what crosses the border, as ``loops.c`` has it."""

_Function = Callable[..., Any] | None


def _extension() -> Any:
    """Return the extension, or ``None``."""
    try:
        import _crdtmem_loops as found
    except ImportError:
        return None
    return found if getattr(found, "INTERFACE", None) == _INTERFACE else None


_loops: Final = _extension()

COMPILED: Final = _loops is not None
"""Whether the compiled loops are in use."""

are_amounts: _Function = getattr(_loops, "are_amounts", None)
count_run: _Function = getattr(_loops, "count_run", None)
furthest: _Function = getattr(_loops, "furthest", None)
join_keys: _Function = getattr(_loops, "join_keys", None)
join_run: _Function = getattr(_loops, "join_run", None)
pair_up: _Function = getattr(_loops, "pair_up", None)
put_run: _Function = getattr(_loops, "put_run", None)
split_keys: _Function = getattr(_loops, "split_keys", None)
