"""Experiments that measure what the package claims, beside its rivals, in one run.

Run them from the project's root, with ``pip install -e '.[benchmarks]'`` done before:

``python -m benchmarks.throughput``
    CPU per order and orders per second of the client and of seven rivals.
``python -m benchmarks.memory``
    The memory of the process over the length of a stream.
``python -m benchmarks.reading``
    CPU of reading a Shopify CSV and a WooCommerce JSON, beside `csv.DictReader` and ijson.
``python -m benchmarks.startup``
    How long the imports and the command's ``--help`` take.
``python -m benchmarks.pacing``
    How well an unknown rate limit is found and held, against nginx where it is installed;
    ``pacing latency``, ``pacing connections`` and ``pacing matrix`` ask the neighbouring questions.

Each takes ``--help`` and ``--json FILE``, and ends with 0 where every target is met, 1 where one is
missed, and 2 where the measurement itself failed. Every server, and every client that is measured,
has a process of its own, and all of them end with the benchmark.
"""
