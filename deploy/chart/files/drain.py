"""The preStop hook: returns when the engine has no request left, or in time. Arguments: port, seconds."""

import re
import sys
import time
import urllib.request

HEARD_S = 5.0  # until every gateway has heard that this pod goes
COUNT = re.compile(r"^vllm:num_requests_(?:running|waiting)(?:\{[^}]*\})? (\S+)$", re.MULTILINE)


def left(port):
    """Requests that the engine still has; none where it does not tell."""
    try:
        with urllib.request.urlopen("http://127.0.0.1:" + port + "/metrics", timeout=2) as reply:
            return sum(float(count) for count in COUNT.findall(reply.read().decode()))
    except OSError:
        return 0.0


def main(port, seconds):
    until_s = time.monotonic() + float(seconds)
    time.sleep(min(HEARD_S, float(seconds)))
    while time.monotonic() < until_s and left(port):
        time.sleep(0.5)


main(*sys.argv[1:])
