"""``make bench``: a table on stdout and ``bench/results.json``; ``PROFILE=1``: a flame graph instead.

Every row is measured in the same run, the rows in turn in each round; a figure is the median of the rounds.
CPU is the server process's own accounting (user and system) over all completed requests or chunks, least
touched by other work on the machine. Each server runs on the last core, load and upstream on the first.
"""

import argparse
from pathlib import Path

from bench import profile, report
from bench.contenders import LITELLM_VERSION, contenders
from bench.measure import measure_all


def main() -> None:
    """Run and write."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each phase")
    parser.add_argument("--out", type=Path, default=report.RESULTS)
    parser.add_argument("--readme", action="store_true", help="write the table into README.md too")
    parser.add_argument(
        "--litellm",
        nargs="?",
        const=LITELLM_VERSION,
        default="",
        metavar="VERSION",
        help="install LiteLLM and measure it too",
    )
    parser.add_argument("--profile", action="store_true", help="a flame graph of the gateway under load")
    parser.add_argument("--only", default="", help="rows whose name holds this text (and direct)")
    options = parser.parse_args()
    if options.profile:
        full = next(one for one in contenders() if "everything" in one.name)
        svg = report.ROOT / "bench" / "profile.svg"
        print(profile.run(full, options.seconds, svg))
        print(f"\n{svg.relative_to(Path.cwd()) if svg.is_relative_to(Path.cwd()) else svg}")
        return
    wanted = [
        one for one in contenders(litellm=options.litellm) if one.name == "direct" or options.only in one.name
    ]
    results = measure_all(wanted, options.rounds, options.seconds)
    report.write(results, options.out, readme=options.readme)
    print(report.section(results))


if __name__ == "__main__":
    main()
