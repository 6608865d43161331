"""The key ring's file: private, whole, and never made where it would part a cluster."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from crdtmem.config import load_settings
from crdtmem.errors import ConfigError
from crdtmem.keys import create_ring, load_ring, ring_path, save_ring, settle_ring
from crdtmem.settings import Settings
from gossip.keyring import Keyring


def settings(folder: Path, **given: object) -> Settings:
    names = {name.replace("__", "."): value for name, value in given.items()}
    return load_settings(None, {}, {"store": f"sqlite:///{folder}/store.db", **names})


def test_who_founds_makes_a_ring_beside_its_store_and_finds_it_again(tmp_path: Path) -> None:
    ring, new = settle_ring(settings(tmp_path))
    assert new
    assert ring is not None
    path = tmp_path / "store.db.keys"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    again, new = settle_ring(settings(tmp_path))
    assert not new
    assert again is not None
    assert again.primary == ring.primary


@pytest.mark.parametrize("given", [{"join": "10.0.0.1:7420"}, {"peers": "10.0.0.1:7420"}])
def test_who_joins_never_makes_one(tmp_path: Path, given: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="no key ring at") as refused:
        settle_ring(settings(tmp_path, **given))
    assert "--keyring" in refused.value.hint
    assert list(tmp_path.iterdir()) == []


def test_a_ring_that_is_named_must_be_there(tmp_path: Path) -> None:
    named = settings(tmp_path, mesh__keyring=str(tmp_path / "ring"))
    with pytest.raises(ConfigError) as refused:
        settle_ring(named)
    assert "crdtmem keyring generate" in refused.value.hint
    made = create_ring(tmp_path / "ring")
    found, new = settle_ring(named)
    assert found is not None
    assert (found.primary, new) == (made.primary, False)


def test_plain_text_needs_none_and_a_store_in_memory_keeps_none(tmp_path: Path) -> None:
    assert settle_ring(settings(tmp_path, mesh__plain_text=True)) == (None, False)
    alone = load_settings(None, {}, {"store": "memory:"})
    assert ring_path(alone) is None
    ring, new = settle_ring(alone)
    assert new
    assert ring is not None
    with pytest.raises(ConfigError, match="no key ring named"):
        settle_ring(load_settings(None, {}, {"store": "memory:", "join": "10.0.0.1:7420"}))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_ring_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "ring"
    create_ring(path)
    path.chmod(mode)
    with pytest.raises(ConfigError, match="can be read by others") as refused:
        load_ring(path)
    assert f"chmod 600 {path}" in refused.value.hint


def test_a_ring_is_never_written_over_by_a_new_one(tmp_path: Path) -> None:
    path = tmp_path / "ring"
    first = create_ring(path)
    with pytest.raises(ConfigError, match="already"):
        create_ring(path)
    assert load_ring(path).primary == first.primary


def test_a_damaged_or_missing_ring_is_said_without_its_content(tmp_path: Path) -> None:
    path = tmp_path / "ring"
    with pytest.raises(ConfigError, match="cannot be read"):
        load_ring(path)
    ring = create_ring(path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ConfigError) as refused:
        load_ring(path)
    assert ring.primary.material.hex() not in str(refused.value)
    assert repr(ring.primary.material) not in repr(refused.value)


def test_saving_replaces_the_whole_file_privately_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "ring"
    create_ring(path)
    later = Keyring([b"k" * 32])
    save_ring(path, later.dump())
    assert load_ring(path).primary == later.primary
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["ring"]


def test_a_ring_that_cannot_be_written_is_said_and_the_old_one_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ring"
    first = create_ring(path)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigError, match="No space left on device"):
        save_ring(path, Keyring([b"k" * 32]).dump())
    monkeypatch.undo()
    assert load_ring(path).primary == first.primary
    assert [entry.name for entry in tmp_path.iterdir()] == ["ring"]


def test_nodes_that_share_a_ring_file_save_it_at_the_same_time(tmp_path: Path) -> None:
    """Two nodes of one machine that are given one file rotate it at once."""
    path = tmp_path / "ring"
    create_ring(path)
    renamed: list[Path] = []
    later = Keyring([b"k" * 32])
    original = Path.replace

    def meanwhile(self: Path, target: Path) -> Path:
        # The other node begins and ends while this one is about to rename.
        if not renamed:
            renamed.append(self)
            save_ring(path, later.dump())
        return original(self, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "replace", meanwhile)
        save_ring(path, later.dump())
    assert load_ring(path).primary == later.primary
    assert [entry.name for entry in tmp_path.iterdir()] == ["ring"]
