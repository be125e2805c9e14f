"""What hpclaunch costs, measured beside what people use today.

``python -m benchmarks`` runs everything, ``python -m benchmarks noop roundtrip`` a part; ``--write`` puts the
tables into ``benchmarks/RESULTS.md``. Every contestant runs in a process of its own and all of them in turn,
several rounds, so that a machine that slows down for a while slows all of them down. Nothing here asserts a time.

A benchmark is a module of this package with ``BENCHMARK``, a :class:`benchmarks.rounds.Benchmark`.
"""
