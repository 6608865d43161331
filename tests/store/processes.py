"""Running other processes against a store: writers to be killed, hostile surroundings."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import signal
import struct
import subprocess
import sys

from tests.capabilities import CAPABILITIES, ROOT, Capability


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT)}


def start_writer(url: str, *, count: int = 0, size: int = 300) -> subprocess.Popen[str]:
    """A writer, as soon as it has opened the store."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.store.writer", url, str(count), str(size)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
        cwd=ROOT,
    )
    assert process.stdout is not None
    first = process.stdout.readline()
    assert first.startswith("open"), first
    return process


def kill(process: subprocess.Popen[str]) -> int:
    """Kill a writer; return the last number that it acknowledged, 0 if none."""
    process.send_signal(signal.SIGKILL)
    with process:  # which waits, and closes the pipes
        assert process.stdout is not None
        # Not `communicate`: that would miss what the stream has already buffered.
        lines = [line for line in process.stdout if line.endswith("\n")]
    return int(lines[-1]) if lines else 0


def write_and_die(url: str, count: int, size: int = 300) -> None:
    """Leave a store behind as a killed process does, after ``count`` acknowledged writes."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.store.writer", url, str(count), str(size), "die"],
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    assert len(done.stdout.splitlines()) == count + 1


def run_script(script: str, *arguments: str, before: str = "") -> str:
    """Run Python source in a process of its own; return what it printed.

    ``before`` is a shell line to run first, in a private mount namespace.
    """
    command = [sys.executable, "-c", script, *arguments]
    if before:
        command = ["unshare", "-m", "sh", "-c", f'{before} && exec "$@"', "sh", *command]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment(), cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def can_mount() -> bool:
    """Whether this process may make mounts of its own."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        return False
    probe = subprocess.run(
        ["unshare", "-m", "sh", "-c", "mount -t tmpfs none /mnt"], capture_output=True, check=False
    )
    return probe.returncode == 0


_FSYNC_CALLS = {
    # Machine: audit architecture, then the numbers of fsync, fdatasync, sync_file_range.
    "x86_64": (0xC000003E, (74, 75)),
    "aarch64": (0xC00000B7, (82, 83)),
}


def can_break_fsync() -> bool:
    return sys.platform == "linux" and platform.machine() in _FSYNC_CALLS


def break_fsync() -> None:
    """From here on every fsync of this process fails with EIO, by a seccomp filter."""
    architecture, calls = _FSYNC_CALLS[platform.machine()]

    def instruction(code: int, if_true: int, if_false: int, value: int) -> bytes:
        return struct.pack("<HBBI", code, if_true, if_false, value)

    load, jump_equal, answer = 0x20, 0x15, 0x06
    program = b"".join(
        (
            instruction(load, 0, 0, 4),
            instruction(jump_equal, 0, 3, architecture),
            instruction(load, 0, 0, 0),
            instruction(jump_equal, 2, 0, calls[0]),
            instruction(jump_equal, 1, 0, calls[1]),
            instruction(answer, 0, 0, 0x7FFF0000),  # allow
            instruction(answer, 0, 0, 0x00050000 | 5),  # fail with EIO
        )
    )
    buffer = ctypes.create_string_buffer(program, len(program))
    header = ctypes.create_string_buffer(
        struct.pack("@HP", len(program) // 8, ctypes.addressof(buffer))
    )
    library = ctypes.CDLL(None, use_errno=True)
    no_new_privileges, set_seccomp, filter_mode = 38, 22, 2
    assert library.prctl(no_new_privileges, 1, 0, 0, 0) == 0
    assert library.prctl(set_seccomp, filter_mode, header, 0, 0) == 0, os.strerror(
        ctypes.get_errno()
    )


CAPABILITIES["mounts"] = Capability(can_mount, False, "run as root with the right to mount")
CAPABILITIES["seccomp"] = Capability(can_break_fsync, False, "use Linux on x86_64 or aarch64")
