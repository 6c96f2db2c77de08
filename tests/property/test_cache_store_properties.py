"""Whatever is kept and asked in whatever order, the store stays within its bound and tells no lies."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from semantic_cache.stores.base import Entry
from semantic_cache.stores.memory import OVERHEAD_BYTES, MemoryStore
from tests.fakes.loop import now

BOUND = 4 * OVERHEAD_BYTES
keys = st.sampled_from([b"a", b"b", b"c", b"d", b"e", b"f"])


class Keeping(RuleBasedStateMachine):
    """Holds the latest entries beside the store."""

    def __init__(self) -> None:
        super().__init__()
        self.store = MemoryStore(BOUND)
        self.latest: dict[bytes, Entry] = {}
        self.now_s = 0.0

    @rule(seconds=st.floats(0, 5))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds

    @rule(key=keys, size=st.integers(0, BOUND + 10), ttl_s=st.floats(0, 10))
    def put(self, key: bytes, size: int, ttl_s: float) -> None:
        entry = Entry(
            id="e", tenant="t", model="m", body=b"x" * size, prompt_tokens=1, cached_tokens=0,
            completion_tokens=1, stored_s=self.now_s, expires_s=self.now_s + ttl_s,
        )  # fmt: skip
        now(self.store.put(key, entry))
        self.latest[key] = entry

    @rule(key=keys)
    def get(self, key: bytes) -> None:
        found = now(self.store.get(key, self.now_s))
        if found is not None:
            assert found is self.latest[key]
            assert found.expires_s > self.now_s

    @rule()
    def purge(self) -> None:
        assert now(self.store.purge()) <= len(self.latest)
        self.latest.clear()
        assert len(self.store) == 0

    @invariant()
    def bounded(self) -> None:
        assert 0 <= self.store.size_bytes <= BOUND
        assert (self.store.size_bytes == 0) == (len(self.store) == 0)


Keeping.TestCase.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
TestKeeping = Keeping.TestCase
