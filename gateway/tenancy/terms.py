"""What an organisation, a project or a key is allowed and limited to, and how the levels combine. Pure.

Every field is optional: None means that nothing is configured there. The tightest wins: models intersect, the
lowest band counts, the narrowest cache scope; rates, budgets and credit bind at each level by its own
counter, and so do the limits that a level has for each of its end users. A weight is a level's share against
its like under the same roof. The same struct is what the admin API takes, what SQL keeps and what a start
without SQL reads.
"""

import math
from collections.abc import Iterable
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from gateway.settings import Band
from gateway.state.limits import Bound
from gateway.state.periods import DAY_S, Period

# A browser's numbers are exact up to 2**53, and so must be every amount that passes through one.
Count = Annotated[int, Meta(ge=1, le=2**53)]
Credit = Literal["prepaid", "payg"]
CacheScope = Literal["key", "project", "organisation"]
ModelName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}$")]

BANDS: tuple[Band, ...] = ("batch", "standard", "interactive")  # lowest first
SCOPES: tuple[CacheScope, ...] = ("key", "project", "organisation")  # narrowest first
DEFAULT_BAND: Band = "standard"
DEFAULT_SCOPE: CacheScope = "project"


class Rates(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Limits per minute, per day, at once, and of spending per period."""

    rpm: Annotated[Count, Meta(description="Requests per minute.")] | None = None
    tpm: Annotated[Count, Meta(description="Tokens per minute.")] | None = None
    rpd: Annotated[Count, Meta(description="Requests per day.")] | None = None
    tpd: Annotated[Count, Meta(description="Tokens per day.")] | None = None
    concurrency: Annotated[Count, Meta(description="Requests at once.")] | None = None
    budget_nanousd: Annotated[int, Meta(ge=0, le=2**53, description="Spending per period.")] | None = None
    budget_period: Annotated[Period, Meta(description="The budget's period, in UTC.")] = "month"


class Terms(Rates, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Everything that a level may have."""

    models: (
        Annotated[
            tuple[ModelName, ...], Meta(min_length=1, max_length=1000, description="Models and routes.")
        ]
        | None
    ) = None
    band: Annotated[Band, Meta(description="The highest priority band.")] | None = None
    weight: Annotated[float, Meta(gt=0, le=1e6, description="Share within a band.")] | None = None
    credit: Annotated[Credit, Meta(description="Whether a balance binds, and how it is paid.")] | None = None
    floor_nanousd: (
        Annotated[int, Meta(ge=-(2**53), le=2**53, description="What the balance may not pass.")] | None
    ) = None
    cache_scope: Annotated[CacheScope, Meta(description="Who shares cached answers.")] | None = None
    retention_days: (
        Annotated[
            int,
            Meta(
                ge=0, le=36500, description="How long content is kept: kept answers, end user and metadata."
            ),
        ]
        | None
    ) = None
    metadata: (
        Annotated[
            dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=512)]],
            Meta(max_length=16, description="Your own notes."),
        ]
        | None
    ) = None
    resumable: Annotated[bool, Meta(description="Whether all streams can be resumed.")] | None = None
    large_share: (
        Annotated[float, Meta(ge=0, le=1, description="Share of the largest tier that routes aim at.")] | None
    ) = None
    most_large_share: (
        Annotated[float, Meta(ge=0, le=1, description="The most that a request may wish for.")] | None
    ) = None
    end_user: Annotated[Rates, Meta(description="Limits of each end user, known or not.")] | None = None


NOTHING = Terms()


def merged(terms: Terms, patch: dict[str, Any]) -> Terms:
    """Give the terms with the fields of a JSON merge patch: null removes. Raises msgspec.ValidationError."""
    fields: dict[str, Any] = {**msgspec.to_builtins(terms), **patch}
    return msgspec.convert({name: value for name, value in fields.items() if value is not None}, Terms)


def bound(account: str, terms: Terms) -> Bound | None:
    """Give the limits that one level counts on its account; None where it has none.

    Pay-as-you-go without a floor has no credit limit, so that its balance binds nothing.
    """
    credit = terms.credit == "prepaid" or (terms.credit == "payg" and terms.floor_nanousd is not None)
    return _bound(account, terms, credit=credit, floor_nanousd=terms.floor_nanousd or 0)


def end_user_bound(prefix: str, terms: Terms) -> Bound | None:
    """Give the limits that a level has for each of its end users; None where it has none.

    Its account is what theirs begin with.
    """
    return None if terms.end_user is None else _bound(prefix, terms.end_user, credit=False, floor_nanousd=0)


def _bound(account: str, rates: Rates, *, credit: bool, floor_nanousd: int) -> Bound | None:
    limits = (rates.rpm, rates.tpm, rates.rpd, rates.tpd, rates.concurrency, rates.budget_nanousd)
    if not credit and all(limit is None for limit in limits):
        return None
    return Bound(
        account=account,
        rpm=rates.rpm,
        tpm=rates.tpm,
        rpd=rates.rpd,
        tpd=rates.tpd,
        concurrency=rates.concurrency,
        budget_nanousd=rates.budget_nanousd,
        budget_period=rates.budget_period,
        credit=credit,
        floor_nanousd=floor_nanousd,
    )


def allowed_models(levels: Iterable[Terms]) -> frozenset[str] | None:
    """Give the names that every level allows; None where no level names any."""
    found: frozenset[str] | None = None
    for terms in levels:
        if terms.models is not None:
            found = frozenset(terms.models) if found is None else found & frozenset(terms.models)
    return found


def lowest_band(levels: Iterable[Terms]) -> Band:
    """Give the lowest band that is configured."""
    return min((terms.band for terms in levels if terms.band), key=BANDS.index, default=DEFAULT_BAND)


def retention_s(levels: Iterable[Terms]) -> float:
    """Give for how long content is kept at the most: the least that is configured, else for ever."""
    return min(
        (terms.retention_days * DAY_S for terms in levels if terms.retention_days is not None),
        default=math.inf,
    )


def narrowest_scope(levels: Iterable[Terms]) -> CacheScope:
    """Give the narrowest cache scope that is configured."""
    return min(
        (one.cache_scope for one in levels if one.cache_scope), key=SCOPES.index, default=DEFAULT_SCOPE
    )


def resumable(levels: Iterable[Terms]) -> bool:
    """Tell whether the lowest level that says anything makes streams resumable."""
    said = [terms.resumable for terms in levels if terms.resumable is not None]
    return bool(said and said[-1])


def large_share(levels: Iterable[Terms]) -> float | None:
    """Give the share of the largest tier that the lowest level which says anything aims at."""
    said = [terms.large_share for terms in levels if terms.large_share is not None]
    return said[-1] if said else None


def most_large_share(levels: Iterable[Terms]) -> float:
    """Give the least of what the levels allow."""
    said = [terms.most_large_share for terms in levels if terms.most_large_share is not None]
    return min(said, default=1.0)
