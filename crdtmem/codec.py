"""Values and bytes: one canonical encoding, checked before it is trusted.

Problem: equal values must have equal bytes everywhere (or replicas gossip
differences for ever), nothing that a caller keeps may alias the state, and
bytes from outside must not be able to claim more memory than they bring.

Idea: MessagePack, restricted. A value is ``None``, a bool, an integer of 64
bits, a float, text, bytes, a list, or a dict with text keys, nested at most
``MAX_DEPTH`` deep. ``freeze`` checks it and returns a private copy with sorted
keys, lists as tuples; ``thaw`` gives a reader a private copy back, tuples as
lists. Scalars are immutable and pass through both untouched, which is the fast
path. Decoding never makes an object of more elements than there are bytes.

Invariants: ``pack(freeze(v))`` is canonical: equal values, equal bytes, on any
machine; NaN has one encoding; ``unpack`` raises ``MalformedFrame`` and nothing
else.
"""

from __future__ import annotations

import math
from typing import Any, Final

import msgpack

from crdtmem.errors import InvalidValue, LimitExceeded, MalformedFrame

__all__ = ["MAX_DEPTH", "SCALARS", "Value", "check_label", "freeze", "pack", "thaw", "unpack"]

Value = Any
"""A storable value: None, bool, int, float, str, bytes, list, or dict of str to values."""

MAX_DEPTH: Final = 32
SCALARS: Final = frozenset({type(None), bool, int, float, str, bytes})

_PACKER: Final = msgpack.Packer(use_bin_type=True, autoreset=True)
_INT_RANGE: Final = range(-(1 << 63), 1 << 64)
_NAN: Final = float("nan")


def pack(body: object) -> bytes:
    """Encode frozen values, tuples and lists; raises ``InvalidValue`` for anything else."""
    try:
        packed: bytes = _PACKER.pack(body)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidValue(
            f"cannot encode: {error}",
            hint="values are None, bool, 64-bit int, float, valid text, bytes, lists and dicts",
        ) from error
    return packed


def unpack(data: bytes | memoryview) -> Any:
    """Decode bytes from outside; arrays come as tuples; raises ``MalformedFrame``."""
    try:
        # The one extension that the library decodes by itself, a timestamp, comes as a
        # plain float: a value like any other, if a needless one.
        return msgpack.unpackb(data, use_list=False, ext_hook=_refuse_extension, timestamp=1)
    except (
        ValueError,
        TypeError,
        msgpack.UnpackException,
        RecursionError,
        OverflowError,
        MemoryError,
    ) as error:
        raise MalformedFrame(
            f"bytes that do not decode: {error or type(error).__name__}",
            hint="send one whole MessagePack value",
        ) from error


def _refuse_extension(code: int, _data: bytes) -> Any:
    raise ValueError(f"extension type {code} is not part of the format")


def freeze(value: Value, *, depth: int = 0) -> Value:
    """Return a private, canonical copy of a caller's value; raises ``InvalidValue``."""
    kind = type(value)
    if kind is str:
        _check_text(value)
        return value
    if kind is int:
        if value not in _INT_RANGE:
            raise InvalidValue(f"the integer {value} does not fit 64 bits", hint="store it as text")
        return value
    if kind is float:
        return _NAN if math.isnan(value) else value
    if kind in SCALARS:
        return value
    if depth >= MAX_DEPTH:
        raise LimitExceeded(f"a value nested over {MAX_DEPTH} deep", hint="flatten it")
    if kind is list or kind is tuple:
        return tuple([freeze(item, depth=depth + 1) for item in value])
    if kind is dict:
        for name in value:
            if type(name) is not str:
                raise InvalidValue(
                    f"a dict key of type {type(name).__name__}", hint="dict keys are text"
                )
            _check_text(name)
        return {name: freeze(value[name], depth=depth + 1) for name in sorted(value)}
    raise InvalidValue(
        f"a value of type {kind.__name__} cannot be stored",
        hint="use None, bool, int, float, str, bytes, list or dict",
    )


def thaw(value: Value) -> Value:
    """Return a copy of a stored value that its reader may change; tuples become lists."""
    kind = type(value)
    if kind is tuple:
        return [thaw(item) for item in value]
    if kind is dict:
        return {name: thaw(item) for name, item in value.items()}
    return value


def check_label(text: object, what: str, limit_bytes: int) -> str:
    """Return ``text`` if it is non-empty, valid text within the limit, else raise."""
    if type(text) is not str or not text:
        raise InvalidValue(
            f"a {what} must be non-empty text, not {text!r:.60}", hint="name it by a text"
        )
    _check_text(text)
    if len(text) * 4 > limit_bytes and len(text.encode()) > limit_bytes:
        raise LimitExceeded(
            f"a {what} of {len(text.encode())} bytes, the limit is {limit_bytes}",
            hint="store a digest or move the bulk into the value",
        )
    return text


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidValue(
            f"text with a lone surrogate at position {error.start}", hint="decode it properly first"
        ) from error
