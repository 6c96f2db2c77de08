"""Two answers to one request, field by field: what differs between vLLM's own and the gateway's."""

from typing import Any

from msgspec import Struct

from tests.appliance import Reply

TOLERANCE = 1e-6
"""Of numbers: the same request on the same server gives the same, whoever hands it on."""
FINGERPRINT = "system_fingerprint"


class Verdict(Struct):
    """How many fields were compared, and in which they differ."""

    fields: int = 0
    differences: list[str] = []
    text_differs: bool = False
    chunks: tuple[int, int] = (0, 0)


def compare(direct: Reply, ours: Reply, *, streamed: bool, include_usage: bool) -> Verdict:
    """Compare two answers; a stream is compared chunk by chunk.

    Two differences are part of the contract: the usage chunk carries `usage.cost`, and where the client did
    not ask for usage, vLLM's fingerprint goes with the usage chunk that is taken out.
    """
    verdict = Verdict(differences=[])
    if direct.status != ours.status:
        verdict.differences.append(f"status: {direct.status} != {ours.status} {ours.body[:300]!r}")
        return verdict
    if not streamed:
        _walk(_normal(direct.json), _normal(ours.json), "", verdict)
        return verdict
    theirs, own = _by_choice(direct.payloads), _by_choice(ours.payloads)
    verdict.chunks = (len(theirs), len(own))
    for chunk in own:
        if isinstance(chunk, dict) and (chunk.get("usage") or {}).get("total_tokens") is not None:
            cost = chunk["usage"].pop("cost", None)
            if not include_usage or not isinstance(cost, float):
                verdict.differences.append(f"usage.cost: {cost}")
    if not include_usage:
        for chunk in theirs:
            if isinstance(chunk, dict):
                chunk.pop(FINGERPRINT, None)
    if len(theirs) == len(own):
        _walk([_normal(one) for one in theirs], [_normal(one) for one in own], "", verdict)
        return verdict
    verdict.differences.append(f"chunks: {len(theirs)} != {len(own)}")
    _walk(_kinds(theirs), _kinds(own), "kinds of chunks", verdict)
    return verdict


def text_of(reply: Reply, *, streamed: bool) -> dict[int, str]:
    """The text of each choice, tool calls included."""
    texts: dict[int, str] = {}
    answers = [one for one in reply.payloads if one != "[DONE]"] if streamed else [reply.json]
    for answer in answers:
        for choice in answer.get("choices", []):
            message = choice.get("delta") or choice.get("message") or {}
            said = (choice.get("text") or "") + (message.get("content") or "")
            for call in message.get("tool_calls") or ():
                function = call.get("function") or {}
                said += (function.get("name") or "") + (function.get("arguments") or "")
            texts[choice["index"]] = texts.get(choice["index"], "") + said
    return texts


def shape(value: Any) -> Any:
    """The structure without the contents: keys and kinds of values; a list is the set of its items'."""
    match value:
        case dict():
            return {name: shape(one) for name, one in value.items()}
        case list():
            return sorted({str(shape(one)) for one in value})
        case bool() | None:
            return str(value)
        case _:
            return type(value).__name__


def _normal(answer: Any) -> Any:
    """Without what is new in every answer: id and time; ids keep their prefix."""
    if not isinstance(answer, dict):
        return answer
    answer = dict(answer)
    for name, kind in (("id", str), ("created", int)):
        if name in answer:
            assert isinstance(answer[name], kind), (name, answer[name])
            answer[name] = str(answer[name]).partition("-")[0] if kind is str else 0
    for choice in answer.get("choices") or ():
        for call in (choice.get("message") or choice.get("delta") or {}).get("tool_calls") or ():
            if call.get("id"):
                call["id"] = call["id"].rpartition("-")[0]
    return answer


def _by_choice(chunks: list[Any]) -> list[Any]:
    """In the order of the choices: how those of one answer take turns is chance."""
    indices = [one.get("choices") if isinstance(one, dict) else None for one in chunks]
    keys = [(choices[0]["index"] if choices else len(chunks), n) for n, choices in enumerate(indices)]
    return [chunks[number] for _, number in sorted(keys)]


def _kinds(chunks: list[Any]) -> list[str]:
    """The kinds of chunks in their order, a run of equal ones once: how tokens fall into them is chance."""
    kinds: list[str] = []
    for chunk in chunks:
        kind = str(shape(chunk))
        if kind not in kinds[-1:]:
            kinds.append(kind)
    return kinds


def _walk(theirs: Any, own: Any, path: str, verdict: Verdict) -> None:
    if isinstance(theirs, dict) and isinstance(own, dict):
        for name in [*theirs, *(name for name in own if name not in theirs)]:
            if name not in theirs or name not in own:
                where = "the gateway" if name not in own else "vLLM"
                verdict.differences.append(f"{path}.{name} is missing from {where}'s answer")
            else:
                _walk(theirs[name], own[name], f"{path}.{name}", verdict)
        if list(theirs) != list(own) and set(theirs) == set(own):
            verdict.differences.append(f"{path}: other order of keys")
        return
    if isinstance(theirs, list) and isinstance(own, list) and len(theirs) == len(own):
        for index, (one, other) in enumerate(zip(theirs, own, strict=True)):
            _walk(one, other, f"{path}[{index}]", verdict)
        return
    verdict.fields += 1
    if _equal(theirs, own):
        return
    verdict.differences.append(f"{path}: {theirs!r} != {own!r}")
    verdict.text_differs = verdict.text_differs or path.endswith((".content", ".text", ".arguments"))


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) <= TOLERANCE * max(1.0, abs(one))
    return type(one) is type(other) and bool(one == other)
