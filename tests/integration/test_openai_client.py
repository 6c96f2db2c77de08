"""openai-python with nothing changed but ``base_url`` and key: answers, streams, errors, its own retries."""

import asyncio
from collections.abc import Iterator

import openai
import pytest

from tests.fakes.processes import until
from tests.fakes.upstream import CACHED_TOKENS, PROMPT_TOKENS, script, text
from tests.integration.gateway import KEY, Gateway, Upstreams, config, model, running, unique


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, Upstreams]]:
    directory = tmp_path_factory.mktemp("openai")
    upstreams = Upstreams(2)
    models = model("small", upstreams.ports[:1], max_attempts=1)
    models += model("embed", upstreams.ports[1:], kind="embedding")
    with running(Gateway(directory, config(models, directory=directory)), upstreams) as house:
        until(house[0].ready)
        yield house


@pytest.fixture
def client(house: tuple[Gateway, Upstreams]) -> Iterator[openai.OpenAI]:
    with house[0].client() as client:
        yield client


def test_chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="small", messages=[{"role": "user", "content": script("ok")}]
    )
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == (text(5), "stop")
    assert answer.model == "small"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (PROMPT_TOKENS, 5)
    assert answer._request_id is not None
    assert answer._request_id.startswith("req_")


def test_chat_streamed(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="small",
        messages=[{"role": "user", "content": script("ok")}],
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    said = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert said == text(5)
    usage = chunks[-1].usage
    assert usage is not None
    assert usage.prompt_tokens_details is not None
    assert usage.prompt_tokens_details.cached_tokens == CACHED_TOKENS
    assert usage.model_extra == {"cost": pytest.approx(15.5e-6)}


@pytest.mark.parametrize("stream", [True, False])
def test_text_completions(client: openai.OpenAI, stream: bool) -> None:
    if stream:
        chunks = client.completions.create(model="small", prompt=script("ok"), stream=True)
        assert "".join(chunk.choices[0].text for chunk in chunks) == text(5)
    else:
        answer = client.completions.create(model="small", prompt=script("ok"))
        assert answer.choices[0].text == text(5)


def test_embeddings(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model="embed", input="words", encoding_format="float")
    assert answer.data[0].embedding == [5.0, -1.0]
    assert answer.model == "embed"


def test_models(client: openai.OpenAI) -> None:
    assert [one.id for one in client.models.list()] == ["small", "embed"]
    assert client.models.retrieve("small").id == "small"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("absent")


def test_its_error_classes(house: tuple[Gateway, Upstreams], client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="absent", messages=[{"role": "user", "content": "x"}])
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    assert missing.value.request_id is not None
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="small", messages=[])
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="wrong").models.list()
    with pytest.raises(openai.InternalServerError) as down:
        client.chat.completions.create(model="small", messages=[{"role": "user", "content": script("500")}])
    assert down.value.code == "upstream_error"


def test_it_tries_again_what_is_worth_it_and_only_that(house: tuple[Gateway, Upstreams]) -> None:
    """With its own two retries: a 429 comes again, a failure that the gateway has retried itself does not."""
    gateway, upstreams = house
    until(gateway.ready)
    seen = {}
    for fault in ("429", "500"):
        tag = unique()
        with gateway.client() as client, pytest.raises(openai.APIStatusError):
            client.with_options(max_retries=2).chat.completions.create(
                model="small", messages=[{"role": "user", "content": script(fault, tag=tag)}]
            )
        seen[fault] = len(upstreams.seen(tag)["requests"])
    assert seen == {"429": 3, "500": 1}


def test_many_streams_of_an_async_client_at_once(house: tuple[Gateway, Upstreams]) -> None:
    gateway, _ = house
    until(gateway.ready)

    async def one(client: openai.AsyncOpenAI, n: int) -> str:
        stream = await client.chat.completions.create(
            model="small", messages=[{"role": "user", "content": script("ok", n=n)}], stream=True
        )
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def main() -> list[str]:
        async with openai.AsyncOpenAI(base_url=gateway.base_url + "/", api_key=KEY, max_retries=0) as client:
            return await asyncio.gather(*(one(client, n) for n in range(1, 81)))

    assert asyncio.run(main()) == [text(n) for n in range(1, 81)]
    until(gateway.idle)
