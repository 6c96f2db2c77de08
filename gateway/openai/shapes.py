"""Whether an answer has the shape that ``response_format`` asked for, as far as a glance tells.

Pure. Of JSON Schema only what a broken answer breaks is looked at: type, enum, const, required, properties,
additionalProperties, items. What is not known here (references, combinations, formats) is taken to hold.
"""

from typing import Any

import msgspec
from msgspec import Raw

_DEEP = 32  # what lies deeper is taken to hold
_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,), "array": (list,), "string": (str,), "boolean": (bool,), "null": (type(None),),
    "integer": (int,), "number": (int, float),
}  # fmt: skip


class _Named(msgspec.Struct):
    schema: Any = None


class _Format(msgspec.Struct):
    type: str = "text"
    json_schema: _Named | None = None


_decode_format = msgspec.json.Decoder(_Format).decode


def keeps(text: str, asked: Raw | bytes | None) -> bool:
    """Tell whether an answer keeps to a ``response_format`` in raw JSON; also where none asks for JSON."""
    if asked is None or b"json_" not in bytes(asked):
        return True
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return False
    try:
        wanted = _decode_format(asked)
    except msgspec.DecodeError:
        return True  # the upstream has its own opinion of it
    if wanted.type == "json_object":
        return isinstance(value, dict)
    return wanted.json_schema is None or fits(value, wanted.json_schema.schema)


def fits(value: Any, schema: Any, deep: int = 0) -> bool:
    """Tell whether a JSON value fits a JSON Schema, as far as this module reads one."""
    if not isinstance(schema, dict) or deep > _DEEP:
        return True
    if not _has_type(value, schema.get("type")):
        return False
    if "const" in schema and value != schema["const"]:
        return False
    if isinstance(schema.get("enum"), list) and value not in schema["enum"]:
        return False
    if isinstance(value, dict):
        return _object_fits(value, schema, deep)
    if isinstance(value, list):
        return all(fits(one, schema.get("items"), deep + 1) for one in value)
    return True


def _has_type(value: Any, wanted: Any) -> bool:
    names = wanted if isinstance(wanted, list) else [wanted]
    if any(not isinstance(name, str) or name not in _TYPES for name in names):
        return True
    if isinstance(value, bool):
        return "boolean" in names
    whole = isinstance(value, float) and value.is_integer() and "integer" in names
    return whole or any(isinstance(value, _TYPES[name]) for name in names)


def _object_fits(value: dict[str, Any], schema: dict[str, Any], deep: int) -> bool:
    known = schema.get("properties")
    known = known if isinstance(known, dict) else {}
    required = schema.get("required")
    if isinstance(required, list) and any(name not in value for name in required):
        return False
    closed = schema.get("additionalProperties") is False and "patternProperties" not in schema
    if closed and any(name not in known for name in value):
        return False
    return all(fits(one, known.get(name), deep + 1) for name, one in value.items())
