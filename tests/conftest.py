"""What every test runs under: one copy of the package, seeds that print, no silent skips."""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.capabilities import ROOT, SHARED_DATA, in_ci, is_legitimate_skip, needs

# Child processes (nodes, the CLI, kill -9 victims) run the checkout too, not a copy
# that happens to be installed.
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
)

# Wall-clock limits per example belong to pytest-timeout: on two busy cores a deadline
# fails good code. `too_slow` measures the same neighbours.
_COMMON: dict[str, Any] = {
    "deadline": None,
    "print_blob": True,
    "suppress_health_check": [HealthCheck.too_slow],
}
settings.register_profile("default", max_examples=200, **_COMMON)
settings.register_profile("ci", max_examples=500, **_COMMON)
settings.register_profile("thorough", max_examples=10_000, **_COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests marked ``needs_data`` where the data folder is absent."""
    if item.get_closest_marker("needs_data") is not None:
        needs("data")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skip that CI may not accept into a failure."""
    report = yield
    if not hasattr(report, "wasxfail"):
        _refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Do the same for modules skipped whole, by ``importorskip`` for instance."""
    report = yield
    _refuse_skip(report)
    return report


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if not (in_ci() and report.skipped):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    if not is_legitimate_skip(reason):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI, which has installed all that it can: {reason}"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of recorded conversations and traces; skip where it is absent."""
    needs("data")
    return SHARED_DATA
