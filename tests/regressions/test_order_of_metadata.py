"""Metadata is in one order, on its origin and everywhere else.

Found by the membership machine: after a rescue, two replicas with equal vectors showed the
same metadata in two orders.
"""

from __future__ import annotations

from crdtmem.batch import decode_batch
from crdtmem.crdt import NESTED
from crdtmem.effects import Persist
from crdtmem.engine import Engine
from crdtmem.replica import Identity
from crdtmem.transaction import Operation, Options, Transaction

NOW_US = 1_700_000_000_000_000


def test_the_origin_keeps_metadata_in_the_order_in_which_it_is_sent() -> None:
    """Harm: a reading printed as JSON, or a checkpoint, tells which replica it is from."""
    engine = Engine(Identity(1, "eu"))
    engine.start(NOW_US)
    (persist,) = engine.advance(NOW_US)
    assert isinstance(persist, Persist)
    engine.persisted(persist.flight, NOW_US)
    transaction = Transaction(author="x", trust=2, operation_id=b"once", metadata={"z": 1, "b": 2})
    options = Options(expires_at_us=NOW_US + 1, metadata={"v": "seen", "c": 0.5})
    for key, chosen in (("plain", None), ("more", options)):
        transaction.add(Operation(("s",), 1, key, "set", (key,), chosen))
    transaction.seal(engine.limits)
    engine.submit(None, transaction, NOW_US)
    (persist,) = engine.advance(NOW_US)
    assert isinstance(persist, Persist)
    (batch,) = persist.flight.batches
    engine.persisted(persist.flight, NOW_US)
    sent: dict[str, list[str]] = {}
    for segment in decode_batch(batch.data, known_fields=NESTED).segments:
        sent |= {delta[1]: list(segment.stamp.metadata) for delta in segment.deltas()}
    held = {
        key: list(slot[2].metadata) for key, slot in engine.state.table(("s",), 1).slots.items()
    }
    assert held == sent
    assert sent == {"plain": ["b", "i", "z"], "more": ["b", "c", "i", "v", "z"]}
