"""Carried records: the piece of the log that a checkpoint brings along to be exact.

Problem: the chunks of a checkpoint are captured while writes go on, so they mix moments.
Replaying the log from where the capture began makes them exact; but if one record of that
window is damaged, what is left shows entries that no vector covers, and lacks others that
were removed by what was lost.

Idea: the checkpoint carries the records of its window itself, after its chunks, in the same
form: they are replayed when it is loaded, and it then stands at one position, whatever
becomes of the log below it.

Layout (MessagePack): ``[1, "log", [[kind, data], …]]``. A chunk of entries is an array of
another length, so the first bytes tell the two apart.

Invariants: records are carried in arrival order, from just after the position where the
capture began, through at least what the log held when the last chunk was captured.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from crdtmem.codec import pack, unpack
from crdtmem.errors import MalformedFrame

__all__ = ["decode_carried", "encode_carried"]

_VERSION: Final = 1
_NAME: Final = "log"
_BEGINNING: Final = pack((_VERSION, _NAME, ()))[:-1]

Carried = tuple[int, bytes]


def encode_carried(records: Iterable[Carried]) -> bytes:
    """Return records, each its kind and its data, as a part of a checkpoint."""
    return pack((_VERSION, _NAME, list(records)))


def decode_carried(part: bytes) -> list[Carried] | None:
    """Return the records in a part of a checkpoint; ``None`` for a chunk of entries.

    Raises ``MalformedFrame``.
    """
    if not part.startswith(_BEGINNING):
        return None
    _, _, records = unpack(part)
    if type(records) is not tuple:
        raise MalformedFrame("a checkpoint carries something else than records")
    for record in records:
        if type(record) is not tuple or list(map(type, record)) != [int, bytes]:
            raise MalformedFrame("a checkpoint carries a record with the wrong shape")
    return list(records)
