"""The embedding child: OpenAI's `/v1/embeddings` over a sentence-transformers model, in one file.

Run by path in the engine's environment; imports nothing of this project. One thread computes, and what
arrives while it is busy is computed together next. Nothing is cut silently: a text that is longer than the
model reads, or a number of dimensions that the model does not have, is a 400 in OpenAI's error shape.
"""

import argparse
import asyncio
import base64
import json
import os
import queue
import threading
import time
from typing import Any

MAX_BODY_BYTES = 16 << 20
MAX_INPUTS = 2048
MAX_WAITING = 256
BATCH_TEXTS = 64


class BadRequest(Exception):
    """Answered in OpenAI's error shape."""

    def __init__(
        self, message: str, *, param: str | None = None, code: str | None = None, status: int = 400
    ) -> None:
        super().__init__(message)
        self.param, self.code, self.status = param, code, status

    def body(self) -> dict[str, Any]:
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


class Job:
    """One request's texts on their way through the computing thread."""

    def __init__(self, texts: list[str], loop: asyncio.AbstractEventLoop) -> None:
        self.texts, self.loop = texts, loop
        self.done: asyncio.Future[tuple[Any, int]] = loop.create_future()

    def settle(self, result: tuple[Any, int] | None, error: Exception | None) -> None:
        def finish() -> None:
            if self.done.cancelled():
                return
            if error is not None:
                self.done.set_exception(error)
            else:
                assert result is not None
                self.done.set_result(result)

        try:
            self.loop.call_soon_threadsafe(finish)
        except RuntimeError:  # the loop is closed: nobody waits any more
            return


class Embedder:
    """The model and the one thread that computes with it."""

    def __init__(self, directory: str, threads: int) -> None:
        import torch  # type: ignore[import-not-found]  # in the engine's environment only
        from sentence_transformers import SentenceTransformer  # type: ignore[import-not-found]  # likewise

        torch.set_num_threads(threads)
        self.model: Any = SentenceTransformer(
            directory, device="cuda" if torch.cuda.is_available() else "cpu"
        )
        self.dimensions = len(self.model.encode(["warm up"], show_progress_bar=False)[0])
        self.max_tokens = int(self.model.max_seq_length or 512)
        self.waiting: queue.Queue[Job] = queue.Queue(MAX_WAITING)
        threading.Thread(target=self._work, name="embed", daemon=True).start()

    async def embed(self, texts: list[str]) -> tuple[Any, int]:
        """((n, d) float32, number of prompt tokens)"""
        job = Job(texts, asyncio.get_running_loop())
        try:
            self.waiting.put_nowait(job)
        except queue.Full:
            raise BadRequest("The embedding server is overloaded.", code="overloaded", status=503) from None
        return await job.done

    def _work(self) -> None:
        while True:
            jobs = [self.waiting.get()]
            while sum(len(job.texts) for job in jobs) < BATCH_TEXTS:
                try:
                    jobs.append(self.waiting.get_nowait())
                except queue.Empty:
                    break
            self._compute([job for job in jobs if not job.done.cancelled()])

    def _compute(self, jobs: list[Job]) -> None:
        counted: list[tuple[Job, int]] = []
        for job in jobs:
            try:
                counted.append((job, self._count(job.texts)))
            except Exception as error:
                job.settle(None, error)
        texts = [text for job, _ in counted for text in job.texts]
        if not texts:
            return
        try:
            vectors = self.model.encode(
                texts, batch_size=BATCH_TEXTS, convert_to_numpy=True, show_progress_bar=False
            )
        except Exception as error:
            for job, _ in counted:
                job.settle(None, error)
            return
        start = 0
        for job, tokens in counted:
            job.settle((vectors[start : start + len(job.texts)], tokens), None)
            start += len(job.texts)

    def _count(self, texts: list[str]) -> int:
        encoded = self.model.tokenizer(texts, add_special_tokens=True, truncation=False, verbose=False)
        total = 0
        for index, ids in enumerate(encoded["input_ids"]):
            if len(ids) > self.max_tokens:
                raise BadRequest(
                    f"This model's maximum context length is {self.max_tokens} tokens, however you requested "
                    f"{len(ids)} tokens in input {index}. Please reduce the length of the input.",
                    param="input",
                    code="context_length_exceeded",
                )
            total += len(ids)
        return total


def texts_of(request: dict[str, Any]) -> list[str]:
    given = request.get("input")
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list):
        raise BadRequest("'input' must be a string or an array of strings.", param="input")
    if not texts or any(text == "" for text in texts):
        raise BadRequest("'input' must not be empty, nor hold an empty string.", param="input")
    if any(not isinstance(text, str) for text in texts):
        message = "'input' must be a string or an array of strings; this model does not take token ids."
        raise BadRequest(message, param="input")
    if len(texts) > MAX_INPUTS:
        raise BadRequest(f"'input' holds {len(texts)} texts; the maximum is {MAX_INPUTS}.", param="input")
    return texts


def check(request: dict[str, Any], dimensions: int, served_name: str) -> str:
    """The encoding format; raises BadRequest where the model cannot do what is asked."""
    model = request.get("model")
    if model != served_name:
        message = f"The model {model!r} does not exist."
        raise BadRequest(message, param="model", code="model_not_found", status=404)
    asked = request.get("dimensions")
    if asked is not None and asked != dimensions:
        raise BadRequest(
            f"This model has {dimensions} dimensions and does not support {asked!r}.", param="dimensions"
        )
    encoding = request.get("encoding_format") or "float"
    if encoding not in ("float", "base64"):
        raise BadRequest(
            f"'encoding_format' must be 'float' or 'base64', not {encoding!r}.", param="encoding_format"
        )
    return str(encoding)


def answer(vectors: Any, tokens: int, model: str, encoding: str) -> dict[str, Any]:
    import numpy

    rows = numpy.ascontiguousarray(vectors, dtype="<f4")
    encoded = [
        base64.b64encode(row.tobytes()).decode() if encoding == "base64" else row.tolist() for row in rows
    ]
    data = [{"object": "embedding", "index": index, "embedding": row} for index, row in enumerate(encoded)]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": model, "usage": usage}


class App:
    """The ASGI application: three addresses."""

    def __init__(self, embedder: Embedder, served_name: str) -> None:
        self.embedder, self.served_name, self.created = embedder, served_name, int(time.time())

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        try:
            status, body = 200, await self._answer(scope["method"], scope["path"], receive)
        except BadRequest as error:
            status, body = error.status, error.body()
        except Exception as error:
            print(f"embed: {type(error).__name__}: {error}", flush=True)
            failure = BadRequest("The embedding server failed.", status=500)
            status, body = 500, failure.body()
        encoded = json.dumps(body).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(encoded)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": encoded})

    async def _answer(self, method: str, path: str, receive: Any) -> dict[str, Any]:
        if (method, path) == ("GET", "/health"):
            return {"status": "ok"}
        if (method, path) == ("GET", "/v1/models"):
            model = {
                "id": self.served_name,
                "object": "model",
                "created": self.created,
                "owned_by": "switchgear",
            }
            return {"object": "list", "data": [model | {"max_model_len": self.embedder.max_tokens}]}
        if (method, path) == ("POST", "/v1/embeddings"):
            return await self._embeddings(await read(receive))
        raise BadRequest(f"Unknown address {method} {path}.", code="unknown_url", status=404)

    async def _embeddings(self, body: bytes) -> dict[str, Any]:
        try:
            request = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise BadRequest(f"The body is not valid JSON: {error}") from None
        if not isinstance(request, dict):
            raise BadRequest("The body must be a JSON object.")
        encoding = check(request, self.embedder.dimensions, self.served_name)
        vectors, tokens = await self.embedder.embed(texts_of(request))
        return answer(vectors, tokens, self.served_name, encoding)


async def read(receive: Any) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise BadRequest("The client left.", status=499)
        body += message.get("body", b"")
        if len(body) > MAX_BODY_BYTES:
            raise BadRequest(f"The body is larger than {MAX_BODY_BYTES} bytes.", status=413)
        if not message.get("more_body", False):
            return bytes(body)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--served-name", required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cores", default="")
    parser.add_argument("--shutdown-timeout", type=int, default=20)
    options = parser.parse_args()
    if options.cores:
        os.sched_setaffinity(0, {int(core) for core in options.cores.split(",")})

    import uvicorn

    print(f"embed: loading {options.model}", flush=True)
    app = App(Embedder(options.model, options.threads), options.served_name)
    print(f"embed: ready, {app.embedder.dimensions} dimensions, {app.embedder.max_tokens} tokens", flush=True)
    uvicorn.run(
        app,
        host=options.host,
        port=options.port,
        lifespan="off",
        access_log=False,
        log_level="warning",
        timeout_graceful_shutdown=options.shutdown_timeout,
    )


if __name__ == "__main__":
    main()
