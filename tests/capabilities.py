"""What a test may need beyond Python, and what its absence means.

Problem: a skip is silent. A suite that skips what its machine lacks looks green
on a machine that lacks everything, and a missing dependency in CI hides the
tests that it should have run.

Idea: a test names what it needs (``needs("loro")``), and each capability says
here whether ``.ci/run`` installs it. Where the mark ``CRDTMEM_CI`` is set, only
an absence that is listed here as legitimate may skip; any other skip, however
it was brought about, is turned into a failure (``tests/conftest.py``).
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import sysconfig
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

__all__ = [
    "CAPABILITIES",
    "ROOT",
    "SHARED_DATA",
    "Capability",
    "absence",
    "in_ci",
    "is_legitimate_skip",
    "needs",
]

ROOT = Path(__file__).resolve().parent.parent

# Recorded conversations and editing traces, kept beside the checkout, not in it.
SHARED_DATA = ROOT.parent / "shared" / "data"

_PREFIX = "absent capability "


class Capability(NamedTuple):
    """Something that a machine has or lacks."""

    probe: Callable[[], bool]
    installed_by_ci: bool
    """Whether ``.ci/run`` provides it, so that its absence there is a failure."""
    remedy: str


def _module(name: str) -> Callable[[], bool]:
    return lambda: importlib.util.find_spec(name) is not None


def _command(name: str) -> Callable[[], bool]:
    """A console script of this environment, or a program on the path."""
    scripts = Path(sysconfig.get_path("scripts"))
    return lambda: (scripts / name).exists() or shutil.which(name) is not None


@cache
def _namespaces() -> bool:
    """Whether network namespaces can be made here, joined, and given a bridge."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    name = f"crdtmem-probe-{os.getpid()}"

    def works(*words: str) -> bool:
        return subprocess.run(["ip", *words], capture_output=True, check=False).returncode == 0

    try:
        return (
            works("netns", "add", name)
            and works("-n", name, "link", "add", "bridge0", "type", "bridge")
            and works("-n", name, "link", "add", "port0", "type", "veth", "peer", "name", "port1")
        )
    finally:
        works("netns", "del", name)


CAPABILITIES: dict[str, Capability] = {
    "data": Capability(SHARED_DATA.is_dir, False, "put the data folder at ../shared/data"),
    "loro": Capability(_module("loro"), True, "pip install '.[bench]'"),
    "psutil": Capability(_module("psutil"), True, "pip install '.[test]'"),
    "uvloop": Capability(_module("uvloop"), True, "pip install ."),
    "crdtmem": Capability(_command("crdtmem"), True, "pip install ."),
    "readme": Capability((ROOT / "README.md").is_file, True, "write README.md"),
    "curl": Capability(_command("curl"), True, "apt-get install curl"),
    "git": Capability(_command("git"), False, "install git"),
    "unix_sockets": Capability(lambda: hasattr(socket, "AF_UNIX"), True, "use a POSIX system"),
    "namespaces": Capability(_namespaces, False, "run as root where `ip netns` may be used"),
    "nft": Capability(_command("nft"), True, "apt-get install nftables"),
    "root": Capability(lambda: os.geteuid() == 0, False, "run as root, to mount file systems"),
}


def in_ci() -> bool:
    """Say whether this run is ``.ci/run``'s, which has installed all that it can."""
    return os.environ.get("CRDTMEM_CI") == "1"


def absence(name: str) -> str | None:
    """Return why a capability cannot be used, or ``None`` if it can."""
    capability = CAPABILITIES[name]
    return None if capability.probe() else f"{_PREFIX}{name}: {capability.remedy}"


def needs(*names: str) -> None:
    """Skip the calling test (or module) unless the machine has every named capability.

    Where ``.ci/run`` provides it, its absence fails instead. An unlisted name is
    a ``KeyError``: add it to ``CAPABILITIES``.
    """
    for name in names:
        reason = absence(name)
        if reason is None:
            continue
        if in_ci() and CAPABILITIES[name].installed_by_ci:
            pytest.fail(f"{reason} (.ci/run installs it, so it may not be skipped)")
        pytest.skip(reason, allow_module_level=True)


def is_legitimate_skip(reason: str) -> bool:
    """Say whether a skip for ``reason`` may stand in CI: only an absence that CI cannot mend."""
    _, found, rest = reason.partition(_PREFIX)
    name = rest.partition(":")[0]
    return bool(found) and name in CAPABILITIES and not CAPABILITIES[name].installed_by_ci
