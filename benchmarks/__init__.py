"""Experiments that measure what the package promises, beside its rivals, in one run.

Run them from the project's root, with ``pip install -e '.[benchmarks]'`` done before:

``python -m benchmarks.throughput``
    CPU per order and orders per second of the client and of its rivals.
``python -m benchmarks.pacing``
    How well an unknown limit is found and held, against nginx.
``python -m benchmarks.memory``, ``reading``, ``workers``, ``startup``
    Memory over a long stream, a long ledger and its resume; what a second worker brings; imports.

Each takes ``--help``, ``--json FILE`` and ``--write DOCUMENT``. It exits with 0 if every goal is
met, 1 if one is missed, and 2 if the measurement itself failed. `harness` runs the processes and
compares them, `server` is every server, `_child` every measured client. All of them end with it.
"""
