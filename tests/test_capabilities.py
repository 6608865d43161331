"""A skip is never silent in CI, however it was brought about; elsewhere it stays a skip."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import capabilities
from tests.capabilities import CAPABILITIES, Capability, is_legitimate_skip, needs

PLANTED = """
import pytest
from tests import capabilities
from tests.capabilities import Capability, needs

capabilities.CAPABILITIES.update(
    ours=Capability(lambda: False, True, "install ours"),
    theirs=Capability(lambda: False, False, "install theirs"),
    had=Capability(lambda: True, True, "install had"),
)

def test_needs_ours(): needs("ours")
def test_needs_theirs(): needs("theirs")
def test_needs_had(): needs("had")
def test_skips_by_itself(): pytest.skip("no reason that is listed")
@pytest.mark.skipif(True, reason="marked")
def test_is_marked(): assert False
@pytest.mark.xfail(strict=True)
def test_is_expected_to_fail(): assert False
"""

PLANTED_WHOLE = "import pytest\npytest.importorskip('no_such_module')\n"


def run_planted(folder: Path, source: str, *, ci: bool) -> str:
    """Run planted tests in a process of their own, under the project's conftest."""
    (folder / "test_planted.py").write_text(source)
    environment = {name: text for name, text in os.environ.items() if name != "CRDTMEM_CI"}
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", "-p", "no:cacheprovider"],
        cwd=folder,
        env=environment | ({"CRDTMEM_CI": "1"} if ci else {}),
        capture_output=True,
        text=True,
        check=False,
    )
    return result.stdout


def test_elsewhere_an_absence_is_a_skip(tmp_path: Path) -> None:
    assert "1 passed, 4 skipped, 1 xfailed" in run_planted(tmp_path, PLANTED, ci=False)
    assert "1 skipped" in run_planted(tmp_path, PLANTED_WHOLE, ci=False)


def test_in_ci_only_what_ci_cannot_install_may_be_absent(tmp_path: Path) -> None:
    output = run_planted(tmp_path, PLANTED, ci=True)
    assert "2 failed, 1 passed, 1 skipped, 1 xfailed, 1 error" in output, output
    assert ".ci/run installs it, so it may not be skipped" in output


def test_in_ci_a_module_may_not_skip_itself_whole(tmp_path: Path) -> None:
    output = run_planted(tmp_path, PLANTED_WHOLE, ci=True)
    assert "1 error" in output, output
    assert "could not import 'no_such_module'" in output


def test_an_unlisted_capability_is_a_mistake() -> None:
    with pytest.raises(KeyError):
        needs("electricity")


def test_reasons_are_recognised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CAPABILITIES, "theirs", Capability(lambda: False, False, "x"))
    monkeypatch.setitem(CAPABILITIES, "ours", Capability(lambda: False, True, "x"))
    theirs, ours = capabilities.absence("theirs"), capabilities.absence("ours")
    assert theirs is not None
    assert ours is not None
    assert is_legitimate_skip(f"Skipped: {theirs}")
    assert not is_legitimate_skip(f"Skipped: {ours}")
    assert not is_legitimate_skip("Skipped: I felt like it")
