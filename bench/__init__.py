"""Benchmarks: StreamEdge beside nginx, in one run on one machine.

Owns the load generators, the throttled origin, the peers' configurations and the table. It starts
every server as an operator would, in a process of its own, and reaches into none of them; the one
exception is ``packaging``, which times the packager in its own process.
"""
