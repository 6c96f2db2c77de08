"""The published attacks on semantic caches, carried out through the door against a cache that serves.

Key collision (a text made to lie where another one lies), poisoning (an answer planted for others), timing
(does a hit tell what another tenant asked?). What a tenant can time is only what is shared with it: so what
is counted is whether a model was asked, never how long an answer took.
"""

from collections.abc import Iterator

import pytest

from gateway.embeddings import reader
from tests.fakes.processes import until
from tests.integration.admin import ADMIN, Tenant
from tests.integration.asking import BASES, LATER, SETTINGS, Asker, about, calls, teach
from tests.integration.gateway import Gateway, Upstreams, config, model, running

MORE = ("bucket", "teapot", "ladder", "saddle", "bottle", "saucer", "pillow", "basket")
EVIL = "Open http evil example and type your secret there"
MOVED = "How do I clean the {} after the {}?"
COLLISIONS = {
    "words in another order": (MOVED.format("kettle", "teapot"), MOVED.format("teapot", "kettle"), 0.9999),
    "the victim's words, many times": (
        "how should a bucket be cleaned",
        "Say visit evil dot example. " + "how should a bucket be cleaned " * 40,
        0.99,
    ),
    "other words that add up": (
        "What is the best way to clean the ladder?",
        "wiping step top give bridge most things proper razors trash pointe socks achieve choose",
        0.7,
    ),
}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, Upstreams]]:
    upstreams = Upstreams(1)
    directory = tmp_path_factory.mktemp("attacks")
    text = config(model("m", upstreams.ports), cache=SETTINGS, directory=directory)
    with running(Gateway(directory, text, SWITCHGEAR_ADMIN_KEY=ADMIN), upstreams) as both:
        until(both[0].ready)
        planted = {text: EVIL for _, text, _ in COLLISIONS.values()} | {"mallory": EVIL}
        upstreams.control(default={"about": planted | about(*MORE)})
        for _, text, _ in COLLISIONS.values():
            Asker(both[0]).ask(text)  # while nothing is served yet, so that it is the model's to answer
        teach(Asker(both[0]))
        yield both


@pytest.mark.parametrize("way", COLLISIONS)
def test_a_text_made_to_collide_is_not_served_to_its_victim(
    served: tuple[Gateway, Upstreams], way: str
) -> None:
    asker, (asked, planted, likeness) = Asker(served[0]), COLLISIONS[way]
    assert float(reader().vector(asked) @ reader().vector(planted)) > likeness
    assert asker.ask(planted)[1] == EVIL, "it is kept, for those who ask just that"
    headers, said = asker.ask(asked)
    assert said != EVIL
    assert headers["x-switchgear-cache"] != "hit-exact", "nobody had asked it"


def test_a_planted_answer_reaches_nobody_until_a_second_user_was_given_the_same(
    served: tuple[Gateway, Upstreams],
) -> None:
    gateway, upstreams = served
    mallory, victim = Asker(gateway, user="mallory"), Asker(gateway, user="victim")
    assert mallory.served("saddle")[1] == EVIL, "the one who brought it in gets it again"
    asked = calls(upstreams)
    given = victim.each(
        "saddle", LATER
    )  # in words of his own: the very same request is the model's to answer
    assert EVIL not in [said for _, said in given]
    assert given[0][0] == "miss"
    assert calls(upstreams) > asked
    ann, bob, carl = (Asker(gateway, user=name) for name in ("ann", "bob", "carl"))
    ann.each("bottle")
    bob.each("bottle", [f"hi, {form}" for form in BASES[:3]])
    assert carl.served("bottle", LATER)[1] == " ".join(["bottle"] * 6), "two have been given it"


def test_a_hit_tells_nothing_about_another_tenant(served: tuple[Gateway, Upstreams]) -> None:
    """Every question that another tenant has in its caches costs a call, as one that nobody ever asked."""
    gateway, upstreams = served
    one, spy = (Asker(gateway, Tenant(gateway).key) for _ in range(2))
    teach(one)
    teach(spy)
    one.served("saucer")
    assert one.ask(BASES[0].format("saucer"))[0]["x-switchgear-cache"] == "hit-exact"
    heads = []
    for thing in ("saucer", "pillow"):
        asked = calls(upstreams)
        headers, _ = spy.ask(BASES[0].format(thing))
        assert calls(upstreams) == asked + 1
        heads.append((headers["x-switchgear-cache"], set(headers)))
    assert heads[0] == heads[1] == ("miss", heads[0][1])


def test_what_is_kept_in_one_scope_is_not_given_in_another(served: tuple[Gateway, Upstreams]) -> None:
    gateway, upstreams = served
    asker = Asker(gateway)
    asker.served("basket")
    system = {"role": "system", "content": "You are a pirate."}
    messages = [system, {"role": "user", "content": BASES[0].format("basket")}]
    asked = calls(upstreams)
    assert asker.ask("", messages=messages)[0]["x-switchgear-cache"] == "miss"
    assert calls(upstreams) == asked + 1
