"""The build hook: compile ``crdtmem/loops.c`` into the wheel where that can be done.

Nothing here may fail an installation. Without a compiler, without Python's headers, on a
machine that the loops are not made for, or with ``CRDTMEM_PLAIN=1`` in the environment,
the wheel holds plain Python only, and a line of the build's log says why. What was
compiled is loaded once before it is taken. It takes about a second.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NAME = "_crdtmem_loops"
TIMEOUT_S = 60


class Unavailable(Exception):
    """The loops cannot be compiled here; the message says why."""


def run(command: list[str], **more: Any) -> None:
    """Run a command, quietly; raises ``Unavailable``."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False, **more
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(str(error)) from error
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise Unavailable(f"{command[0]}: {said[0] if said else f'exit code {done.returncode}'}")


def compile_loops(source: Path, folder: Path) -> Path:
    """Compile and try the loops; returns the extension; raises ``Unavailable``."""
    if os.environ.get("CRDTMEM_PLAIN"):
        raise Unavailable("CRDTMEM_PLAIN is set")
    linker = sysconfig.get_config_var("LDSHARED")
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    if sys.implementation.name != "cpython" or not linker or not suffix:
        raise Unavailable("this Python does not say how extensions are built")
    target = folder / f"{NAME}{suffix}"
    include = sysconfig.get_path("include")
    options = ["-O3", "-fPIC", "-DNDEBUG", f"-I{include}", str(source), "-o", str(target)]
    run([*shlex.split(linker), *options])
    run([sys.executable, "-c", f"import {NAME}"], cwd=folder)
    return target


class LoopsHook(BuildHookInterface[Any]):
    """Adds the compiled loops to a wheel, and makes it one of this platform."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, or say why not."""
        self.folder = tempfile.TemporaryDirectory(prefix="crdtmem-build-")
        source = Path(self.root) / "crdtmem" / "loops.c"
        try:
            built = compile_loops(source, Path(self.folder.name))
        except Unavailable as reason:
            self.app.display_warning(f"crdtmem is built in plain Python: {reason}")
            return
        included = "force_include_editable" if version == "editable" else "force_include"
        build_data[included][str(built)] = built.name
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        self.app.display_info(f"crdtmem is built with compiled loops: {built.name}")

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Clean up."""
        self.folder.cleanup()
