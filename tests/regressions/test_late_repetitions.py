"""A repetition that is staged together with the first copy, which has just come from elsewhere.

Harm: a node stood still with a client's write unread in its socket. The client wrote it through
another node, and then something newer. When the node went on, it joined both and staged the old
write on top of them, in one flight: the id of what a flight joins was known only once it was
published. The newer value was gone, for good and everywhere.
"""

from __future__ import annotations

from crdtmem.errors import StoreFailed
from tests.kernel_node import KernelNode, operation, puts, transaction_of


def test_a_late_repetition_does_not_undo_what_was_written_since() -> None:
    node, other = KernelNode(1), KernelNode(2)
    other.put("k", "old", operation_id=b"once")
    other.put("k", "new")
    for batch in other.written:
        node.offer(batch)
    late = node.submit(puts({"k": "old"}, operation_id=b"once"))
    node.run()
    assert node.answer(late).repeated
    assert node.answer(late).first == other.dot(1)
    assert node.value("k") == "new"


def test_what_a_failed_flight_would_have_joined_is_not_known() -> None:
    """A repetition is acknowledged only by what is durable here."""
    node, other = KernelNode(1), KernelNode(2)
    step = operation("counter", "c", "increment", 5)
    other.commit(step, operation_id=b"charge")
    for batch in other.written:
        node.offer(batch)
    ticket = node.submit(transaction_of(step, operation_id=b"charge"))
    assert node.stage() is not None
    node.fail(StoreFailed("the disk is gone"))
    assert node.replies[ticket].error is not None
    node.run()
    assert node.value("c", "counter") == 5
    again = node.submit(transaction_of(step, operation_id=b"charge"))
    node.run()
    assert node.answer(again).repeated
    assert node.value("c", "counter") == 5
