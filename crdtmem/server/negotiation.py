"""JSON or MessagePack: what a body is read as, and what an answer is written as.

Problem: people and most programs want JSON; JSON has no bytes, no infinities, and costs
twice as much as MessagePack. Both must mean the same values.

Idea: a body is read by its ``Content-Type``, an answer written by ``Accept``. As JSON,
values that it lacks are written as exports write them: bytes as ``{"$bytes": base64}``, a
dict that happens to have such a name as ``{"$dict": …}``, NaN and the infinities as
``{"$float": …}``. In MessagePack they are themselves.

Invariants: a body without a type that is spoken here is refused, never guessed at. That is
also a wall: a web page elsewhere can make a browser send forms and plain text to this
machine unasked, but neither JSON nor MessagePack.
"""

from __future__ import annotations

import json
import math
from functools import lru_cache
from typing import Any, Final

import pydantic_core

from crdtmem.control_frames import decode_body, encode_body
from crdtmem.errors import InvalidValue
from crdtmem.exporting import from_json, to_json
from crdtmem.server.problems import Refusal

__all__ = [
    "JSON",
    "MSGPACK",
    "decode_msgpack",
    "encode",
    "is_json_body",
    "json_form",
    "prefers_msgpack",
    "value_of_json",
    "write_json",
]

JSON: Final = "application/json"
MSGPACK: Final = "application/msgpack"
_MSGPACK_NAMES: Final = frozenset({MSGPACK, "application/x-msgpack", "application/vnd.msgpack"})

_SAFE: Final = frozenset({str, int, bool, type(None)})


def json_form(value: Any) -> Any:
    """Return a value in a form that JSON can carry."""
    return value if type(value) in _SAFE else to_json(value)


def write_json(plain: Any) -> bytes:
    """Return JSON; nothing may be in it that JSON lacks."""
    try:
        return pydantic_core.to_json(plain)
    except pydantic_core.PydanticSerializationError:
        # Stored text is valid; what an error quotes may not be.
        return json.dumps(plain, separators=(",", ":"), allow_nan=False).encode("ascii")


def encode(plain: Any, *, msgpack: bool = False, safe: bool = False) -> bytes:
    """Return a value in the form that the client prefers.

    ``safe`` says that nothing is in it that JSON lacks: looking for that costs more than
    writing it.
    """
    if msgpack:
        return encode_body(plain)
    return write_json(plain if safe else to_json(plain))


def value_of_json(value: Any) -> Any:
    """Return the value that JSON means; raises ``InvalidValue``."""
    _require_finite(value)
    return from_json(value)


def _require_finite(value: Any) -> None:
    kind = type(value)
    if kind is float:
        # JSON has no such number: it was written 1e999, or as what only some readers accept.
        if not math.isfinite(value):
            raise InvalidValue(
                "a number beyond what a float holds", hint='write {"$float": "inf"} if it is meant'
            )
    elif kind is list:
        for item in value:
            _require_finite(item)
    elif kind is dict:
        for item in value.values():
            _require_finite(item)


def decode_msgpack(data: bytes) -> Any:
    """Decode a body, arrays as tuples; raises ``MalformedFrame``."""
    return decode_body(data)


@lru_cache(maxsize=256)
def is_json_body(content_type: str) -> bool:
    """Tell JSON (true) from MessagePack (false); raises ``Refusal`` (415) for anything else."""
    name = content_type.partition(";")[0].strip().lower()
    if name == JSON:
        return True
    if name in _MSGPACK_NAMES:
        return False
    raise Refusal(
        415,
        "unsupported_media_type",
        f"a body of type {content_type!r:.80} is not read here",
        hint=f"send Content-Type: {JSON} or {MSGPACK}",
    )


@lru_cache(maxsize=256)
def prefers_msgpack(accept: str) -> bool:
    """Tell whether a client would rather have MessagePack than JSON."""
    weights = {"json": 0.0, "msgpack": 0.0}
    for part in accept.split(","):
        name, *parameters = [piece.strip().lower() for piece in part.split(";")]
        weight = _weight(parameters)
        if name in _MSGPACK_NAMES:
            weights["msgpack"] = max(weights["msgpack"], weight)
        elif name in (JSON, "*/*", "application/*"):
            weights["json"] = max(weights["json"], weight)
    return weights["msgpack"] > weights["json"]


def _weight(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0
