"""crdtmem: one memory for a fleet of agents, replicated and written in every region.

The names that most users need are here, and are loaded when they are first used,
so that the command line starts quickly::

    from crdtmem import Memory, connect

``Memory.open`` is a replica inside your process, ``connect`` a node's; both are
one interface, ``MemoryProtocol``. See ``README.md`` for a tour and ``DESIGN.md``
for how and why.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from crdtmem.causality import Context, Observed
    from crdtmem.client import Client, connect
    from crdtmem.memory import Memory
    from crdtmem.policy import Policy
    from crdtmem.session import MemoryProtocol
    from crdtmem.synchronous import SyncMemory, connect_sync

__all__ = [
    "Client",
    "Context",
    "Memory",
    "MemoryProtocol",
    "Observed",
    "Policy",
    "SyncMemory",
    "__version__",
    "connect",
    "connect_sync",
]

__version__ = "0.1.0"

_HOMES: Final = {
    "Client": "crdtmem.client",
    "Context": "crdtmem.causality",
    "Memory": "crdtmem.memory",
    "MemoryProtocol": "crdtmem.session",
    "Observed": "crdtmem.causality",
    "Policy": "crdtmem.policy",
    "SyncMemory": "crdtmem.synchronous",
    "connect": "crdtmem.client",
    "connect_sync": "crdtmem.synchronous",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'crdtmem' has no attribute {name!r}")
    return getattr(importlib.import_module(home), name)
