"""The ``switchgear`` command."""

import argparse
import sys
from collections.abc import Sequence

from gateway import commands


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; gives the exit status."""
    parser = argparse.ArgumentParser(
        prog="switchgear",
        description="An OpenAI-compatible, multi-model gateway that also runs the fleet behind it.",
    )
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in commands.load():
        command.register(subparsers)
    options = parser.parse_args(arguments)
    try:
        return int(options.run(options))
    except KeyboardInterrupt:
        return 130
    except commands.expected_errors() as error:
        print(f"switchgear: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
