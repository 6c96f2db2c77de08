"""openai-python with only `base_url` and the key changed, sync and async, against the whole appliance."""

import asyncio
import json
import secrets
from typing import Any, Literal

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam
from pydantic import BaseModel

from tests.appliance import Appliance
from tests.fakes.processes import until

HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Say hello."}]


def ask(client: openai.OpenAI, **fields: Any) -> Any:
    wish = {"model": "small", "messages": HELLO, "max_tokens": 6, "temperature": 0, **fields}
    return client.chat.completions.create(**wish)


def key_of(appliance: Appliance, *limits: str) -> str:
    """Make a key and wait until the running gateway knows it; asking for a missing model costs it nothing."""
    config = ("--config", str(appliance.home / "switchgear.toml"))
    made = appliance.switchgear("keys", "create", *config, "--name", secrets.token_hex(4), *limits, "--json")
    text = str(json.loads(made)["key"])
    body = {"model": "none", "messages": HELLO}
    until(lambda: appliance.post("/chat/completions", body, key=text).status != 401)
    return text


def test_chat_buffered_and_streamed_say_the_same(client: openai.OpenAI) -> None:
    answer = ask(client)
    assert (answer.model, answer.object) == ("small", "chat.completion")
    assert answer.choices[0].finish_reason in ("length", "stop")
    assert answer._request_id.startswith("req_")
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    pieces = list(ask(client, stream=True))
    assert "".join(one.choices[0].delta.content or "" for one in pieces) == answer.choices[0].message.content
    assert pieces[-1].choices[0].finish_reason == answer.choices[0].finish_reason
    assert all(one.usage is None for one in pieces)


def test_usage_and_its_cost_come_with_the_stream_that_asked(client: openai.OpenAI) -> None:
    *pieces, last = list(ask(client, stream=True, stream_options={"include_usage": True}))
    assert last.choices == []
    assert all(one.usage is None for one in pieces)
    assert last.usage.completion_tokens == 6
    assert last.usage.model_extra["cost"] > 0


def test_completions(client: openai.OpenAI) -> None:
    wish: Any = {"model": "small", "prompt": "The capital of France is", "max_tokens": 4, "temperature": 0}
    answer = client.completions.create(**wish)
    pieces = client.completions.create(**wish, stream=True)
    assert "".join(one.choices[0].text for one in pieces) == answer.choices[0].text != ""


def test_embeddings_by_default_as_floats_and_with_dimensions(client: openai.OpenAI) -> None:
    by_default = client.embeddings.create(
        model="embed", input=["hello", "world"]
    )  # the client asks for base64
    floats = client.embeddings.create(model="embed", input=["hello", "world"], encoding_format="float")
    assert [len(one.embedding) for one in by_default.data] == [384, 384]
    for one, other in zip(by_default.data, floats.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, abs=1e-6)
    assert by_default.usage.prompt_tokens == floats.usage.prompt_tokens > 0
    assert len(client.embeddings.create(model="embed", input="x", dimensions=384).data[0].embedding) == 384
    with pytest.raises(openai.BadRequestError) as refused:
        client.embeddings.create(model="embed", input="x", dimensions=128)
    assert refused.value.param == "dimensions"


def test_models(client: openai.OpenAI) -> None:
    assert [one.id for one in client.models.list()] == ["small", "large", "embed", "auto"]
    assert client.models.retrieve("auto").id == "auto"
    with pytest.raises(openai.NotFoundError) as missing:
        client.models.retrieve("none")
    assert missing.value.code == "model_not_found"


def test_raw_responses_and_their_headers(client: openai.OpenAI) -> None:
    wish: Any = {"model": "small", "messages": HELLO, "max_tokens": 1}
    raw = client.chat.completions.with_raw_response.create(**wish)
    assert raw.parse()._request_id == raw.headers["x-request-id"] == raw.request_id
    assert int(raw.headers["openai-processing-ms"]) >= 0
    assert raw.headers["x-switchgear-model"] == "small"
    assert raw.headers["x-switchgear-replica"] == "small-0"
    assert float(raw.headers["x-switchgear-cost-usd"]) > 0
    with client.chat.completions.with_streaming_response.create(**wish, stream=True) as streamed:
        assert streamed.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in streamed.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"


def test_the_stream_helper(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(
        model="small",
        messages=HELLO,
        stream_options={"include_usage": True},
        extra_body={"structured_outputs": {"choice": ["Hello there!"]}},
    ) as stream:
        deltas = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion()
    assert "".join(deltas) == final.choices[0].message.content == "Hello there!"
    assert final.usage is not None
    assert final.usage.completion_tokens > 1


class Capital(BaseModel):
    """What the model must fill in."""

    city: Literal["Paris", "Rome", "Oslo"]
    big: bool


def test_parsing_into_a_pydantic_model(client: openai.OpenAI) -> None:
    answer = client.chat.completions.parse(
        model="large",
        messages=[{"role": "user", "content": "The capital of France, as JSON?"}],
        response_format=Capital,
        temperature=0,
        max_tokens=80,
    )
    assert answer.choices[0].message.parsed is not None
    assert answer.choices[0].message.parsed.city in ("Paris", "Rome", "Oslo")


def test_a_tool_call_as_the_client_reads_it(client: openai.OpenAI) -> None:
    parameters = {"type": "object", "properties": {"city": {"enum": ["Paris"]}}, "required": ["city"]}
    tool: Any = {"type": "function", "function": {"name": "get_weather", "parameters": parameters}}
    messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Weather in Paris?"}]
    with client.chat.completions.stream(
        model="large", messages=messages, tools=[tool], tool_choice="required", temperature=0, max_tokens=60
    ) as stream:
        (call,) = stream.get_final_completion().choices[0].message.tool_calls or []
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments)["city"] == "Paris"


@pytest.mark.parametrize(
    ("fields", "kind", "code", "param"),
    [
        ({"temperature": -1}, openai.BadRequestError, "invalid_value", "temperature"),
        ({"max_tokens": "x"}, openai.BadRequestError, "invalid_value", "max_tokens"),
        ({"messages": []}, openai.BadRequestError, "invalid_value", "messages"),
        ({"seed": "x"}, openai.BadRequestError, "invalid_value", "seed"),
        ({"model": "none"}, openai.NotFoundError, "model_not_found", "model"),
        ({"model": "embed"}, openai.BadRequestError, "invalid_value", "model"),
    ],
    ids=str,
)
@pytest.mark.parametrize("stream", [False, True], ids=["buffered", "streamed"])
def test_wrong_requests_raise_the_clients_own_classes(
    client: openai.OpenAI,
    stream: bool,
    fields: dict[str, Any],
    kind: type[openai.APIStatusError],
    code: str,
    param: str,
) -> None:
    with pytest.raises(kind) as refused:
        ask(client, stream=stream, **fields)
    error = refused.value
    assert (error.type, error.code, error.param) == ("invalid_request_error", code, param)
    assert (error.request_id or "").startswith("req_")


def test_a_wrong_key_is_an_authentication_error(appliance: Appliance) -> None:
    with openai.OpenAI(base_url=appliance.base_url, api_key="sk-wrong") as stranger:
        for attempt in (lambda: ask(stranger), lambda: list(stranger.models.list())):
            with pytest.raises(openai.AuthenticationError) as refused:
                attempt()
            assert refused.value.code == "invalid_api_key"


def test_a_key_without_the_model_is_denied(appliance: Appliance) -> None:
    key = key_of(appliance, "--models", "large")
    with openai.OpenAI(base_url=appliance.base_url, api_key=key) as narrow:
        assert [one.id for one in narrow.models.list()] == ["large"]
        with pytest.raises(openai.PermissionDeniedError) as refused:
            ask(narrow)
    assert (refused.value.code, refused.value.param) == ("model_not_allowed", "model")


def test_a_body_over_the_limit_is_413(client: openai.OpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as refused:
        ask(client, messages=[{"role": "user", "content": "x" * (21 << 20)}])
    assert (refused.value.status_code, refused.value.code) == (413, "request_too_large")


def test_a_rate_limit_says_when_to_come_back(appliance: Appliance) -> None:
    key = key_of(appliance, "--rpm", "1")
    with openai.OpenAI(base_url=appliance.base_url, api_key=key, max_retries=0) as limited:
        headers = limited.chat.completions.with_raw_response.create(
            model="small", messages=HELLO, max_tokens=1
        ).headers
        limit, left = headers["x-ratelimit-limit-requests"], headers["x-ratelimit-remaining-requests"]
        assert (limit, left) == ("1", "0")
        with pytest.raises(openai.RateLimitError) as refused:
            ask(limited)
    assert (refused.value.code, refused.value.type) == ("rate_limit_exceeded", "requests")
    assert 0 < int(refused.value.response.headers["retry-after"]) <= 60


def test_an_empty_purse_is_not_worth_a_retry(appliance: Appliance) -> None:
    key = key_of(appliance, "--prepaid-usd", "0")
    with (
        openai.OpenAI(base_url=appliance.base_url, api_key=key) as poor,
        pytest.raises(openai.RateLimitError) as refused,
    ):
        ask(poor)
    assert refused.value.code == "insufficient_quota"
    assert refused.value.response.headers["x-should-retry"] == "false"


def test_the_async_client_and_requests_side_by_side(appliance: Appliance) -> None:
    async def run() -> None:
        async with openai.AsyncOpenAI(base_url=appliance.base_url, api_key=appliance.api_key) as client:
            wish: Any = {"model": "small", "messages": HELLO, "max_tokens": 6, "temperature": 0}

            async def streamed() -> str:
                text = ""
                async for piece in await client.chat.completions.create(**wish, stream=True):
                    text += piece.choices[0].delta.content or ""
                return text

            buffered, stream, completion, embedding, models = await asyncio.gather(
                client.chat.completions.create(**wish),
                streamed(),
                client.completions.create(model="small", prompt="1, 2,", max_tokens=3),
                client.embeddings.create(model="embed", input="hello"),
                client.models.list(),
            )
            assert buffered.choices[0].message.content
            assert stream
            assert completion.choices[0].text
            assert len(embedding.data[0].embedding) == 384
            assert len(models.data) == 4
            with pytest.raises(openai.NotFoundError):
                await client.chat.completions.create(**{**wish, "model": "none"})

    asyncio.run(run())
