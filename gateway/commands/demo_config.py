"""The configuration that ``switchgear up`` writes for the demo models; yours to edit afterwards. Pure."""

from pathlib import Path

from backends.demo import DemoModels

CONTEXT_TOKENS = 4096


def demo_config(home: Path, models: DemoModels, *, gpu: bool, cores: int) -> str:
    """Give the TOML text for a machine with this many CPU cores, with or without a GPU."""
    half = max(1, cores // 2)
    first = list(range(half))
    second = list(range(half, cores)) or first
    return "\n".join(
        [
            "# Written by 'switchgear up' for its demo models. Edit it: it is written only if missing.",
            "[server]",
            f'state_dir = "{home / "state"}"',
            "",
            "[database]",
            f'url = "sqlite:///{home / "switchgear.db"}"',
            "",
            *_chat("small", models.small, "0.05", "0.01", "0.20"),
            "tools = false  # too small to call them: 'auto' takes the other model where a request has tools",
            *_launch(models.small, first, gpu),
            *_chat("large", models.large, "0.20", "0.04", "0.80"),
            *_launch(models.large, second, gpu),
            "[[models]]",
            'name = "embed"',
            'kind = "embedding"',
            'engine = "local"',
            "context_tokens = 256",
            "price = { input = 0.01 }",
            "[models.launch]",
            f'weights = "{models.embed}"',
            "",
            "[[routes]]",
            'name = "auto"',
            'tiers = ["small", "large"]',
            "objective = { large_share = 0.3 }",
            "",
            "[cache]",
            "exact_ttl_s = 3600",
            "",
        ]
    )


def _chat(name: str, _weights: Path, *prices: str) -> list[str]:
    fresh, cached, output = prices
    factors = "cache_hit = 0.1, joined = 0.1"
    return [
        "[[models]]",
        f'name = "{name}"',
        f"context_tokens = {CONTEXT_TOKENS}",
        f"price = {{ input = {fresh}, cached_input = {cached}, output = {output}, {factors} }}",
    ]


def _launch(weights: Path, cores: list[int], gpu: bool) -> list[str]:
    where = (
        ["gpus = 1", "gpu_memory_utilization = 0.4"]
        if gpu
        else [f"cpu_cores = {cores}", f"kv_cache_bytes = {1024**3}", "max_num_seqs = 64"]
    )
    return ["[models.launch]", f'weights = "{weights}"', 'tool_parser = "hermes"', *where, ""]
