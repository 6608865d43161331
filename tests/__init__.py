"""The tests of crdtmem. Folders mirror the package; `python -m tests.bench` measures."""
