"""Names to addresses, asked for again and again.

Problem: a member's host may be a name whose address changes (a container that is replaced),
and asking at every packet would be slow, at start only would be wrong.

Idea: numeric hosts are taken as they are; a name's answer is kept for at most 30 s. Whoever
cannot wait uses ``known`` and, where that has nothing, has the question asked in the background.

Invariants: the cache is bounded; a failure is not cached; one name is asked for once at a time.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import time
from collections import OrderedDict
from typing import Any, Final

from gossip.errors import TransportError
from gossip.transport.base import split_address

__all__ = ["Resolver"]

_KEPT_S: Final = 30.0
_NAMES: Final = 1_024


class Resolver:
    """Resolves for one socket family (``AF_UNSPEC``: any)."""

    def __init__(self, family: int = socket.AF_UNSPEC, *, kept_s: float = _KEPT_S) -> None:
        self.family = family
        self._kept_s = kept_s
        self._cache: OrderedDict[str, tuple[float, tuple[Any, ...]]] = OrderedDict()
        self._asked: dict[str, asyncio.Task[tuple[Any, ...]]] = {}

    def known(self, address: str) -> tuple[Any, ...] | None:
        """Return the socket address where it is known without asking, else ``None``.

        Raises ``TransportError`` for what is no address.
        """
        entry = self._cache.get(address)
        if entry is not None:
            if time.monotonic() < entry[0]:
                return entry[1]
            del self._cache[address]
        host, port = split_address(address)
        try:
            ipaddress.ip_address(host)
        except ValueError:
            return None
        self._keep(address, (host, port))
        return host, port

    async def resolve(self, address: str) -> tuple[Any, ...]:
        """Return the socket address. Raises ``TransportError`` and ``OSError``."""
        if (known := self.known(address)) is not None:
            return known
        task = self._asked.get(address)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._ask(address))
            self._asked[address] = task
            task.add_done_callback(lambda done: self._answered(address, done))
        # One who is no longer interested does not take the answer from the others.
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Give up what is being asked."""
        tasks = list(self._asked.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask(self, address: str) -> tuple[Any, ...]:
        host, port = split_address(address)
        try:
            found = await asyncio.get_running_loop().getaddrinfo(
                host, port, family=self.family, type=socket.SOCK_STREAM
            )
        except UnicodeError as error:
            # A member may advertise what is no name at all: a label that is empty or too long.
            raise TransportError(f"{host!r:.100} is no name", hint="advertise another") from error
        if not found:
            raise OSError(f"{host} has no address")
        target: tuple[Any, ...] = found[0][4][:2]
        self._keep(address, target)
        return target

    def _answered(self, address: str, task: asyncio.Task[tuple[Any, ...]]) -> None:
        del self._asked[address]
        if not task.cancelled():
            # Looked at, so that a failure that nobody waited for is not complained of.
            task.exception()

    def _keep(self, address: str, target: tuple[Any, ...]) -> None:
        self._cache[address] = (time.monotonic() + self._kept_s, target)
        if len(self._cache) > _NAMES:
            self._cache.popitem(last=False)
