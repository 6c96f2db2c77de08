"""Whether an answer has the shape that was asked for."""

from typing import Any

import msgspec
import pytest

from gateway.openai.shapes import fits, keeps

PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": ["integer", "null"]},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}},
    },
    "required": ["name"],
    "additionalProperties": False,
}
AS_PERSON = msgspec.json.encode({"type": "json_schema", "json_schema": {"name": "p", "schema": PERSON}})


@pytest.mark.parametrize(
    ("answer", "kept"),
    [
        ('{"name": "Ana", "age": 3, "tags": ["a", "b"]}', True),
        ('{"name": "Ana", "age": null}', True),
        ('{"name": "Ana", "age": 3.0}', True),  # JSON has one kind of number
        ('{"name": "Ana", "age": 3.5}', False),
        ('{"name": "Ana", "age": true}', False),
        ('{"age": 3}', False),
        ('{"name": "Ana", "shoe": 40}', False),
        ('{"name": "Ana", "tags": ["c"]}', False),
        ('["Ana"]', False),
        ('{"name": "Ana"', False),
        ("Ana", False),
        ("[" * 5000, False),
    ],
)
def test_an_answer_keeps_to_its_schema_or_not(answer: str, kept: bool) -> None:
    assert keeps(answer, AS_PERSON) is kept


def test_json_without_a_schema_is_an_object_and_text_is_anything() -> None:
    some = b'{"type": "json_object"}'
    assert [keeps(text, some) for text in ('{"a": 1}', "[1]", "one")] == [True, False, False]
    for asked in (None, b'{"type": "text"}', b"null"):
        assert keeps("one", asked)


@pytest.mark.parametrize(
    "schema",
    [True, None, [], {"$ref": "#/x"}, {"anyOf": [{"type": "string"}]}, {"type": "date"}, {"type": [7]},
     {"required": "name"}, {"properties": []}, {"enum": 3}, {"items": [{"type": "string"}]}],
)  # fmt: skip
def test_what_is_not_known_of_a_schema_is_taken_to_hold(schema: Any) -> None:
    for value in ({"a": 1}, [1, None], 1, "x", None):
        assert fits(value, schema)


def test_a_schema_may_be_deeper_than_anybody_looks() -> None:
    schema: Any = {"type": "string"}
    value: Any = 1
    for _ in range(200):
        schema, value = {"items": schema}, [value]
    assert fits(value, schema)
