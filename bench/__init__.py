"""Benchmarks: StreamEdge beside nginx, in one run on one machine.

The package has the load generators, the throttled origin, the peers' configurations and the table
of results. It starts every server as an operator would, in a separate process, and measures it
from outside. Exceptions are ``packaging`` and the access decision in ``signed_hits``, which call
the package's functions.
"""
