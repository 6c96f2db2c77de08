"""Terms of three levels: the tightest wins, inherited ones bind like direct ones, none configured is none."""

from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.state.limits import Bound
from gateway.state.periods import Period
from gateway.tenancy import accounts, keys, terms
from gateway.tenancy.keys import Key, KeyRecord, Registry
from gateway.tenancy.terms import NOTHING, Rates, Terms

COUNTS = st.none() | st.integers(1, 2**53)
MONEY = st.none() | st.integers(0, 2**53)
RATES: dict[str, Any] = {
    "rpm": COUNTS, "tpm": COUNTS, "rpd": COUNTS, "tpd": COUNTS, "concurrency": COUNTS,
    "budget_nanousd": MONEY, "budget_period": st.sampled_from(get_args(Period)),
}  # fmt: skip
TERMS = st.builds(
    Terms,
    **RATES,
    models=st.none() | st.lists(st.sampled_from("abcd"), min_size=1).map(tuple),
    band=st.none() | st.sampled_from(terms.BANDS),
    weight=st.none() | st.floats(0.1, 10),
    credit=st.none() | st.sampled_from(["prepaid", "payg"]),
    floor_nanousd=st.none() | st.integers(-(2**53), 2**53),
    cache_scope=st.none() | st.sampled_from(terms.SCOPES),
    end_user=st.none() | st.builds(Rates, **RATES),
)
LEVELS = st.tuples(TERMS, TERMS, TERMS)
LIMITS = ("rpm", "tpm", "rpd", "tpd", "concurrency", "budget_nanousd")


def key_of(org: Terms, project: Terms, own: Terms) -> Key:
    record = KeyRecord(id="k", org="o", project="p", name="n", prefix="", sha256=keys.digest("x"), terms=own)
    (key,) = keys.resolve(Registry(organisations={"o": org}, projects={"o": {"p": project}}, keys=[record]))
    return key


@given(TERMS)
def test_complaint_16_an_inherited_limit_binds_exactly_like_a_direct_one(one: Terms) -> None:
    found = [key_of(*(one if level == place else NOTHING for level in range(3))) for place in range(3)]
    for key in found[:2]:
        assert (key.models, key.band) == (found[2].models, found[2].band)
        assert nameless(key.end_users) == nameless(found[2].end_users)
        assert nameless(key.bounds) == nameless(found[2].bounds)
    if found[0].bounds:
        assert [key.bounds[0].account for key in found] == ["org:o", "project:o/p", "key:k"]
    if found[0].end_users:
        assert [key.end_users[0].account for key in found] == ["user:o/", "user:o/p/", "user:o/p/k/"]


def nameless(bounds: tuple[Bound, ...]) -> list[Bound]:
    return [msgspec.structs.replace(bound, account="") for bound in bounds]


def test_complaint_17_nothing_configured_is_no_limit() -> None:
    key = key_of(NOTHING, NOTHING, NOTHING)
    assert (key.bounds, key.end_users, key.models) == ((), (), None)
    assert (key.band, key.weight, key.tenant) == ("standard", 1.0, "project:o/p")


def test_complaint_15_an_unknown_end_user_has_the_limits_of_every_level() -> None:
    key = key_of(
        Terms(end_user=Rates(budget_nanousd=100, budget_period="month")),
        Terms(end_user=Rates(rpm=5, budget_nanousd=30, budget_period="day")),
        Terms(end_user=Rates(rpm=7, concurrency=2)),
    )
    assert key.end_users == (
        Bound(account="user:o/", budget_nanousd=100),
        Bound(account="user:o/p/", rpm=5, budget_nanousd=30, budget_period="day"),
        Bound(account="user:o/p/k/", rpm=7, concurrency=2),
    )


def test_an_end_user_is_a_part_of_every_level_above_and_of_no_other() -> None:
    lowest = accounts.users("o", "p", "k") + "h"
    assert accounts.of_users_above(lowest) == ("user:o/h", "user:o/p/h", "user:o/p/k/h")
    assert accounts.of_users_above("user:o/p/h") == ("user:o/h", "user:o/p/h")


@given(LEVELS)
def test_every_limit_of_every_level_is_a_bound_of_that_level(levels: tuple[Terms, Terms, Terms]) -> None:
    bounds = {bound.account: bound for bound in key_of(*levels).bounds}
    for account, one in zip(("org:o", "project:o/p", "key:k"), levels, strict=True):
        bound = bounds.get(account)
        for limit in LIMITS:
            assert getattr(one, limit) == (None if bound is None else getattr(bound, limit))
        binds = one.credit == "prepaid" or (one.credit == "payg" and one.floor_nanousd is not None)
        assert binds == (bound is not None and bound.credit)
        if bound is not None:
            assert bound.floor_nanousd == (one.floor_nanousd or 0)
    users = {bound.account: bound for bound in key_of(*levels).end_users}
    for account, one in zip(("user:o/", "user:o/p/", "user:o/p/k/"), levels, strict=True):
        for limit in LIMITS:
            assert getattr(one.end_user, limit, None) == getattr(users.get(account), limit, None)


@given(LEVELS)
def test_the_tightest_wins(levels: tuple[Terms, Terms, Terms]) -> None:
    key = key_of(*levels)
    for name in "abcd":
        allowed = key.models is None or name in key.models
        assert allowed == all(one.models is None or name in one.models for one in levels)
    for one in levels:
        assert one.band is None or terms.BANDS.index(key.band) <= terms.BANDS.index(one.band)
    scopes = [one.cache_scope for one in levels if one.cache_scope] or ["project"]
    narrowest = min(scopes, key=("key", "project", "organisation").index)
    assert key.tenant == {"key": "key:k", "project": "project:o/p", "organisation": "org:o"}[narrowest]


@given(LEVELS)
def test_the_order_of_levels_does_not_matter_to_what_is_allowed(levels: tuple[Terms, Terms, Terms]) -> None:
    forth, back = key_of(*levels), key_of(*levels[::-1])
    assert (forth.models, forth.band, forth.tenant) == (back.models, back.band, back.tenant)


@given(LEVELS)
def test_a_weight_is_the_share_of_its_own_level(levels: tuple[Terms, Terms, Terms]) -> None:
    key = key_of(*levels)
    shares = dict(key.within) | {"key:k": key.weight}
    for account, one in zip(("org:o", "project:o/p", "key:k"), levels, strict=True):
        assert shares[account] == (1.0 if one.weight is None else one.weight)


@given(TERMS, TERMS)
def test_terms_survive_every_way_they_are_kept_and_a_patch_changes_what_it_names(
    before: Terms, after: Terms
) -> None:
    kept = msgspec.json.decode(msgspec.json.encode(before), type=Terms)
    assert kept == before
    patch = {name: msgspec.to_builtins(getattr(after, name)) for name in Terms.__struct_fields__}
    assert terms.merged(before, patch) == after
    assert terms.merged(before, {}) == before
    assert terms.merged(before, dict.fromkeys(Terms.__struct_fields__)) == NOTHING


@pytest.mark.parametrize(
    "patch",
    [{"rpm": 0}, {"rpm": "5"}, {"models": []}, {"weight": 0}, {"end_user": {"models": ["a"]}}, {"x": 1}],
)
def test_terms_that_cannot_be_are_refused(patch: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        terms.merged(NOTHING, patch)
