"""``switchgear fleet``: the replicas of a running gateway, by its admin API."""

import argparse
import asyncio
import json
import os
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import quote

from gateway.commands import address, credentials, fleet_run
from gateway.commands.base import CommandError, add_config
from gateway.config_file import load
from gateway.outbound import notices

WATCH_S = 2.0
SERVING = ("ready", "sleeping", "draining")
ACTIONS = ("drain", "resume", "sleep", "wake", "reclaim")


def register(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    apart = actions.add_parser("run", help="launch and scale the engines, apart from the gateways")
    fleet_run.add_options(apart)
    listing = actions.add_parser(
        "list", help="replicas and their phases; the logs of those that do not serve"
    )
    listing.add_argument("--logs", action="store_true", help="the ends of all logs")
    _common(listing)
    for name in ACTIONS:
        one = actions.add_parser(name, help=f"{name} a replica")
        one.add_argument("target", metavar="REPLICA")
        if name == "reclaim":
            one.add_argument("--notice-s", type=float, default=30.0, help="how long its machine stays")
        _common(one)
    versions = actions.add_parser("versions", help="show a model's versions, or shift traffic between them")
    versions.add_argument("target", metavar="MODEL")
    versions.add_argument("shares", nargs="*", metavar="VERSION=SHARE", help="together 1; none: only show")
    _common(versions)
    rollback = actions.add_parser("rollback", help="take back the last shift between a model's versions")
    rollback.add_argument("target", metavar="MODEL")
    _common(rollback)
    watch = actions.add_parser("watch", help="on a spot machine: pass the cloud's notice on as a reclaim")
    watch.add_argument("target", metavar="REPLICA", nargs="+", help="the replicas that run on this machine")
    watch.add_argument("--cloud", choices=sorted(notices.BASES), required=True)
    watch.add_argument("--metadata-url", help="of the metadata service, where it is not the cloud's own")
    _common(watch)
    watch.set_defaults(run=_watch)
    scale = actions.add_parser("scale", help="hold a launched model at a number of replicas")
    scale.add_argument("target", metavar="MODEL")
    scale.add_argument("replicas", help="a number, or 'auto' to give it back to the autoscaler")
    _common(scale)


def _common(parser: argparse.ArgumentParser) -> None:
    add_config(parser, required=False)
    parser.add_argument(
        "--base-url", help="of the gateway; default: as the one on --config says, else port 8080"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Ask, and print what came."""
    target = quote(getattr(options, "target", ""), safe="")
    match options.action:
        case "list":
            found = _call(options, "GET", "replicas?limit=200")
            rows = found["data"]
        case "scale":
            count = None if options.replicas == "auto" else _number(options.replicas)
            found = _call(options, "POST", f"models/{target}/scale", {"replicas": count})
            rows = []
        case "versions" | "rollback" as verb:
            found = _versions(options, target, verb)
            rows = []
        case verb:
            body = {"notice_s": options.notice_s} if verb == "reclaim" else None
            found = _call(options, "POST", f"replicas/{target}/{verb}", body)
            rows = [found]
    if options.json:
        print(json.dumps(found))
    elif "data" in found and "model" in found:
        for one in found["data"]:
            keys = f"  keys {', '.join(one['keys'])}" if one["keys"] else ""
            print(f"{one['name']}  share {one['share']:g}  ready {one['ready']}{keys}")
    elif not rows:
        print(
            f"{found['name']}: {found['scaling']['desired']} replicas wanted ({found['scaling']['reason']})"
        )
    for row in rows if not options.json else ():
        print("\n".join(lines_of(row, logs=getattr(options, "logs", False))))
    return 0


def lines_of(row: dict[str, Any], *, logs: bool) -> list[str]:
    """Give the lines of one replica; its log where it does not serve, or where ``logs`` asks for it."""
    lines = [
        f"{row['id']}  {row['model']}  {row['phase']}  running {row['running']}  {row['reason']}".rstrip()
    ]
    if row["start"]:
        steps = ", ".join(f"{one['step']} {one['seconds']:.1f} s" for one in row["start"])
        lines.append(f"    start: {steps}")
    if logs or row["phase"] not in SERVING:
        lines += [f"    {line}" for line in row["log"]]
    return lines


def _watch(options: argparse.Namespace) -> int:
    """Ask every two seconds; end when the notice came and was passed on."""
    while (left_s := _noticed(options)) is None:
        time.sleep(WATCH_S)
    for target in options.target:
        path = f"replicas/{quote(target, safe='')}/reclaim"
        _call(options, "POST", path, {"notice_s": min(left_s, 3600.0)})
        print(f"{target}: reclaimed, {left_s:.0f} s before its machine goes", flush=True)
    return 0


def _noticed(options: argparse.Namespace) -> float | None:
    """Give how long this machine stays; None while nobody wants it back or nobody says."""
    try:
        return asyncio.run(notices.notice_s(options.cloud, time.time(), options.metadata_url))
    except notices.NoMetadata as error:
        print(f"switchgear: {error}; asking again", file=sys.stderr, flush=True)
        return None


def _versions(options: argparse.Namespace, target: str, verb: str) -> Any:
    """Show, shift or roll back."""
    if verb == "rollback":
        return _call(options, "POST", f"models/{target}/rollback")
    if not options.shares:
        return _call(options, "GET", f"models/{target}/versions")
    shares = {}
    for text in options.shares:
        name, _, share = text.partition("=")
        try:
            shares[name] = float(share)
        except ValueError:
            raise CommandError(f"{text!r} is not VERSION=SHARE, such as 2026-12=0.1") from None
    return _call(options, "POST", f"models/{target}/versions", {"shares": shares})


def _number(text: str) -> int:
    if not text.isdecimal():
        raise CommandError(f"{text!r} is not a number of replicas; give one, or 'auto'")
    return int(text)


def _gateway(options: argparse.Namespace) -> tuple[str, str]:
    """Give the gateway's root URL and its admin key. Raises CommandError."""
    path: Path | None = options.config
    key = os.environ.get(credentials.ADMIN_ENV)
    if not key and path is not None and (beside := credentials.read(path.absolute().parent)) is not None:
        key = beside.admin_key
    if not key:
        raise CommandError(
            f"{credentials.ADMIN_ENV} is not set; it is the gateway's admin key. Or give --config FILE, to "
            f"take it from the {credentials.FILE} beside that file"
        )
    if options.base_url is not None:
        return str(options.base_url), key
    return ("http://127.0.0.1:8080" if path is None else address.of(load(path))), key


def _call(options: argparse.Namespace, method: str, path: str, body: object = None) -> Any:
    url, key = _gateway(options)
    url = url.rstrip("/").removesuffix("/v1")
    if not url.startswith(("http://", "https://")):
        raise CommandError(f"--base-url: {url!r} is no http address")
    request = urllib.request.Request(  # noqa: S310 - the scheme is checked above
        f"{url}/admin/v1/{path}",
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"authorization": f"Bearer {key}", "content-type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=180) as reply:  # noqa: S310 - as above
            return json.load(reply)
    except urllib.error.HTTPError as error:
        with error:
            said = error.read(10_000).decode(errors="replace")
        try:
            said = json.loads(said)["error"]["message"]
        except (ValueError, KeyError, TypeError):
            print(said, file=sys.stderr)
        raise CommandError(f"the gateway answered {error.code}: {said}") from None
    except OSError as error:
        raise CommandError(
            f"no gateway answers at {url}: {error}. Start it, or name another address with --base-url"
        ) from None
