"""What affinity gains in real vLLM's own prefix-cache counters: two replicas of the small model."""

import random
import re
import secrets
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.appliance import Appliance, fetch

pytestmark = pytest.mark.soak

CONVERSATIONS, TURNS = 7, 4
COUNTERS = ("vllm:prefix_cache_queries_total", "vllm:prefix_cache_hits_total")
CONFIG = """
[server]
port = 0
state_dir = "{home}/state"
[database]
url = "sqlite:///{home}/switchgear.db"
[[models]]
name = "small"
policy = "{policy}"
context_tokens = 4096
[models.launch]
weights = "{weights}"
min_replicas = 2
kv_cache_bytes = 1073741824
[cache]
exact_ttl_s = 0
"""


class Pair:
    """The appliance over two replicas, and its configuration."""

    def __init__(self, home: Path, directory: Path, weights: Path) -> None:
        self._home, self._weights = home, weights
        self._config = home / "switchgear.toml"
        self._write("round_robin")
        self.appliance = Appliance(home, directory, "--config", str(self._config))

    def _write(self, policy: str) -> None:
        self._config.write_text(CONFIG.format(home=self._home, weights=self._weights, policy=policy))

    def use(self, policy: str) -> None:
        """Put another policy in force; the replicas go on."""
        self._write(policy)
        self.appliance.process.send_signal(signal.SIGHUP)

    def counters(self) -> tuple[float, float]:
        """Tokens that were looked up in the replicas' prefix caches, and tokens found."""
        sums = dict.fromkeys(COUNTERS, 0.0)
        for replica in ("small-0", "small-1"):
            root = self.appliance.direct(replica).removesuffix("/v1")
            text = fetch(f"{root}/metrics", method="GET").body.decode()
            for name in COUNTERS:
                found = re.findall(rf"^{name}{{[^}}]*}} (\S+)$", text, re.MULTILINE)
                assert found, f"{name} is not among the metrics of {replica}"
                sums[name] += sum(map(float, found))
        return sums[COUNTERS[0]], sums[COUNTERS[1]]


@pytest.fixture(scope="module")
def pair(demo_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    home, directory = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("pair")
    made = Pair(home, directory, demo_home / "models" / "small")
    try:
        made.appliance.started()
        yield made
        assert made.appliance.stop() == 0
    finally:
        made.appliance.destroy()


def words(draw: random.Random, count: int) -> str:
    return " ".join(draw.choice(("river", "stone", "cloud", "paper", "light", "green")) for _ in range(count))


def talk(pair: Pair, seed: int) -> float:
    """Lead several conversations at once, none of them seen before; gives the share of tokens found."""
    draw, nonce = random.Random(seed), secrets.token_hex(8)
    system = {"role": "system", "content": f"{nonce} {words(draw, 200)}"}
    histories = [[system] for _ in range(CONVERSATIONS)]
    queries, hits = pair.counters()
    with ThreadPoolExecutor(2) as pool:
        for turn in range(TURNS):
            for number, history in enumerate(histories):
                history.append({"role": "user", "content": f"{number}/{turn} {words(draw, 150)}"})
            order = draw.sample(histories, len(histories))
            bodies = [{"model": "small", "messages": history, "max_tokens": 4} for history in order]
            replies = list(pool.map(lambda body: pair.appliance.post("/chat/completions", body), bodies))
            assert [reply.status for reply in replies] == [200] * CONVERSATIONS
            for history, reply in zip(order, replies, strict=True):
                history.append(reply.json["choices"][0]["message"])
    queries_after, hits_after = pair.counters()
    return (hits_after - hits) / (queries_after - queries)


def test_affinity_finds_more_in_the_prefix_caches_than_taking_turns(pair: Pair) -> None:
    shares = {}
    for policy in ("round_robin", "prefix_affine", "adaptive"):
        pair.use(policy)
        shares[policy] = talk(pair, seed=1)
    print({policy: round(share, 3) for policy, share in shares.items()})
    assert shares["prefix_affine"] > 1.1 * shares["round_robin"]
    # It goes by what a prefix saves against what stands before it, so by the machine's load too.
    assert shares["adaptive"] > 0.9 * shares["round_robin"]
