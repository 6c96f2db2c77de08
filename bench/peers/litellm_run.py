"""LiteLLM's semantic cache in Redis, asked as its proxy asks it: with a request's parameters and its key.

It embeds all messages as one text and shares between requests of the same parameters and key.
"""

from typing import Any

import litellm  # type: ignore[import-not-found]  # it is in an environment of its own
from litellm.caching.caching import Cache  # type: ignore[import-not-found]  # as above
from stream import Row, Run, prompt_of  # type: ignore[import-not-found]  # run as a script, beside it

_SAMPLING = ("temperature", "seed", "tools", "response_format", "max_tokens")


class Table(litellm.CustomLLM):  # type: ignore[misc]  # of an untyped package
    """An embedding provider that looks vectors up."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self._run = run
        self._width = len(next(iter(run.vector_of.values())))

    def embedding(self, model: str, input: list[str], model_response: Any, **_: Any) -> Any:  # noqa: A002 - its name
        """Give a row for each text; of the text that probes the dimension, any."""
        (text,) = input if isinstance(input, list) else [input]
        vector = self._run.vector_of.get(text)
        values = [1.0] * self._width if vector is None else vector.tolist()
        model_response.data = [{"object": "embedding", "index": 0, "embedding": values}]
        model_response.model = model
        return model_response


def request(row: Row) -> dict[str, Any]:
    """Give the request of a question."""
    scope = row.get("scope") or {}
    messages = [{"role": "system", "content": scope["system"]}] if scope.get("system") else []
    messages.append({"role": "user", "content": row["text"]})
    asked = {"model": scope.get("model", "m"), "messages": messages}
    asked |= {name: scope[name] for name in _SAMPLING if scope.get(name) is not None}
    return asked | {"metadata": {"user_api_key": scope.get("tenant", "t")}}


def main() -> None:
    """Run one stream."""
    run = Run()
    missing = [row["id"] for row in run.rows if prompt_of(row) not in run.vector_of]
    assert not missing, f"no vector for {missing[0]}"
    litellm.custom_provider_map = [{"provider": "table", "custom_handler": Table(run)}]
    cache = Cache(
        type="redis-semantic",
        host="127.0.0.1",
        port=str(run.port),
        password="bench",
        similarity_threshold=run.threshold,
        redis_semantic_cache_embedding_model="table/minilm",
    )

    def ask(row: Row) -> str | None:
        found = cache.get_cache(**request(row))
        return None if found is None else str(found["id"])

    run.decide(ask, lambda row: cache.add_cache(f'{{"id": "{row["id"]}"}}', **request(row)))


if __name__ == "__main__":
    main()
