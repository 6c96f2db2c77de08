"""Every answer survives its way through a stream and back."""

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.openai.answers import from_stream, to_stream

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
logprobs = st.none() | st.fixed_dictionaries({"content": st.lists(st.fixed_dictionaries({"token": texts}))})
calls = st.lists(
    st.fixed_dictionaries(
        {"id": texts, "type": st.just("function"),
         "function": st.fixed_dictionaries({"name": texts, "arguments": texts})}
    ),
    min_size=1, max_size=3,
)  # fmt: skip
said = st.fixed_dictionaries({"content": texts}, optional={"reasoning_content": texts.filter(bool)})
called = st.fixed_dictionaries({"content": st.none() | texts.filter(bool), "tool_calls": calls})


@st.composite
def answers(draw: st.DrawFn) -> dict[str, Any]:
    chat = draw(st.booleans())
    choices = []
    for index in range(draw(st.integers(1, 3))):
        body: dict[str, Any] = {"text": draw(texts)}
        if chat:
            body = {"message": {"role": "assistant", **draw(said | called)}}
        end = {"finish_reason": draw(st.sampled_from(["stop", "length", "tool_calls"]))}
        choices.append({"index": index, **body, "logprobs": draw(logprobs), **end})
    return {
        "id": "x-1",
        "object": "chat.completion" if chat else "text_completion",
        "choices": choices,
        "usage": {"prompt_tokens": draw(st.integers(0, 99)), "completion_tokens": draw(st.integers(0, 99))},
    }


@settings(max_examples=60)
@given(answers(), st.booleans())
def test_an_answer_survives_its_way_through_a_stream(answer: dict[str, Any], include_usage: bool) -> None:
    body = json.dumps(answer).encode()
    stream = to_stream(body, include_usage=include_usage, cost_usd=lambda _: 0.5)
    kept = answer if include_usage else {name: value for name, value in answer.items() if name != "usage"}
    assert json.loads(from_stream(stream)) == kept
