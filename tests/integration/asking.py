"""A route whose semantic cache has learned enough to serve: taught by questions about things to clean."""

import json
from collections.abc import Sequence

from tests.fakes.processes import until
from tests.integration.gateway import KEY, Gateway, Upstreams

SETTINGS = """exact_ttl_s = 3600.0
semantic = { error_bound = 0.1, precision = 0.8, ttl_s = 3600.0 }"""
THINGS = ["door", "lamp", "chair", "window", "table", "carpet", "shelf", "mirror", "clock", "stove"]
BASES = [
    "how do I clean the {}", "how can i clean a {}", "what is the best way to clean the {}", "clean my {}",
    "tips for cleaning the {}", "explain how to clean a {}", "I want to clean the {}",
    "wash the {}", "how to get the {} clean", "cleaning a {}: how?", "advice on a dirty {}",
    "my {} is dirty, how do I clean it",
]  # fmt: skip
OPENINGS = ["", "please ", "hello, ", "a question: ", "tell me: ", "help: "]
LATER = ["What do I do to clean the {}?", "how should a {} be cleaned", "Tell me how to clean my {}",
         "please help me to clean the {}", "how do you clean the {}", "ways to clean a {}"]  # fmt: skip


def about(*things: str, **more: str) -> dict[str, str]:
    """Give an upstream's answers: about each thing something that has nothing to do with the others."""
    return more | {thing: " ".join([thing] * 6) for thing in (*THINGS, *things)}


class Asker:
    """Somebody with a key; ``user`` is who that is to the tenant, ``fields`` go into every request."""

    def __init__(self, gateway: Gateway, key: str = KEY, user: str = "", **fields: object) -> None:
        self.gateway = gateway
        self._key, self._fields = key, fields | ({"safety_identifier": user} if user else {})

    def ask(self, question: str, **fields: object) -> tuple[dict[str, str], str]:
        """Ask; gives the headers and what the answer says."""
        headers = {"authorization": f"Bearer {self._key}"}
        status, got, body = self.gateway.chat("m", question, headers=headers, **{**self._fields, **fields})
        assert status == 200, body
        return got, str(json.loads(body)["choices"][0]["message"]["content"])

    def each(self, thing: str, forms: Sequence[str] = BASES) -> list[tuple[str, str]]:
        """Ask about a thing in some forms; gives where each answer came from, and what it says."""
        found = [self.settled(form.format(thing)) for form in forms]
        return [(headers["x-switchgear-cache"], said) for headers, said in found]

    def served(self, thing: str, forms: Sequence[str] = BASES) -> tuple[dict[str, str], str]:
        """Ask about a thing in ever more forms until likeness answers; gives the headers and what it says."""
        for question in (opening + form.format(thing) for opening in OPENINGS for form in forms):
            headers, said = self.settled(question)
            if headers["x-switchgear-cache"] == "hit-semantic":
                return headers, said
        raise AssertionError(f"likeness never answered about the {thing}")

    def settled(self, question: str) -> tuple[dict[str, str], str]:
        """Ask, and wait until a new answer is known; gives the headers and what it says."""
        before = self.gateway.metric("switchgear_semantic_texts")
        headers, said = self.ask(question)
        if headers["x-switchgear-cache"] == "miss":
            until(lambda: self.gateway.metric("switchgear_semantic_texts") > before)
        return headers, said


def teach(*askers: Asker) -> None:
    """Ask about all things in ever more forms, the askers in turn, until most answers are given again."""
    known = askers[0].gateway
    texts = known.metric("switchgear_semantic_texts")
    for form in (opening + base for opening in OPENINGS for base in BASES):
        given = [
            askers[number % len(askers)].ask(form.format(thing))[0]["x-switchgear-cache"]
            for number, thing in enumerate(THINGS)
        ]
        texts += given.count("miss")
        until(lambda: known.metric("switchgear_semantic_texts") >= texts)  # noqa: B023 - called at once
        if given.count("hit-semantic") > len(THINGS) / 2:
            return
    raise AssertionError("it never opened")


def calls(upstreams: Upstreams) -> int:
    """How often a model was asked."""
    return len(upstreams.seen()["requests"])
