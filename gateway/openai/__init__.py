"""The OpenAI dialect, sans-IO: request schemas, server-sent events, answers."""
