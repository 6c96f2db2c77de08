"""One file per OpenAI resource; raw ASGI shells around the pipeline."""
