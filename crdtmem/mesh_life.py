"""Which life a node's member lives in the mesh: its generation, and when it takes the next.

Problem: the store's count of starts is durable before it is used and only rises, but a copy of
the store counts on as well. Where the copy has lived a later life under this id and is gone, the
mesh refuses the original as older than that, for ever.

Idea: the generation is the count of starts and an offset, which is kept in the store. When the
mesh says that a later life is over (``Outlived``), ``gossip.succession`` says when to be above
it; the offset is raised, and only then does the member begin again.

Invariant: a generation is used by one start, or one beginning again, of one store.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Any

from crdtmem.links import MESH_OFFSET, generation_of, offset_bytes
from gossip.driver import steady_us
from gossip.succession import Succession

if TYPE_CHECKING:
    from crdtmem.runtime import Runtime

__all__ = ["OwnLife"]

_log = logging.getLogger("crdtmem.mesh")


class OwnLife:
    """The lives of one process's member. Belongs to the loop's thread."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._succession = Succession(Random(secrets.randbits(64)))  # noqa: S311 - jitter

    def begin(self) -> int:
        """Return the generation of the life that begins; what was heard of others is void."""
        self._succession.cancel()
        store = self._runtime.store
        return generation_of(store.boot.boot, store.metadata())

    def outlived(self, generation: int, *, over: bool = True) -> None:
        """Note that a later life of the own id is over, or goes on elsewhere."""
        note = self._succession.heard if over else self._succession.heard_of
        note(generation, steady_us())

    def look(self, at_us: int, generation: int, begin_again: Callable[[int], None]) -> None:
        """If it is time, keep a higher generation than ``generation``, that of now; once that is
        durable, ``begin_again`` is called with it. What cannot be kept is tried again later."""
        runtime, store = self._runtime, self._runtime.store
        if runtime.closed or runtime.broken is not None:
            return
        claimed = self._succession.take(at_us, generation)
        if claimed is None:
            return

        def write() -> None:
            offset = offset_bytes(claimed, store.boot.boot, store.metadata())
            store.put_metadata({MESH_OFFSET: offset})
            store.sync()

        def written(_: Any, error: BaseException | None) -> None:
            if error is None:
                begin_again(claimed)
            else:
                _log.info("the mesh's generation could not be kept: %s", error)
                self.outlived(claimed - 1)

        runtime.run_in_store(write, written)
