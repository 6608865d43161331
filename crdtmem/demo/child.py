"""One region's process in the demo: a node that does not outlive whoever started it.

Problem: a demo that is killed leaves three nodes behind, with their ports and files.

Idea: the demo holds the write end of the node's standard input and never writes to
it. However the demo ends, the kernel closes that pipe; a thread here waits for just
that, and asks the node to stop in the ordinary way.

The one argument is a JSON object of settings, by their dotted names.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading

from crdtmem.config import load_settings
from crdtmem.errors import CrdtmemError
from crdtmem.node import run_node

__all__ = ["main"]


def _stop_with_parent() -> None:
    # Reads block until the pipe is closed: nobody ever writes to it.
    while os.read(0, 4096):
        continue
    os.kill(os.getpid(), signal.SIGTERM)


def main(arguments: list[str]) -> int:
    """Run a node with the settings in ``arguments[0]``; return the process's exit code."""
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    try:
        run_node(load_settings(None, {}, json.loads(arguments[0])), as_json=True)
    except CrdtmemError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
