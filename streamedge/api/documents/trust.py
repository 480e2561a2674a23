"""The key groups that a document trusts, and the trusted signer "self".

CloudFront's trusted signers are AWS accounts, each with its keys. Here "self" is this edge: all its
public keys, from config.toml and from the API. Other accounts have no keys here and are refused.
Pure.
"""

from __future__ import annotations

from streamedge.api.documents.documents import Document, entries_of, invalid
from streamedge.api.documents.inventory import Inventory
from streamedge.api.errors import ApiError

SELF = "self"


def trusted_key_groups(inventory: Inventory, document: Document, where: str) -> list[str]:
    """The names of the trusted key groups; [] if no signature is required. Raises ApiError."""
    names = [
        inventory.key_group_name(entry) for entry in _enabled(document, "TrustedKeyGroups", where)
    ]
    for signer in _enabled(document, "TrustedSigners", where):
        if signer != SELF:
            text = f"{where}: the account {signer} has no keys here; use self for this edge's keys"
            raise ApiError("TrustedSignerDoesNotExist", text)
        names.append(inventory.all_keys_name)
    return list(dict.fromkeys(names))


def _enabled(document: Document, member: str, where: str) -> list[str]:
    """The entries of an enabled list. An enabled list must not be empty."""
    members = document.get(member) or {}
    entries = entries_of(document, member)
    if bool(members.get("Enabled")) != bool(entries):
        raise invalid(f"{where}: {member}: Enabled must be true if there are Items, and only then")
    return entries
