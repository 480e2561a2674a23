"""How long responses are fresh where neither the origin nor a policy says so, in seconds.

These are CloudFront's defaults. The schema, the behaviors without a policy and the freshness rules
all take them from here.
"""

from __future__ import annotations

MIN_TTL_S = 0.0
DEFAULT_TTL_S = 86_400.0  # a response without a stated lifetime
MAX_TTL_S = 31_536_000.0
ERROR_TTL_S = 10.0  # 404, 414, 500 to 504, and a status with an error page
