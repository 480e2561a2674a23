"""Access to the admin address, for tests."""

from __future__ import annotations

from streamedge.admin.access.control import AccessControl
from streamedge.config.schema.admin import AdminConfig
from streamedge.coordination.shared_state import SharedState

PASSWORD = "correct horse"
# As streamedge password prints it, but with a cheaper N and P.
PASSWORD_HASH = "scrypt:14:8:1:AAAAAAAAAAAAAAAAAAAAAA:cvKDSIR8vA_24EQVf1tBGSj9VimKoCjA7Ny1Asw1kK8"


def users(**roles: str) -> AdminConfig:
    """``[admin]`` with users who all have PASSWORD."""
    entries = {name: {"password": PASSWORD_HASH, "role": role} for name, role in roles.items()}
    return AdminConfig.model_validate({"users": entries})


def open_access(
    shared: SharedState, config: AdminConfig | None = None, *, is_unix: bool = False
) -> AccessControl:
    """Access by ``config``; by default without users."""
    return AccessControl(
        lambda: config or AdminConfig(), shared.open_log("control"), is_unix=is_unix
    )
