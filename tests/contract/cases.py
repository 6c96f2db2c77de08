"""The requests of the contract: what clients send to vLLM today. Pure data.

Greedy and short, so that two runs of one request give the same text; `small` and `large` are the demo's.
"""

from typing import Any

from msgspec import Struct

CHAT, COMPLETIONS, EMBEDDINGS = "/chat/completions", "/completions", "/embeddings"
Body = dict[str, Any]


class Case(Struct, frozen=True):
    """One request to one model."""

    name: str
    path: str
    body: Body

    @property
    def streamed(self) -> bool:
        """Whether a stream is asked for."""
        return self.body.get("stream") is True

    @property
    def include_usage(self) -> bool:
        """Whether the usage chunk is asked for."""
        return bool((self.body.get("stream_options") or {}).get("include_usage"))


def chat(content: Any = "Say hello.", **fields: Any) -> Body:
    messages = fields.pop("messages", [{"role": "user", "content": content}])
    return {"model": "small", "messages": messages, "max_tokens": 6, "temperature": 0, **fields}


def complete(prompt: Any = "The capital of France is", **fields: Any) -> Body:
    return {"model": "small", "prompt": prompt, "max_tokens": 6, "temperature": 0, **fields}


WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
NAMED = {"type": "function", "function": {"name": "get_weather"}}
CAPITAL = {
    "type": "object",
    "properties": {"capital": {"type": "string", "maxLength": 12}, "big": {"type": "boolean"}},
    "required": ["capital", "big"],
    "additionalProperties": False,
}
JSON_SCHEMA = {"type": "json_schema", "json_schema": {"name": "capital", "schema": CAPITAL, "strict": True}}
TALK = [
    {"role": "system", "content": "You answer with one word."},
    {"role": "user", "content": "What colour is the sky?"},
    {"role": "assistant", "content": "Blue."},
    {"role": "user", "content": "And grass?"},
]
LONG = "The quick brown fox jumps over the lazy dog. " * 370  # about 3700 of 4096 tokens
TOOL_TALK = [
    {"role": "user", "content": "Weather in Paris?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": "call_1",
                "type": "function",
                "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'},
            }
        ],
    },
    {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
]
ask_weather: Body = {"model": "large", "tools": [WEATHER], "max_tokens": 40}
ask_small: Body = {"tools": [WEATHER], "max_tokens": 24}

BOTH_WAYS: dict[str, tuple[str, Body]] = {
    "chat": (CHAT, chat()),
    "chat, system and several turns": (CHAT, chat(messages=TALK)),
    "chat, content in parts": (
        CHAT,
        chat([{"type": "text", "text": "Say "}, {"type": "text", "text": "hi"}]),
    ),
    "chat, emoji and CJK": (CHAT, chat("重复: 你好世界 🦊👩‍👩‍👧 naïve \u2028 \\u0041 \"'", max_tokens=12)),
    "chat, escapes in the answer": (
        CHAT,
        chat("x", max_tokens=10, structured_outputs={"choice": ['"\\\n\t✓🦊']}),
    ),
    "chat, n=2 with seed": (CHAT, chat(n=2, seed=7, temperature=0.9)),
    "chat, stop string": (CHAT, chat("Count from 1 to 9.", stop=["3", "zz"], max_tokens=24)),
    "chat, stop as text, kept": (
        CHAT,
        chat("Count: 1 2 3", stop="2", include_stop_str_in_output=True, max_tokens=24),
    ),
    "chat, logprobs": (CHAT, chat(logprobs=True, max_tokens=3)),
    "chat, top_logprobs": (CHAT, chat(logprobs=True, top_logprobs=3, max_tokens=3)),
    "chat, max_tokens=1": (CHAT, chat(max_tokens=1)),
    "chat, max_completion_tokens": (CHAT, chat(max_completion_tokens=2, max_tokens=None)),
    "chat, logit_bias": (CHAT, chat(logit_bias={"57": -100, "28": 5})),
    "chat, penalties": (CHAT, chat(frequency_penalty=0.5, presence_penalty=0.5, repetition_penalty=1.2)),
    "chat, top_k, min_p, top_p": (CHAT, chat(temperature=0.8, seed=3, top_k=5, min_p=0.05, top_p=0.9)),
    "chat, return_token_ids": (CHAT, chat(return_token_ids=True)),
    "chat, ignore_eos, min_tokens": (CHAT, chat("Bye.", ignore_eos=True, min_tokens=8, max_tokens=8)),
    "chat, stop_token_ids": (CHAT, chat(stop_token_ids=[28, 30], max_tokens=12)),
    "chat, allowed_token_ids": (CHAT, chat(allowed_token_ids=[57, 58, 59], max_tokens=3)),
    "chat, bad_words": (CHAT, chat(bad_words=["Hello"])),
    "chat, continue_final_message": (
        CHAT,
        chat(
            messages=[*TALK, {"role": "assistant", "content": "Gr"}],
            add_generation_prompt=False,
            continue_final_message=True,
        ),
    ),
    "chat, structured regex": (CHAT, chat(structured_outputs={"regex": "[0-9]{3}-[a-c]{2}"}, max_tokens=12)),
    "chat, structured choice": (CHAT, chat(structured_outputs={"choice": ["yes", "no"]})),
    "chat, priority stepped back": (CHAT, chat(priority=3)),
    "chat, unknown fields": (
        CHAT,
        chat(no_such_field={"a": [1, None]}, user="u", metadata={"k": "v"}, store=False),
    ),
    "chat, every null": (
        CHAT,
        chat(n=None, stop=None, seed=None, tools=None, logprobs=None, stream_options=None),
    ),
    "chat, response_format json_schema": (
        CHAT,
        chat("The capital of France?", response_format=JSON_SCHEMA, max_tokens=32),
    ),
    "chat, response_format json_object": (
        CHAT,
        chat('Give {} or {"a": 1}', response_format={"type": "json_object"}, max_tokens=12),
    ),
    "chat, response_format text": (CHAT, chat(response_format={"type": "text"})),
    "chat, long prompt": (CHAT, chat(LONG[: len(LONG) // 2] + "Say hi.", max_tokens=2)),
    "chat, the answer fills the context": (CHAT, chat("hi", max_tokens=None, stop=["a"])),
    "chat, large model": (CHAT, chat("Say hello.", model="large")),
    "tools, auto": (CHAT, chat("What is the weather in Paris?", tool_choice="auto", **ask_weather)),
    "tools, none": (CHAT, chat("Hi", tool_choice="none", **ask_small)),
    "tools, named": (CHAT, chat("What is the weather in Paris?", tool_choice=NAMED, **ask_small)),
    "tools, required": (CHAT, chat("What is the weather in Paris?", tool_choice="required", **ask_weather)),
    "tools, result handed back": (CHAT, chat(messages=TOOL_TALK, **ask_small)),
    "completion": (COMPLETIONS, complete()),
    "completion, echo": (COMPLETIONS, complete(echo=True)),
    "completion, echo with logprobs": (COMPLETIONS, complete("One two", echo=True, logprobs=1, max_tokens=2)),
    "completion, logprobs": (COMPLETIONS, complete(logprobs=2, max_tokens=3)),
    "completion, list of prompts": (COMPLETIONS, complete(["One, two,", "Red, green,"])),
    "completion, token ids": (COMPLETIONS, complete([504, 3575, 282, 4649, 314])),
    "completion, lists of token ids": (COMPLETIONS, complete([[504, 3575], [282, 4649, 314]], max_tokens=3)),
    "completion, n=2 with seed": (COMPLETIONS, complete(n=2, seed=11, temperature=0.9)),
    "completion, stop": (COMPLETIONS, complete("1 2 3", stop=["6"], max_tokens=16)),
    "completion, suffix of ids": (COMPLETIONS, complete(return_token_ids=True, max_tokens=3)),
    "completion, emoji": (COMPLETIONS, complete("🦊🦊🦊 你好 你好", max_tokens=12)),
    "completion, default length": (COMPLETIONS, {"model": "small", "prompt": "1, 2,", "temperature": 0}),
    "completion, stop at once": (COMPLETIONS, complete("1 2 3", structured_outputs={"choice": ["4"]})),
}

ONLY_STREAMED: dict[str, tuple[str, Body]] = {
    "chat, usage asked for": (CHAT, chat(stream_options={"include_usage": True})),
    "chat, usage not asked for": (CHAT, chat(stream_options={"include_usage": False})),
    "chat, stream_options null": (CHAT, chat(stream_options=None)),
    "chat, stream_options empty": (CHAT, chat(stream_options={})),
    "chat, usage in every chunk": (
        CHAT,
        chat(stream_options={"include_usage": True, "continuous_usage_stats": True}),
    ),
    "chat, every chunk but not asked for": (CHAT, chat(stream_options={"continuous_usage_stats": True})),
    "chat, n=2, usage asked for": (
        CHAT,
        chat(n=2, seed=5, temperature=0.9, stream_options={"include_usage": True}),
    ),
    "tools, usage asked for": (
        CHAT,
        chat("Weather in Rome?", tool_choice=NAMED, stream_options={"include_usage": True}, **ask_small),
    ),
    "completion, usage asked for": (COMPLETIONS, complete(stream_options={"include_usage": True})),
    "completion, list of prompts, usage": (
        COMPLETIONS,
        complete(["One, two,", "Red,"], stream_options={"include_usage": True}),
    ),
}

ONLY_BUFFERED: dict[str, tuple[str, Body]] = {
    "chat, prompt_logprobs": (CHAT, chat("Hi", prompt_logprobs=1, max_tokens=1)),
    "chat, return_prompt_text": (CHAT, chat("Hi", return_prompt_text=True, max_tokens=1)),
}

EMBEDDED: dict[str, Body] = {
    "embeddings": {"input": "hello"},
    "embeddings, list": {"input": ["hello", "world", "你好 🦊"]},
    "embeddings, base64": {"input": "hello", "encoding_format": "base64"},
    "embeddings, dimensions as they are": {"input": "hello", "dimensions": 384},
}

FAULTS: dict[str, tuple[str, Body]] = {
    "context too long": (CHAT, chat(LONG * 2)),
    "context too long, completion": (COMPLETIONS, complete(LONG * 2)),
    "max_tokens over the context": (CHAT, chat(max_tokens=5000)),
    "max_tokens over the context, completion": (COMPLETIONS, complete(max_tokens=5000)),
    "max_tokens 0": (CHAT, chat(max_tokens=0)),
    "max_tokens negative": (CHAT, chat(max_tokens=-1)),
    "max_tokens a text": (CHAT, chat(max_tokens="many")),
    "temperature negative": (CHAT, chat(temperature=-1)),
    "temperature a text": (CHAT, chat(temperature="hot")),
    "top_p too high": (CHAT, chat(top_p=2)),
    "n = 0": (CHAT, chat(n=0)),
    "n = -1": (CHAT, chat(n=-1)),
    "n a text": (CHAT, chat(n="two")),
    "top_logprobs without logprobs": (CHAT, chat(top_logprobs=2)),
    "top_logprobs too many": (CHAT, chat(logprobs=True, top_logprobs=1000)),
    "seed a text": (CHAT, chat(seed="x")),
    "stop a number": (CHAT, chat(stop=3)),
    "stream a text": (CHAT, chat(stream="maybe")),
    "stream_options without stream": (CHAT, chat(stream_options={"include_usage": True})),
    "stream_options a text": (CHAT, chat(stream=True, stream_options="usage")),
    "messages missing": (CHAT, {"model": "small"}),
    "messages empty": (CHAT, chat(messages=[])),
    "messages a text": (CHAT, chat(messages="hi")),
    "message without role": (CHAT, chat(messages=[{"content": "hi"}])),
    "content a number": (CHAT, chat(5)),
    "logit_bias of no token": (CHAT, chat(logit_bias={"99999999": 1})),
    "logit_bias no number": (CHAT, chat(logit_bias={"x": 1})),
    "tool_choice unknown": (CHAT, chat(tools=[WEATHER], tool_choice="perhaps")),
    "tool_choice names no tool": (
        CHAT,
        chat(tools=[WEATHER], tool_choice={"type": "function", "function": {"name": "other"}}),
    ),
    "tool_choice without tools": (CHAT, chat(tool_choice="required")),
    "tools malformed": (CHAT, chat(tools=[{"type": "function"}])),
    "response_format unknown": (CHAT, chat(response_format={"type": "yaml"})),
    "response_format without schema": (CHAT, chat(response_format={"type": "json_schema"})),
    "structured_outputs two kinds": (CHAT, chat(structured_outputs={"regex": "a", "choice": ["b"]})),
    "structured_outputs bad regex": (CHAT, chat(structured_outputs={"regex": "("})),
    "min_tokens over max_tokens": (CHAT, chat(min_tokens=10, max_tokens=2)),
    "prompt missing": (COMPLETIONS, {"model": "small"}),
    "prompt a number": (COMPLETIONS, complete(5)),
    "prompt empty list": (COMPLETIONS, complete([])),
    "token id out of range": (COMPLETIONS, complete([99999999])),
    "logprobs too many": (COMPLETIONS, complete(logprobs=1000)),
    "prompt_logprobs in a stream": (CHAT, chat(stream=True, prompt_logprobs=1)),
    "suffix": (COMPLETIONS, complete(suffix="end")),
}


def all_cases() -> list[Case]:
    """Every request that is to succeed: buffered, then streamed."""
    cases = []
    for name, (path, body) in BOTH_WAYS.items():
        cases.append(Case(name, path, body))
        cases.append(Case(f"{name}, streamed", path, {**body, "stream": True}))
    cases += [Case(name, path, body) for name, (path, body) in ONLY_BUFFERED.items()]
    for name, (path, body) in ONLY_STREAMED.items():
        cases.append(Case(f"{name}, streamed", path, {**body, "stream": True}))
    for name, body in EMBEDDED.items():
        cases.append(Case(name, EMBEDDINGS, {"model": "embed", **body}))
    return cases


def fault_cases() -> list[Case]:
    """Every request that vLLM refuses, and a few of them as streams."""
    cases = [Case(name, path, body) for name, (path, body) in FAULTS.items()]
    for name in ("context too long", "temperature negative", "max_tokens over the context, completion"):
        path, body = FAULTS[name]
        cases.append(Case(f"{name}, streamed", path, {**body, "stream": True}))
    return cases
