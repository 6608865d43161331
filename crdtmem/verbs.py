"""What a client may ask of a memory: the verbs of the control socket, but for the node's own.

Problem: the same questions that an embedded caller asks by method calls must be
answered over a socket, at the same price as far as possible.

Idea: one handler per verb, in a table. A handler checks the body's shape,
answers at once where it can (a read is a dictionary lookup), hands the request
itself to the engine as the ticket of a commit, and starts a coroutine only for
what waits or streams. Long answers are streamed as events of bounded size,
each sent when the client has room.

Bodies are arrays, in this order:

=========== ============================================= ======================
verb        body                                          answer
=========== ============================================= ======================
commit      options, transaction                          the outcome
read        space, datatype, key, at_least, timeout_ms    a reading
get         space, list of keys                           a list of values
get         space, keys, at_least, timeout_ms             a list of values
keys        space, datatype[, after, limit]               events: lists of keys
spaces      nil                                           a list of names
conflicts   space or nil                                  events: lists of them
conflicts   space or nil, after, limit                    the same: a page
context     nil                                           a context
wait        context, timeout_ms                           a context
subscribe   space or nil, limit_batches, after            events: parts of a feed
export      space or nil                                  events: lists of records
=========== ============================================= ======================

The answer to a page of conflicts is the position of its last one, to be the next page's
``after``; nil where there is no next page. A position is an array of space, datatype, key
and field. A page may hold less than its limit, if that is much in bytes.

``options``, ``transaction`` and so on are as in ``operations``. ``after`` is a context, or
nil for what is published from now on. A part of a feed is ``[cursor, [change, …]]``:
whole batches, and the context from which to go on after them. The first is empty, and says
where the feed begins. The cursor is nil in pieces of a very large batch but the last; a part
without changes moves it past what was not asked for. ``["lagging", missed]`` says, once,
that the reader is too slow, and that so many changes, of any space, come out of the log
instead of at once. ``get`` reads registers, as
``Memory.reader`` does: what holds nothing is nil. It is the quick read: its answer
costs a dictionary lookup per key.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any, Final

from crdtmem.asking import LATER, Handler, Quick, Request
from crdtmem.batch import SpaceName
from crdtmem.causality import Context
from crdtmem.changes import Part
from crdtmem.control_frames import ANSWER_BYTES, encode_body, wide
from crdtmem.crdt import DATATYPES, DATATYPES_BY_CODE
from crdtmem.errors import LimitExceeded, MalformedFrame, NotCovered
from crdtmem.exporting import export_records
from crdtmem.handles import Conflict, WriteOptions
from crdtmem.memory import Memory
from crdtmem.operations import (
    decode_context,
    decode_space,
    decode_transaction,
    decode_write_options,
    encode_committed,
    encode_conflict,
    encode_context,
    encode_part,
    encode_reading,
    require,
)
from crdtmem.parts import in_parts
from crdtmem.read_side import REGISTER, ConflictPosition
from crdtmem.replica import Committed, Replica
from crdtmem.transaction import Transaction
from crdtmem.waiting import observed_dots
from crdtmem.wall import now_us

__all__ = ["conflict_position", "fields", "memory_verbs", "optional_space", "quick_verbs"]

_KEYS_PER_EVENT: Final = 5_000
_CONFLICTS_PER_EVENT: Final = 100
_CONFLICTS_PER_PAGE: Final = 1_000
_FIELDS: Final = (type(None), str, bytes, int)
_RECORDS_PER_EVENT: Final = 500
_LONGEST_FEED: Final = 100_000
_TEXT: Final = {str}
_FIRST: Final = 2
"""Where the outcome of a commit names its first dot."""
_KEYS_PER_GET: Final = 10_000
_KEYS_UNMEASURED: Final = 64
"""So many values, each at its limit, are an answer that is not too large."""


def fields(body: Any, count: int, verb: str) -> tuple[Any, ...]:
    """Return a body that is an array of that many fields; raises ``MalformedFrame``."""
    require(type(body) is tuple and len(body) == count, f"the body of {verb}")
    return tuple(body)


def optional_space(labels: Any) -> SpaceName | None:
    """Return the name of a space, or ``None`` for all of them."""
    return None if labels is None else decode_space(labels)


def conflict_position(body: Any) -> ConflictPosition:
    """Return where a page of conflicts ended; raises ``MalformedFrame``."""
    space, datatype, key, field = fields(body, 4, "a position")
    require(type(key) is str and type(field) in _FIELDS, "a position")
    return decode_space(space), _datatype(datatype), key, field


def _milliseconds(number: Any) -> int:
    require(type(number) is int and 0 <= number <= 24 * 3_600_000, "a timeout in milliseconds")
    return int(number)


def _datatype(code: Any) -> int:
    require(type(code) is int and code in DATATYPES_BY_CODE, "a datatype's code")
    return int(code)


def _check_size(values: list[Any], *, step: int) -> None:
    """Raise ``LimitExceeded`` for an answer that would be too large, before it is made."""
    size = 0
    for start in range(0, len(values), step):
        size += len(encode_body(values[start : start + step]))
        if size > ANSWER_BYTES:
            raise LimitExceeded(
                f"the values of these keys take over {ANSWER_BYTES} bytes",
                hint="ask for fewer keys at once",
            )


def memory_verbs(memory: Memory) -> Mapping[str, Handler]:
    """Return the handlers that a memory alone can serve, by verb."""
    verbs = _MemoryVerbs(memory)
    return {
        "commit": verbs.commit,
        "read": verbs.read,
        "get": verbs.get,
        "keys": verbs.keys,
        "spaces": verbs.spaces,
        "conflicts": verbs.conflicts,
        "context": verbs.context,
        "wait": verbs.wait,
        "subscribe": verbs.subscribe,
        "export": verbs.export,
    }


def quick_verbs(memory: Memory) -> Mapping[str, Quick]:
    """Return what answers some of the verbs at once, where that is possible."""
    return {"get": _MemoryVerbs(memory).get_now}


class _MemoryVerbs:
    """The handlers, over one memory."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._written: Any = ("local", 10_000, None)
        self._options = decode_write_options(self._written)
        # All transactions of one group commit have one context, which is flattened once.
        self._context: Context | None = None
        self._flat: Any = None

    def commit(self, request: Request, body: Any) -> None:
        written, sent = fields(body, 2, "commit")
        if written != self._written:
            # A client's options hardly ever differ from one commit to the next.
            self._options, self._written = decode_write_options(written), written
        options = self._options
        transaction = decode_transaction(sent)
        request.encode = self._encode_committed
        if self._waits_for_others(transaction, options):
            request.rest()
        if options.durability == "local":
            # The request is the engine's ticket: no task, no future, one answer.
            self._memory.submit(request, transaction, options)
        else:
            request.run(self._commit_widely(request, transaction, options))

    async def _commit_widely(
        self, request: Request, transaction: Transaction, options: WriteOptions
    ) -> Committed:
        """Commit, then wait for others to have it: for that, no room of this node's is held."""
        memory = self._memory
        ticket: asyncio.Future[Committed] = memory.runtime.ticket()
        deadline_us = memory.submit(ticket, transaction, options)
        committed = await ticket
        request.rest()
        await memory.durable(committed.context, options.durability, deadline_us)
        return committed

    def _waits_for_others(self, transaction: Transaction, options: WriteOptions) -> bool:
        """Tell whether a write stands on what this node has not joined."""
        if not (options.after is None or self._has_joined(options.after)):
            return True
        observed = observed_dots(transaction)
        if not observed:
            return False
        vector = self._memory.engine.replica.state.vector
        return not vector.covers_all(observed)

    def _has_joined(self, context: Context) -> bool:
        joined: bool = self._memory.engine.replica.state.vector.dominates(context.vector)
        return joined

    def _encode_committed(self, committed: Committed) -> list[Any]:
        if committed.context is not self._context:
            self._context, self._flat = committed.context, encode_context(committed.context)
        encoded = encode_committed(committed, self._flat)
        encoded[_FIRST] = wide(committed.first)
        return encoded

    def read(self, request: Request, body: Any) -> None:
        space, datatype, key, at_least, timeout_ms = fields(body, 5, "read")
        require(type(key) is str, "a key")
        request.encode = encode_reading
        context = decode_context(at_least)
        name, code = decode_space(space), _datatype(datatype)
        replica = self._memory.engine.replica
        if context is None or replica.state.vector.dominates(context.vector):
            request.set_result(replica.read(name, code, key, now_us()))
            return
        request.rest()
        request.run(
            self._memory.read(
                name, code, key, at_least=context, timeout_ms=_milliseconds(timeout_ms)
            )
        )

    def get(self, request: Request, body: Any) -> None:
        values = self.get_now(body)
        if values is not LATER:
            request.set_result(values)
            return
        space, keys, at_least, timeout_ms = body
        context = decode_context(at_least)
        assert context is not None
        request.rest()
        request.run(self._get_later(space, keys, context, _milliseconds(timeout_ms)))

    async def _get_later(
        self, space: SpaceName, keys: tuple[str, ...], context: Context, timeout_ms: int
    ) -> list[Any]:
        await self._memory.wait_for(context, timeout_ms=timeout_ms)
        return self._values(space, keys)

    def get_now(self, body: Any) -> Any:
        """Answer ``get``, or ``LATER`` where ``at_least`` has not been joined."""
        if type(body) is tuple and len(body) == 2:
            return self._values(*body)
        space, keys, at_least, timeout_ms = fields(body, 4, "get")
        _milliseconds(timeout_ms)
        context = decode_context(at_least)
        vector = self._memory.engine.replica.state.vector
        if context is None or vector.dominates(context.vector):
            return self._values(space, keys)
        return LATER

    def _values(self, space: Any, keys: Any) -> list[Any]:
        """Return the registers' values, frozen: to be encoded at once."""
        if type(keys) is not tuple or len(keys) > _KEYS_PER_GET:
            require(False, f"a list of up to {_KEYS_PER_GET} keys")
        replica = self._memory.engine.replica
        try:
            table = replica.state.tables.get((space, REGISTER))
            if table is None:
                decode_space(space)
                require(set(map(type, keys)) <= _TEXT, "a list of keys")
                return [None] * len(keys)
            # Almost always each key holds one value that does not expire.
            if len(keys) == 1:
                slot = table.slots.get(keys[0])
                if type(slot) is tuple and slot[2].expires_at_us is None:
                    return [slot[1]]
            values = [
                slot[1]
                for slot in map(table.slots.get, keys)
                if type(slot) is tuple and slot[2].expires_at_us is None
            ]
        except TypeError as error:
            raise MalformedFrame(
                f"a space or a list of keys with the wrong shape: {error}",
                hint="a space is a list of texts, and so are keys",
            ) from error
        if len(values) < len(keys):
            return self._values_with_care(replica, space, table.slots, keys)
        if len(values) > _KEYS_UNMEASURED:
            _check_size(values, step=_KEYS_UNMEASURED)
        return values

    def _values_with_care(
        self, replica: Replica, space: SpaceName, slots: dict[str, Any], keys: tuple[str, ...]
    ) -> list[Any]:
        """Return the same where some keys hold nothing, several values, or one that expires."""
        require(set(map(type, keys)) <= _TEXT, "a list of keys")
        now, step = now_us(), _KEYS_UNMEASURED
        values: list[Any] = []
        for key in keys:
            slot = slots.get(key)
            if slot is None:
                values.append(None)
            elif type(slot) is tuple and slot[2].expires_at_us is None:
                values.append(slot[1])
            else:
                values.append(replica.peek(space, key, now))
                step = 1
        if step == 1 or len(values) > _KEYS_UNMEASURED:
            _check_size(values, step=step)
        return values

    def keys(self, request: Request, body: Any) -> None:
        whole = type(body) is tuple and len(body) == 2
        space, datatype, after, limit = (*body, "", None) if whole else fields(body, 4, "keys")
        fine = type(after) is str and (limit is None or (type(limit) is int and limit > 0))
        require(fine, "the body of keys")
        request.run(self._keys(request, decode_space(space), _datatype(datatype), after, limit))

    async def _keys(
        self, request: Request, space: SpaceName, datatype: int, after: str, limit: int | None
    ) -> int:
        keys = await self._memory.keys(space, datatype, after=after, limit=limit)
        for start in range(0, len(keys), _KEYS_PER_EVENT):
            await request.emit(keys[start : start + _KEYS_PER_EVENT])
        return len(keys)

    def spaces(self, request: Request, body: Any) -> None:
        fields(body, 0, "spaces")
        request.run(self._memory.spaces())

    def conflicts(self, request: Request, body: Any) -> None:
        if type(body) is tuple and len(body) == 1:
            request.run(self._conflicts(request, optional_space(body[0])))
            return
        space, after, limit = fields(body, 3, "conflicts")
        require(type(limit) is int and 0 < limit <= _CONFLICTS_PER_PAGE, "the limit of a page")
        position = None if after is None else conflict_position(after)
        request.run(self._page_of_conflicts(request, optional_space(space), position, limit))

    async def _conflicts(self, request: Request, space: SpaceName | None) -> int:
        """Stream conflicts; others are served between any two parts."""
        rows = self._memory.engine.replica.conflicts(space, now_us())
        found = (encode_conflict(Conflict(*row)) for row in rows)
        count = 0
        for part in in_parts(found, _CONFLICTS_PER_EVENT):
            await request.emit(part)
            await asyncio.sleep(0)
            count += len(part)
        return count

    async def _page_of_conflicts(
        self, request: Request, space: SpaceName | None, after: ConflictPosition | None, limit: int
    ) -> ConflictPosition | None:
        rows = self._memory.engine.replica.conflicts(space, now_us(), after)
        found = (encode_conflict(Conflict(*row)) for row in rows)
        # Read on from where the part was closed, by number or by bytes.
        part = next(in_parts(found, limit), None)
        if part is None:
            return None
        more = next(found, None) is not None
        await request.emit(part)
        labels, datatype, key, field, *_ = part[-1]
        return (tuple(labels), DATATYPES[datatype].code, key, field) if more else None

    def context(self, request: Request, body: Any) -> None:
        fields(body, 0, "context")
        request.set_result(encode_context(self._memory.engine.replica.context))

    def wait(self, request: Request, body: Any) -> None:
        flat, timeout_ms = fields(body, 2, "wait")
        context = decode_context(flat)
        if context is None:
            raise NotCovered("no context to wait for was given", hint="pass one")
        request.encode = encode_context
        if not self._has_joined(context):
            request.rest()
        request.run(self._memory.wait_for(context, timeout_ms=_milliseconds(timeout_ms)))

    def subscribe(self, request: Request, body: Any) -> None:
        space, limit, after = fields(body, 3, "subscribe")
        require(type(limit) is int and 0 < limit <= _LONGEST_FEED, "the limit of a feed")
        request.run(self._subscribe(request, optional_space(space), limit, decode_context(after)))

    async def _subscribe(
        self, request: Request, space: SpaceName | None, limit: int, after: Context | None
    ) -> None:
        feed = await self._memory.changes(space, after=after, limit_batches=limit)
        try:
            await request.emit(encode_part(Part(feed.cursor, [])))
            while True:
                await request.emit(encode_part(await feed.next()))
        finally:
            await feed.close()

    def export(self, request: Request, body: Any) -> None:
        (space,) = fields(body, 1, "export")
        request.run(self._export(request, optional_space(space)))

    async def _export(self, request: Request, space: SpaceName | None) -> int:
        """Stream records; others are served between any two events."""
        replica = self._memory.engine.replica
        records: Iterator[dict[str, Any]] = export_records(replica, space, now_us())
        count = 0
        for part in in_parts(records, _RECORDS_PER_EVENT):
            await request.emit(part)
            await asyncio.sleep(0)
            count += len(part)
        return count
