"""The embedding child: sentence-transformers behind OpenAI's `/v1/embeddings`.

The child is one self-contained file (`embed_server.py`), run by its path in the engine's environment: that
one holds torch and none of this project, the gateway's holds this project and no torch.
"""

from pathlib import Path

from backends.engines.profile import CannotLaunch, Engine, LaunchCommand, LaunchContext, LaunchProfile

SERVER = Path(__file__).with_name("embed_server.py")


def launch(profile: LaunchProfile, context: LaunchContext) -> LaunchCommand:
    if context.kind != "embedding":
        raise CannotLaunch(
            f'engine = "local" serves kind = "embedding", not {context.kind!r}; use engine = "vllm"'
        )
    threads = max(len(profile.cpu_cores), 1)
    argv = [context.python, "-P", str(SERVER), "--model", profile.weights]
    argv += ["--host", "127.0.0.1", "--port", str(context.port), "--served-name", context.served_name]
    argv += ["--threads", str(threads), "--shutdown-timeout", str(profile.shutdown_timeout_s)]
    if profile.cpu_cores:
        argv += ["--cores", ",".join(map(str, profile.cpu_cores))]
    env = {"PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": str(threads)}
    if profile.local:
        env |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    if not profile.gpus:
        env["CUDA_VISIBLE_DEVICES"] = ""
    return LaunchCommand(
        argv=(*argv, *profile.extra_args),
        env=env | profile.env,
        shutdown_timeout_s=profile.shutdown_timeout_s,
    )


ENGINE = Engine(
    name="local",
    launch=launch,
    health_path="/health",
    caches_kv=False,
    stages=(("embed: loading", "loading weights", "weights"), ("embed: ready", "ready", "warm-up")),
)
