"""``python -m crdtmem``: the same as the ``crdtmem`` command."""

from __future__ import annotations

from crdtmem.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    main()
