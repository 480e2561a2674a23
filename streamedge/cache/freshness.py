"""How long what an origin said holds: RFC 9111 §4.2 as far as the core needs it.

Pure: header values and times in, seconds and answers out.
"""

from __future__ import annotations

IMMUTABLE_TTL_S = float("inf")


def directives(cache_control: str) -> dict[str, str]:
    """Cache-Control's directives in lower case; "" where one has no argument (RFC 9111 §5.2)."""
    found: dict[str, str] = {}
    for part in cache_control.split(","):
        name, _, argument = part.strip().partition("=")
        if name:
            found.setdefault(name.lower().strip(), argument.strip().strip('"'))
    return found


def stated_lifetime_s(cache_control: str) -> float | None:
    """Freshness lifetime that an answer states, in seconds from its validation; None: none.

    s-maxage outranks max-age (RFC 9111 §4.2.1); no-store, no-cache and private make it 0, so that
    every use is validated. A number that cannot be read counts as 0, as §4.2.1 asks.
    """
    said = directives(cache_control)
    if said.keys() & {"no-store", "no-cache", "private"}:
        return 0.0
    for name in ("s-maxage", "max-age"):
        if name in said:
            return float(said[name]) if said[name].isdecimal() else 0.0
    return None


def is_fresh(validated_s: float, lifetime_s: float, now_s: float) -> bool:
    """Whether an answer validated at ``validated_s`` may be used without asking the origin.

    A clock that went backwards makes everything stale rather than fresh for ever.
    """
    return 0 <= now_s - validated_s < lifetime_s
