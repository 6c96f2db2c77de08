"""JSON merge patches with types: every field may be absent, null removes it (RFC 7396)."""

from typing import TYPE_CHECKING, Any, Union, get_type_hints

import msgspec
from msgspec import UNSET, UnsetType

from gateway.tenancy.terms import Terms


def given(patch: msgspec.Struct) -> dict[str, Any]:
    """Give the fields that were sent."""
    found: dict[str, Any] = msgspec.to_builtins(patch)
    return found


if TYPE_CHECKING:
    TermsPatch = msgspec.Struct
else:
    TermsPatch = msgspec.defstruct(
        "TermsPatch",
        [
            (name, Union[hint, None, UnsetType], UNSET)  # noqa: UP007  # made at run time
            for name, hint in get_type_hints(Terms, include_extras=True).items()
        ],
        frozen=True,
        kw_only=True,
        forbid_unknown_fields=True,
    )
    TermsPatch.__doc__ = "Terms to change: null removes a field, an absent one stays."
