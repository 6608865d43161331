"""A batch that comes again while its flight is out, and fails, is counted once.

Harm: after each failed commit the inbox counted the bytes of such batches twice. They were never
counted down again, so that in time an empty inbox was full, and a node that had nothing to do
seemed to have work for ever. Found by the simulator: a full disk, and peers that connect again.
"""

from __future__ import annotations

from crdtmem.inbox import Verdict
from tests.kernel_node import KernelNode, puts


def test_what_is_given_back_beside_itself_is_counted_once() -> None:
    writer, reader = KernelNode(1), KernelNode(2)
    writer.commit(puts({"k": "v" * 100}))
    (batch,) = writer.log
    inbox = reader.replica.inbox
    assert reader.replica.offer(batch)[0] is Verdict.ACCEPTED
    for _ in range(3):
        assert reader.stage() is not None
        assert (len(inbox), inbox.size) == (0, 0)
        # A peer connects again meanwhile, and sends it again.
        assert reader.replica.offer(batch)[0] is Verdict.ACCEPTED
        reader.fail()
        assert (len(inbox), inbox.size) == (1, len(batch.data))
        # Given back alone it is counted too.
        assert reader.stage() is not None
        reader.fail()
        assert (len(inbox), inbox.size) == (1, len(batch.data))
    reader.run()
    assert reader.replica.state.vector == writer.replica.state.vector
    assert not reader.replica.has_work
