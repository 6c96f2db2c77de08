"""``switchgear chat``: talk to any gateway through the openai client; also the smoke test."""

import argparse
import os
import sys

from gateway.commands.base import CommandError


def register(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("--base-url", default=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8080/v1"))
    parser.add_argument(
        "--api-key", default=os.environ.get("OPENAI_API_KEY"), help="else OPENAI_API_KEY is taken"
    )
    parser.add_argument("--model", default="auto")
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("prompt")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Ask and stream the answer to stdout; which model answered goes to stderr."""
    if not options.api_key:
        raise CommandError(
            "no API key: give --api-key or set OPENAI_API_KEY; 'switchgear up' keeps one in credentials.json "
            "of its home (.switchgear)"
        )
    import openai  # slow to import: only where it is used

    client = openai.OpenAI(base_url=options.base_url, api_key=options.api_key)
    try:
        raw = client.chat.completions.with_raw_response.create(
            model=options.model,
            messages=[{"role": "user", "content": options.prompt}],
            max_tokens=options.max_tokens,
            stream=True,
        )
        for chunk in raw.parse():
            if chunk.choices and chunk.choices[0].delta.content:
                print(chunk.choices[0].delta.content, end="", flush=True)
    except openai.APIConnectionError as error:
        raise CommandError(
            f"no connection to {options.base_url}: {error.__cause__ or error}; start the gateway, or name "
            "another address with --base-url"
        ) from None
    except openai.APIError as error:
        raise CommandError(f"the gateway answered: {error.message}") from None
    print()
    served = raw.headers.get("x-switchgear-model")
    if served:
        print(f"[{served}]", file=sys.stderr)
    return 0
