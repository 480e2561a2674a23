"""How long a test waits before it calls something hung.

A wait ends with its condition; this time passes only where a test fails. It is the same for all
waits and long, so that a slow machine fails no test.
"""

PATIENCE_S = 120.0
