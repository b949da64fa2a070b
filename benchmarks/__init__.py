"""Headstart beside its peers, one module a table: `python -m benchmarks.extraction --help`.

`python -m benchmarks` writes docs/benchmarks.md from the results of all tables.
"""
