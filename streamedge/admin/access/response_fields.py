"""Header fields of all responses of the admin address: what a browser may do with them. Pure.

The page's scripts, styles and data come from this address alone. No inline script or style runs,
no other site may frame or embed a response, and nothing is stored.
"""

from __future__ import annotations

POLICY = "; ".join(
    (
        "default-src 'none'",
        *(f"{kind} 'self'" for kind in ("script-src", "style-src", "img-src", "media-src")),
        *(f"{kind} 'self'" for kind in ("connect-src", "form-action")),
        "frame-ancestors 'none'",
        "base-uri 'none'",
    )
)
"""Content Security Policy Level 3."""

FIELDS = (
    ("content-security-policy", POLICY),
    ("x-content-type-options", "nosniff"),
    # A form's Origin would be null with no-referrer.
    ("referrer-policy", "same-origin"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("cache-control", "no-store"),
)
RESPONSE_FIELDS = tuple((name.encode(), value.encode()) for name, value in FIELDS)
RESPONSE_FIELD_NAMES = frozenset(name for name, _ in RESPONSE_FIELDS)
