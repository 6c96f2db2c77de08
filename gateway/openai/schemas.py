"""Requests in OpenAI's dialect: what the gateway reads of a body, and how it hands the body on.

A body is kept as its top-level members in raw JSON. The gateway types only what it acts on; every other
member, known to OpenAI or not, reaches the upstream byte for byte.
"""

import re
from functools import lru_cache
from hashlib import blake2b, sha256
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Raw

from gateway.errors import InvalidRequest

Fields = dict[str, Raw]

BYTES_PER_TOKEN = 4  # the usual rule of thumb for an estimate before the tokenizer has spoken
DEFAULT_OUTPUT_TOKENS = 256


class StreamOptions(msgspec.Struct):
    """``stream_options``."""

    include_usage: bool | None = None


class Common(msgspec.Struct, kw_only=True):
    """What chat and text completions share."""

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    n: int | None = None
    return_token_ids: bool | None = None
    priority: int | None = None
    user: str | None = None
    safety_identifier: str | None = None
    service_tier: str | None = None


class Message(msgspec.Struct):
    """One message; parts of other kinds than text are left to the upstream."""

    role: str
    content: str | list[Any] | None = None


class ChatFields(Common, kw_only=True):
    """``/v1/chat/completions``."""

    messages: list[Message]
    max_completion_tokens: int | None = None
    tools: list[Raw] | None = None


class CompletionFields(Common, kw_only=True):
    """``/v1/completions``."""

    prompt: str | list[Any]
    echo: bool | None = None


class EmbeddingFields(msgspec.Struct, kw_only=True):
    """``/v1/embeddings``."""

    model: str
    input: str | list[Any]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None
    user: str | None = None


AnyFields = ChatFields | CompletionFields | EmbeddingFields


class Endpoint(msgspec.Struct, frozen=True):
    """One resource of the API: its path under ``/v1``, the kind of model it needs, its typed fields."""

    path: str
    kind: Literal["chat", "embedding"]
    operation: str
    fields: type[ChatFields] | type[CompletionFields] | type[EmbeddingFields]


CHAT = Endpoint("/chat/completions", "chat", "chat", ChatFields)
COMPLETIONS = Endpoint("/completions", "chat", "text_completion", CompletionFields)
EMBEDDINGS = Endpoint("/embeddings", "embedding", "embeddings", EmbeddingFields)


class Inference(msgspec.Struct):
    """A parsed request: raw members, typed members, and what follows from them.

    ``prompt_bytes`` is the size of what the model reads, the same for a streamed and a buffered request.
    """

    endpoint: Endpoint
    fields: Fields
    typed: AnyFields
    prompt_bytes: int
    stream: bool = False
    """Whether the answer is wanted as server-sent events."""
    prompt_tokens_estimate: int = 0
    """Tokens of the prompt as estimated at admission; corrected by the upstream's usage."""
    output_tokens_estimate: int = 0
    """Tokens of the answer as estimated at admission."""
    choices: int = 1
    """How many choices the answer must finish; 0 of what has none."""
    wanted_tokens: int | None = None
    """The client's own limit of the tokens of a choice."""
    exact: dict[str, bytes] = {}
    """The keys of its kept answers, by the name under which they are shared, as far as they were found."""
    quote: object = None
    """What the books asked for it last: of a request that is remembered, it may hold again."""

    @property
    def model(self) -> str:
        """The model or route that the client named."""
        return self.typed.model

    @property
    def include_usage(self) -> bool:
        """Whether the client asked for the usage chunk of a stream."""
        typed = self.typed
        return isinstance(typed, Common) and bool(typed.stream_options and typed.stream_options.include_usage)

    @property
    def end_user(self) -> str:
        """Whom the client says it asks for; empty where it does not say."""
        typed = self.typed
        named = typed.safety_identifier if isinstance(typed, Common) else None
        return named or typed.user or ""

    @property
    def metadata(self) -> str:
        """The client's own labels as JSON text; empty where there are none. Raises InvalidRequest."""
        raw = self.fields.get("metadata")
        return "" if raw is None else _labels(raw)

    @property
    def wants_token_ids(self) -> bool:
        """Whether the client asked for token ids."""
        return isinstance(self.typed, Common) and bool(self.typed.return_token_ids)

    @property
    def bears_token_ids(self) -> bool:
        """Whether token ids can be asked for unnoticed: with them, vLLM leaves an echoed prompt out."""
        return self.stream and not (isinstance(self.typed, CompletionFields) and self.typed.echo)

    @property
    def seeded(self) -> bool:
        """Whether the client gave a seed."""
        return self.fields.get("seed", _NULL) != _NULL

    @property
    def priority(self) -> int | None:
        """The client's own order among its requests, smaller first."""
        return self.typed.priority if isinstance(self.typed, Common) else None

    @property
    def service_tier(self) -> str | None:
        """The tier of service that the client chose."""
        return self.typed.service_tier if isinstance(self.typed, Common) else None

    def prompt_and_salt(self, tenant: str) -> tuple[memoryview, bytes]:
        """Give the prompt in raw JSON, and a salt of what else the engine's prefix cache depends on.

        Tools stand before the messages in most templates. Two prompts share a beginning where their bytes do.
        """
        fields = self.fields
        prompt = next(fields[name] for name in ("messages", "prompt", "input") if name in fields)
        before = (bytes(fields[name]) for name in ("cache_salt", "tools") if name in fields)
        return memoryview(prompt), b"\0".join((tenant.encode(), *before))

    def most_output_tokens(self, context_tokens: int | None) -> int | None:
        """The most tokens that an answer can have; None where neither request nor model says."""
        if not self.choices:
            return 0
        wanted = self.wanted_tokens
        if wanted is None or (context_tokens is not None and wanted > context_tokens):
            wanted = context_tokens
        return None if wanted is None else max(0, wanted) * self.choices


_NULL = Raw(b"null")
_PROMPT = ("messages", "prompt", "input", "tools")

_decode_fields = msgspec.json.Decoder(Fields).decode
_decode_options = msgspec.json.Decoder(Fields | None).decode
_decoders = {
    endpoint.path: msgspec.json.Decoder(endpoint.fields).decode
    for endpoint in (CHAT, COMPLETIONS, EMBEDDINGS)
}
_decode_labels = msgspec.json.Decoder(
    Annotated[
        dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=512)]], Meta(max_length=16)
    ]
    | None
).decode
_encode = msgspec.json.Encoder().encode


def parse(endpoint: Endpoint, body: bytes) -> Inference:
    """Parse a body; raises InvalidRequest with the position or the parameter."""
    if not body:
        raise InvalidRequest("The request body is empty; send a JSON object.")
    if not body.isascii():
        try:
            body.decode()
        except UnicodeDecodeError as error:
            raise InvalidRequest(f"The request body is not valid UTF-8 (byte {error.start}).") from None
    try:
        fields = _decode_fields(body)
        typed = _decoders[endpoint.path](body)
    except msgspec.ValidationError as error:
        raise _wrong_field(str(error)) from None
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"The request body is not valid JSON: {error}.") from None
    except RecursionError:
        raise InvalidRequest("The request body is nested too deeply.") from None
    if isinstance(typed, ChatFields) and not typed.messages:
        raise InvalidRequest("'messages' must have at least one message.", param="messages")
    prompt_bytes = sum([len(fields[name]) for name in _PROMPT if name in fields])
    found = Inference(
        endpoint, fields, typed, prompt_bytes, prompt_tokens_estimate=1 + prompt_bytes // BYTES_PER_TOKEN
    )
    if isinstance(typed, EmbeddingFields):
        found.choices = 0
        return found
    found.stream = bool(typed.stream)
    found.choices = _choices(typed)
    wanted = found.wanted_tokens = _wanted(typed)
    found.output_tokens_estimate = max(0, DEFAULT_OUTPUT_TOKENS if wanted is None else wanted) * max(
        1, typed.n or 1
    )
    return found


def _choices(typed: Common) -> int:
    """Give how many choices an answer must finish."""
    prompts = 1
    if isinstance(typed, CompletionFields) and isinstance(typed.prompt, list):
        prompts = 1 if typed.prompt and isinstance(typed.prompt[0], int) else len(typed.prompt)
    return max(1, typed.n or 1) * max(1, prompts)


def _wanted(typed: Common) -> int | None:
    """Give the client's own limit of the answer's tokens."""
    if isinstance(typed, ChatFields) and typed.max_completion_tokens is not None:
        return typed.max_completion_tokens
    return typed.max_tokens


@lru_cache(1024)
def cache_salt(tenant: str, own: bytes) -> Raw:
    """Give the salt of a tenant's prefix cache, mixed with the client's own one in raw JSON."""
    return Raw(b'"%s"' % blake2b(own, key=blake2b(tenant.encode()).digest()).hexdigest()[:32].encode())


def upstream_body(
    request: Inference,
    upstream_model: str,
    *,
    token_ids: bool,
    priority: int | None = None,
    tenant: str | None = None,
) -> bytes:
    """Encode the body for an upstream: its own model name, and usage (and token ids) asked for in streams.

    ``priority`` is for an engine that takes one; None leaves the client's, where it does not push forward.
    ``tenant`` is for an engine whose prefix cache can be salted by it.
    """
    fields = dict(request.fields)
    fields["model"] = Raw(_encode(upstream_model))
    if priority is not None:
        fields["priority"] = Raw(b"%d" % priority)
    elif (request.priority or 0) < 0:
        fields["priority"] = Raw(b"0")  # smaller goes first
    if tenant is not None:
        own = bytes(fields.get("cache_salt", b"null"))
        if own == b"null" or (
            own.startswith(b'"') and own != b'""'
        ):  # what is no salt is the engine's to refuse
            fields["cache_salt"] = cache_salt(tenant, own)
    if request.stream:
        options = _decode_options(fields["stream_options"]) if "stream_options" in fields else None
        fields["stream_options"] = Raw(_encode({**(options or {}), "include_usage": Raw(b"true")}))
        if token_ids and request.bears_token_ids:
            fields["return_token_ids"] = Raw(b"true")
    return _encode(fields)


# Members that change neither the answer nor its price.
_NOT_IN_KEY = ("model", "stream", "stream_options", "user", "metadata", "safety_identifier", "service_tier",
               "prompt_cache_key", "store", "priority", "request_id")  # fmt: skip


def canonical(request: Inference) -> bytes:
    """Encode what determines the answer: sorted members, no white space, no model or transport."""
    content = {name: _value(raw) for name, raw in request.fields.items() if name not in _NOT_IN_KEY}
    try:
        return msgspec.json.encode([request.endpoint.path, content], order="deterministic")
    except RecursionError:
        raise InvalidRequest("The request body is nested too deeply.") from None


def fingerprint(endpoint: Endpoint, body: bytes) -> str:
    """Give a hash of a whole body, the same for every spelling of it; raises InvalidRequest."""
    request = parse(endpoint, body)
    content = {name: _value(raw) for name, raw in request.fields.items()}
    text = msgspec.json.encode([endpoint.path, content], order="deterministic")
    return sha256(text).hexdigest()


def lone_question(request: Inference) -> tuple[str, bytes] | None:
    """Give the text of a chat's only user turn and, canonical, all that surrounds it; else None.

    None too where the turn has parts other than text, or a name, or where several choices are wanted: such
    requests are the same only where they are identical.
    """
    typed = request.typed
    if not isinstance(typed, ChatFields) or (typed.n or 1) != 1:
        return None
    *before, last = typed.messages
    if last.role != "user" or not isinstance(last.content, str):
        return None
    if any(message.role not in ("system", "developer") for message in before):
        return None
    content = {name: _value(raw) for name, raw in request.fields.items() if name not in _NOT_IN_KEY}
    turn = content["messages"].pop()
    if turn.keys() != {"role", "content"}:
        return None
    return last.content, msgspec.json.encode([request.endpoint.path, content], order="deterministic")


def last_turn(request: Inference) -> str:
    """Give the text of a chat's last user turn, or of a completion's prompt; empty where there is none."""
    typed = request.typed
    if isinstance(typed, CompletionFields):
        return _words(typed.prompt)
    messages = typed.messages if isinstance(typed, ChatFields) else []
    return next((_words(one.content) for one in reversed(messages) if one.role == "user"), "")


def _words(content: str | list[Any] | None) -> str:
    """Join what is text in a content or a prompt."""
    if not isinstance(content, list):
        return content or ""
    texts = (part.get("text") if isinstance(part, dict) else part for part in content)
    return " ".join(text for text in texts if isinstance(text, str))


def owner(request: Inference) -> str:
    """Give who asks, as the client tells it: `safety_identifier` or `user`."""
    for name in ("safety_identifier", "user"):
        value = _value(request.fields[name]) if name in request.fields else None
        if isinstance(value, str) and value:
            return value
    return ""


def _labels(raw: Raw) -> str:
    """Check a request's metadata as OpenAI does, and write it without what SQL cannot keep."""
    try:
        labels = _decode_labels(raw)
    except (msgspec.DecodeError, RecursionError):
        labels = None
    if labels is None and bytes(raw) != b"null":
        raise InvalidRequest(
            "'metadata' must be an object of at most 16 strings, keys up to 64, values up to 512 characters.",
            param="metadata",
        )
    if not labels:
        return ""
    return _encode({name.replace("\0", ""): text.replace("\0", "") for name, text in labels.items()}).decode()


def _value(raw: Raw) -> Any:
    """Decode a member; one that only the upstream can judge (a number out of range) counts as its bytes."""
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        return bytes(raw)


_PATH = re.compile(r" - at `\$\.?([^`]*)`$")
_FIELD = re.compile(r"`([^`]+)`$")


def _wrong_field(message: str) -> InvalidRequest:
    """Turn msgspec's finding into OpenAI's words, with the parameter's path."""
    found = _PATH.search(message)
    path = found.group(1).replace("[...]", "") if found else ""
    said = message[: found.start()] if found else message
    if "missing required field" in said:
        field = _FIELD.search(said)
        name = field.group(1) if field else ""
        param = f"{path}.{name}" if path else name
        return InvalidRequest(f"You must provide the parameter {param!r}.", param=param)
    if not path:
        return InvalidRequest(f"The request body must be a JSON object: {said.lower()}.")
    plain = said[:1].lower() + said[1:].replace("`", "'")
    return InvalidRequest(f"Invalid value for {path!r}: {plain}.", param=path)
