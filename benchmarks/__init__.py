"""Experiments that measure what the package promises, beside its rivals, in one run.

Run them from the project's root, with ``pip install -e '.[benchmarks]'`` done before:

``python -m benchmarks.throughput``
    CPU per order and orders per second of the client and of its rivals.
``python -m benchmarks.pacing``
    How well an unknown limit is found and held, against nginx if it is installed.
``python -m benchmarks.ledger``, ``workers``, ``memory``, ``startup``
    What a ledger costs; what a second worker brings; memory over a long stream; imports.

Each takes ``--help`` and ``--json FILE``. It exits with 0 if every goal is met, 1 if one is missed,
and 2 if the measurement itself failed. `harness` runs the processes and compares them, `server` is
every server, `_child` every measured client. All of them end with the benchmark.
"""
