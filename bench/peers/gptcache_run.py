"""GPTCache as its documentation sets it up (SQLite, faiss, search distance), with another embedding.

It has no scope: a request is its last text. Its bound on entries (1,000) is raised to the stream's length.
"""

from typing import Any

from gptcache import Config, cache  # type: ignore[import-not-found]  # it is in an environment of its own
from gptcache.adapter.api import get, put  # type: ignore[import-not-found]  # as above
from gptcache.manager import CacheBase, VectorBase, get_data_manager  # type: ignore[import-not-found]
from gptcache.processor.pre import get_prompt  # type: ignore[import-not-found]  # as above
from gptcache.similarity_evaluation.distance import (  # type: ignore[import-not-found]  # as above
    SearchDistanceEvaluation,
)
from stream import Row, Run, Vectors  # type: ignore[import-not-found]  # run as a script, beside it


def main() -> None:
    """Run one stream."""
    run = Run()
    dimensions = len(next(iter(run.vector_of.values())))

    def embed(text: str, **_: Any) -> Vectors:
        vector: Vectors = run.vector_of[text]
        return vector

    manager = get_data_manager(
        CacheBase("sqlite", sql_url=f"sqlite:///{run.folder}/gptcache.db"),
        VectorBase("faiss", dimension=dimensions, index_path=f"{run.folder}/faiss.index"),
        max_size=len(run.rows),
    )
    cache.init(
        pre_embedding_func=get_prompt,
        embedding_func=embed,
        data_manager=manager,
        similarity_evaluation=SearchDistanceEvaluation(),
        config=Config(similarity_threshold=run.threshold, log_time_func=None),
    )

    def ask(row: Row) -> str | None:
        served: str | None = get(row["text"])
        return served

    run.decide(ask, lambda row: put(row["text"], row["id"]))


if __name__ == "__main__":
    main()
