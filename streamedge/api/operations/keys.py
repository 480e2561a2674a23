"""Operations on public keys and key groups, whose signatures distributions may trust.

The id of a key is the Key-Pair-Id of its signatures. A key cannot be replaced under its id, so a
cached verification never applies to another key.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from streamedge.api.documents.documents import Document, invalid, required, with_defaults
from streamedge.api.documents.inventory import Inventory
from streamedge.api.errors import ApiError
from streamedge.api.operations import file_resources
from streamedge.api.operations.resource_calls import (
    KindSpec,
    ResourceCalls,
    new_id,
    new_uuid,
    page_of,
    timestamp,
)
from streamedge.api.protocol.service import Call, Handler, Output
from streamedge.api.transactions import Resources
from streamedge.control.resources import Kind, Resource

KEYS_PER_GROUP_MAX = 100


def key_handlers(resources: Resources) -> dict[str, Handler]:
    """The handlers by the names of CloudFront's operations."""

    def list_keys(call: Call) -> Output:
        page = page_of(call, PUBLIC_KEYS.all(resources.inventory()))
        entries = [
            {
                "Id": key.id,
                "Name": key.document["Name"],
                "CreatedTime": timestamp(key.created_s),
                "EncodedKey": key.document["EncodedKey"],
                "Comment": key.document["Comment"],
            }
            for key in page.entries
        ]
        return {"PublicKeyList": page.listing(entries, has_marker=False)}

    def list_groups(call: Call) -> Output:
        inventory = resources.inventory()
        page = page_of(call, KEY_GROUPS.all(inventory))
        entries = [{"KeyGroup": _group_output(inventory, group)} for group in page.entries]
        return {"KeyGroupList": page.listing(entries, has_marker=False)}

    return {
        **ResourceCalls(PUBLIC_KEYS, resources).handlers(),
        **ResourceCalls(KEY_GROUPS, resources).handlers(),
        "ListPublicKeys": list_keys,
        "ListKeyGroups": list_groups,
    }


def _complete_key(document: Document) -> dict[str, Any]:
    required(document, "CallerReference")
    return with_defaults(document, {"Comment": ""})


def _key_output(_inventory: Inventory, key: Resource) -> dict[str, Any]:
    return {
        "Id": key.id,
        "CreatedTime": timestamp(key.created_s),
        "PublicKeyConfig": dict(key.document),
    }


def _check_key_update(old: Document, new: Document) -> None:
    for member in ("CallerReference", "EncodedKey"):
        if old[member] != required(new, member):
            raise ApiError("CannotChangeImmutablePublicKeyFields", f"{member} cannot change")


def _complete_group(document: Document) -> dict[str, Any]:
    keys = list(required(document, "Items"))
    if not keys or len(set(keys)) != len(keys):
        raise invalid("Items must be ids of public keys, each one once")
    if len(keys) > KEYS_PER_GROUP_MAX:
        text = f"a key group has at most {KEYS_PER_GROUP_MAX} keys"
        raise ApiError("TooManyPublicKeysInKeyGroup", text)
    return with_defaults(document, {"Comment": ""})


def _group_output(_inventory: Inventory, group: Resource) -> dict[str, Any]:
    return {
        "Id": group.id,
        "LastModifiedTime": timestamp(group.modified_s),
        "KeyGroupConfig": dict(group.document),
    }


PUBLIC_KEYS = KindSpec(
    kind=Kind.PUBLIC_KEY,
    member="PublicKey",
    config_member="PublicKeyConfig",
    path="public-key",
    missing="NoSuchPublicKey",
    exists="PublicKeyAlreadyExists",
    in_use="PublicKeyInUse",
    too_many="TooManyPublicKeys",
    make_id=partial(new_id, "K"),
    name_of=lambda document: str(required(document, "Name")),
    complete=_complete_key,
    to_output=_key_output,
    is_repeatable=True,
    from_file=file_resources.public_keys,
    check_update=_check_key_update,
    used_by=(Kind.KEY_GROUP,),
    reference="Items",
)
KEY_GROUPS = KindSpec(
    kind=Kind.KEY_GROUP,
    member="KeyGroup",
    config_member="KeyGroupConfig",
    path="key-group",
    missing="NoSuchResource",
    exists="KeyGroupAlreadyExists",
    in_use="ResourceInUse",
    too_many="TooManyKeyGroups",
    make_id=new_uuid,
    name_of=lambda document: str(required(document, "Name")),
    complete=_complete_group,
    to_output=_group_output,
    from_file=file_resources.key_groups,
    used_by=(Kind.DISTRIBUTION,),
    reference="TrustedKeyGroups",
)
