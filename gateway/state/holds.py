"""Money that several processes share: each may only use what it holds, and SQL gives the holds out.

A hold is what a process may have reserved, and spent without SQL knowing it yet. SQL sees to it that all
holds of an account, and all that is booked, are never more than its limit (``gateway.tenancy.holds``). So
nothing has to be asked or told while a request runs, no other store can lose what was spent, and what a
process cannot tell any more, because it was killed, stays held until its journal is carried.

A hold is taken with the first request, and with about half of what is left, so that it seldom has to grow. A
request that does not fit waits for a round with SQL. Near the end of a limit the processes ask each other,
through SQL, to give up what they do not need: whoever was asked, or had to ask, keeps no more than what is
reserved.

While SQL is away, or does not answer in time, a process goes on with its hold, and beyond it up to its share
of what was left when SQL was asked last.
"""

import asyncio
import contextlib
from collections.abc import Sequence

import msgspec

from gateway.state.limits import Bound, Standing, Verdict
from gateway.state.money import Purse, Purses, lacking, reserve

LEASE_S = 10.0
LOOK_S = 1.0  # how often others' wishes are heard
AGAIN_S = 0.25  # until others may have given up what they do not need
PATIENCE_S = 3.0  # of a request: others hear a wish within LOOK_S
DRY_S = 1.0  # for so long it is not asked again for what is not there
CONTESTED_S = 10.0
UNUSED_S = 60.0
TIDY_S = 10.0


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """What a process holds of an account, what it needs, and whether it wants some of the rest, too.

    ``need`` is what is reserved and what requests wait for, of which ``least`` is the smallest.
    """

    bound: Bound
    held: int
    reserved: int
    need: int
    least: int = 0
    spare: bool


class Grant(msgspec.Struct, frozen=True, kw_only=True):
    """What a process holds now, what others hold without need, and what SQL knows of the account."""

    account: str
    held: int
    others_spare: int
    standing: Standing


class Round(msgspec.Struct, frozen=True, kw_only=True):
    """What SQL answers: to each wish, which accounts others want more of, and whether all holds were lost."""

    grants: Sequence[Grant] = ()
    asked: Sequence[str] = ()
    lapsed: bool = False


class SharedPurses(Purses):
    """The purses of one of several processes; ``share`` is how many there are, while SQL is away."""

    def __init__(self, share: int = 1) -> None:
        super().__init__()
        self.share = share
        self.alone = False
        self._lease_until_s = self._tidied_s = 0.0
        self._due: set[str] = set()
        self._later: dict[str, float] = {}  # whoever waits for others, and until when
        self._wake = asyncio.Event()
        self._round: asyncio.Future[None] | None = None

    # ------------------------------------------------------------ the way of a request
    async def reserve(self, purses: Sequence[Purse], cost_nanousd: int, now_s: float) -> Verdict | None:
        """Reserve in all purses or in none; gives None, or what was short. Waits for SQL where it has to."""
        loop = asyncio.get_running_loop()
        until_s, alone, heard = loop.time() + PATIENCE_S, self.alone, False
        while True:
            if (refused := lacking(purses, cost_nanousd, now_s)) is not None:
                return refused
            short = [purse for purse in purses if not self._covers(purse, cost_nanousd, now_s, alone)]
            if not short:
                reserve(purses, cost_nanousd)
                self._note_use(purses, now_s)
                return None
            if alone or loop.time() >= until_s or any(now_s < purse.dry_until_s for purse in short):
                return _refusal(short[0])
            heard |= await self._wait(short, cost_nanousd, until_s)
            alone = self.alone or not heard

    def _covers(self, purse: Purse, cost_nanousd: int, now_s: float, alone: bool) -> bool:
        wanted = purse.reserved + cost_nanousd
        if alone:
            return wanted <= purse.held or purse.lacks(wanted, now_s, self.share) is None
        return wanted <= purse.held and now_s < self._lease_until_s

    def _note_use(self, purses: Sequence[Purse], now_s: float) -> None:
        for purse in purses:
            purse.used_s = now_s
            if purse.held - purse.reserved < purse.low:
                purse.low = 0
                self._want(purse)

    def _want(self, purse: Purse) -> None:
        if purse.bound.account not in self._later:
            self._due.add(purse.bound.account)
            self._wake.set()

    async def _wait(self, short: Sequence[Purse], cost_nanousd: int, until_s: float) -> bool:
        """Wait for the end of a round with SQL; False where it does not end in time."""
        if self._round is None:
            self._round = asyncio.get_running_loop().create_future()
        for purse in short:
            purse.least = min(purse.least, cost_nanousd) if purse.wanted else cost_nanousd
            purse.wanted += cost_nanousd
            self._want(purse)
        try:
            async with asyncio.timeout_at(until_s):
                await asyncio.shield(self._round)
            return True
        except TimeoutError:
            return False
        finally:
            for purse in short:
                purse.wanted -= cost_nanousd

    # ------------------------------------------------------------ rounds with SQL
    async def due(self) -> None:
        """Wait until something is wanted, or until it is time to hear what others want."""
        now_s = asyncio.get_running_loop().time()
        if self.alone:
            await asyncio.sleep(LOOK_S)
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(min((now_s + LOOK_S, *self._later.values()))):
                await self._wake.wait()

    def wishes(self, now_s: float) -> list[Wish]:
        """Say what is wanted, and give up what is not needed: it may not be used from now on."""
        self._wake.clear()
        clock_s = asyncio.get_running_loop().time()
        for name in [name for name, until_s in self._later.items() if until_s <= clock_s]:
            del self._later[name]
            self._due.add(name)
        if not 0 <= now_s - self._tidied_s < TIDY_S:
            self._tidied_s = now_s
            self._due.update(name for name, purse in self.accounts.items() if _unused(purse, now_s))
        found = [self._wish(self.accounts[name], now_s) for name in self._due if name in self.accounts]
        self._due.clear()
        return found

    def _wish(self, purse: Purse, now_s: float) -> Wish:
        need = purse.reserved + purse.wanted
        spare = now_s >= purse.contested_until_s and not _unused(purse, now_s)
        if not spare:
            purse.held = min(purse.held, purse.reserved)
        return Wish(
            bound=purse.bound,
            held=purse.held,
            reserved=purse.reserved,
            need=need,
            least=purse.least if purse.wanted else 0,
            spare=spare,
        )

    def answered(self, wishes: Sequence[Wish], found: Round, now_s: float) -> None:
        """Take over the answers to wishes."""
        self.alone = False
        self._lease_until_s = now_s + LEASE_S
        answered = {grant.account for grant in found.grants}
        if found.lapsed:
            for name, purse in self.accounts.items():
                if purse.held and name not in answered:
                    purse.held = 0
                    self._want(purse)
        for wish, grant in zip(wishes, found.grants, strict=True):
            self._take_over(self.accounts[grant.account], wish, grant, now_s)
        for name in found.asked:
            if name in self.accounts:
                self.accounts[name].contested_until_s = now_s + CONTESTED_S
                self._want(self.accounts[name])
        self._end_round()

    def _take_over(self, purse: Purse, wish: Wish, grant: Grant, now_s: float) -> None:
        purse.held += grant.held - wish.held
        purse.low = (purse.held - purse.reserved) // 2 if wish.spare and grant.held > wish.held else 0
        purse.book(grant.standing, now_s)
        if grant.held >= wish.need:
            return
        purse.contested_until_s = now_s + CONTESTED_S
        if grant.others_spare > 0:
            self._later[grant.account] = asyncio.get_running_loop().time() + AGAIN_S
        else:
            purse.dry_until_s = now_s + DRY_S

    def lost(self) -> None:
        """Hear that SQL cannot be asked: go on alone."""
        self.alone = True
        self._end_round()

    def _end_round(self) -> None:
        if self._round is not None:
            self._round.set_result(None)
            self._round = None


def _unused(purse: Purse, now_s: float) -> bool:
    return purse.held > 0 and not (purse.reserved or purse.wanted) and now_s - purse.used_s > UNUSED_S


def _refusal(purse: Purse) -> Verdict:
    bound = purse.bound
    return Verdict(
        short="credit" if bound.credit else "budget", account=bound.account, period=bound.budget_period
    )
