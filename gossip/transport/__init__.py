"""Ways to carry datagrams and one-shot streams: sockets, and memory for tests.

All satisfy one protocol (``base``) and one conformance suite, so that the driver does not
know which it has.
"""

from __future__ import annotations

__all__: list[str] = []
