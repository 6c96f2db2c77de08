"""Memory for accounts is bounded, although anybody may name a new end user with each request."""

from typing import Protocol, TypeVar

SWEEP_ABOVE = 4096
ACCOUNTS_LIMIT = 50_000


class Sweepable(Protocol):
    """What may be forgotten."""

    @property
    def busy(self) -> bool:
        """Whether a request that runs needs it."""

    def idle(self, now_s: float) -> bool:
        """Tell whether a new one would behave the same."""


T = TypeVar("T", bound=Sweepable)


def sweep(accounts: dict[str, T], now_s: float) -> int:
    """Forget what is idle; of too many end users, the oldest also where they have spent something.

    Gives the number of accounts from which on it is worth while to sweep again.
    """
    for name in [name for name, account in accounts.items() if account.idle(now_s)]:
        del accounts[name]
    if len(accounts) > ACCOUNTS_LIMIT:
        users = [name for name, one in accounts.items() if name.startswith("user:") and not one.busy]
        for name in users[: len(accounts) - ACCOUNTS_LIMIT // 2]:
            del accounts[name]
    return min(max(SWEEP_ABOVE, 2 * len(accounts)), max(ACCOUNTS_LIMIT, len(accounts)) + SWEEP_ABOVE)
