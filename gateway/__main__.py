"""The ``switchgear`` command."""

import argparse
import os
import sys
from collections.abc import Sequence

from gateway import commands

# numpy's own threads spin while they wait: on rows as short as ours they cost more than they give.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


class Version(argparse.Action):
    """Print the installed version and end."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        """Look it up, which takes as long as a command's start: only where it is asked for."""
        import importlib.metadata

        print(f"switchgear {importlib.metadata.version('switchgear')}")
        parser.exit()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; gives the exit status."""
    try:
        options = _parsed(list(sys.argv[1:] if arguments is None else arguments))
        status = int(options.run(options))
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever read the output has seen enough; what is left goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except commands.expected_errors() as error:
        print(f"switchgear: {error}", file=sys.stderr)
        return 1


def _parsed(given: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="switchgear",
        description="An OpenAI-compatible, multi-model gateway that also runs the fleet behind it.",
    )
    parser.add_argument("--version", action=Version, nargs=0, help="print the version and exit")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    wanted = next((word for word in given if not word.startswith("-")), "")
    for name, summary in commands.COMMANDS.items():
        subparser = subparsers.add_parser(name, help=summary, description=summary)
        if name == wanted:  # the others are not even imported: a command starts as fast as it can
            commands.load(name).register(subparser)
    return parser.parse_args(given)


if __name__ == "__main__":
    sys.exit(main())
