"""Where the simulator's store once behaved otherwise than the one that ships."""

from __future__ import annotations

from crdtmem.store.memory import MemoryDisk, MemoryStore


def boot(disk: MemoryDisk) -> bool:
    """Open, claim what is owed, close; returns whether the open was continuous."""
    store = MemoryStore("memory:likeness", disk, read_only=False)
    continuous = store.boot.continuous
    store.claim_identity()
    store.sync()
    store.close()
    return continuous


def test_a_newer_content_after_an_older_disk_image_is_no_continuation() -> None:
    """Harm: two histories of one id, and the simulator believes the second to be the first."""
    disk = MemoryDisk()
    boot(disk)
    older = disk.copy()
    boot(disk)
    newer = disk.copy()
    disk.restore(older, with_mark=True)
    # Counts its boots again from where the image had them.
    assert boot(disk)
    disk.restore(newer)
    assert not boot(disk)
