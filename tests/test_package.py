"""The front door: every name that the package lists can be had from it."""

from __future__ import annotations

import subprocess
import sys

import pytest

import crdtmem


@pytest.mark.parametrize("name", crdtmem.__all__)
def test_every_listed_name_is_there(name: str) -> None:
    assert getattr(crdtmem, name) is not None


def test_an_unknown_name_is_refused_as_any_module_would() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = crdtmem.nothing


def test_the_package_loads_nothing_until_it_is_asked() -> None:
    found = subprocess.run(
        [sys.executable, "-c", "import sys, crdtmem; print('crdtmem.memory' in sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == "False"
