"""A Kubernetes API server in a few pages: versions, conflicts, watches with a past that ends, faults by wish.

What an emulator off the shelf leaves out (kmock 0.8 has neither resource versions nor conflicts) is what the
gateway's promises are about. Objects stand under their full paths. A watch that asks for a version older than
what is kept is Gone (410); a PUT with an old version is a Conflict (409); a scale is its workload's.
"""

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

Object = dict[str, Any]


class Refused(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class ApiServer:
    """``faults`` may raise Refused, or wait, for a method and a path; ``scaled`` hears of new numbers."""

    def __init__(self) -> None:
        self.objects: dict[str, Object] = {}
        self.asked: list[tuple[str, str]] = []
        self.faults: Callable[[str, str], None] = lambda method, path: None
        self.scaled: Callable[[str, int], None] = lambda path, replicas: None
        self.silent = False
        """Watches begin, and then tell nothing, not even their end."""
        self.changed = threading.Condition()
        self._version, self._kept_from = 100, 0
        self._events: list[tuple[int, str, str, Object]] = []
        self._streams = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self.drop_watches()
        self._server.shutdown()
        self._server.server_close()

    # What tests do

    def put(self, path: str, body: Object) -> None:
        """Make or replace an object, as anybody else in the cluster might."""
        with self.changed:
            self._store("MODIFIED" if path in self.objects else "ADDED", path, body)

    def delete(self, path: str) -> None:
        with self.changed:
            self._store("DELETED", path, self.objects.pop(path))

    def drop_watches(self) -> None:
        """Break every stream that is open now."""
        with self.changed:
            self._streams += 1
            self.changed.notify_all()

    def forget(self) -> None:
        """Compact the past away: whoever goes on from before is Gone."""
        with self.changed:
            self._kept_from = self._version
            self._events.clear()

    # What the server does

    def answer(self, method: str, path: str, body: Object) -> Object:
        with self.changed:
            if path.endswith("/scale"):
                return self._scale(method, path.removesuffix("/scale"), body)
            if path.endswith("/eviction"):
                return self._evict(path.removesuffix("/eviction"))
            if method == "POST":
                path = f"{path}/{body['metadata']['name']}"
                if path in self.objects:
                    raise Refused(409, f"{path} already exists")
                return self._store("ADDED", path, body)
            if method == "PUT":
                self._current(path, body)
                return self._store("MODIFIED", path, body)
            if method == "PATCH":
                return self._store("MODIFIED", path, _merged(self._found(path), body))
            if path.rpartition("/")[2] in ("endpointslices", "nodes"):
                items = [one for key, one in sorted(self.objects.items()) if key.startswith(path + "/")]
                return {"metadata": {"resourceVersion": str(self._version)}, "items": items}
            return self._found(path)

    def watch(self, path: str, version: int, send: Callable[[str, Object], None], until_s: float) -> None:
        stream = self._streams
        while True:
            with self.changed:
                self.changed.wait_for(lambda: not self.silent or self._streams != stream)
                if version < self._kept_from:
                    send("ERROR", {"kind": "Status", "code": 410, "message": "too old resource version"})
                    return
                news = [one for one in self._events if one[0] > version and one[2].startswith(path + "/")]
                if not news and not self.changed.wait(max(0.0, until_s - time.monotonic())):
                    return
                if self._streams != stream:
                    return
            for number, kind, _, one in news:
                send(kind, one)
                version = number

    def _found(self, path: str) -> Object:
        if path not in self.objects:
            raise Refused(404, f"{path} not found")
        return self.objects[path]

    def _current(self, path: str, body: Object) -> Object:
        found, version = self._found(path), body["metadata"].get("resourceVersion")
        if version is not None and version != found["metadata"]["resourceVersion"]:
            raise Refused(
                409, "the object has been modified; please apply your changes to the latest version"
            )
        return found

    def _store(self, kind: str, path: str, body: Object) -> Object:
        self._version += 1
        name = path.rpartition("/")[2]
        space = path.split("/namespaces/")[1].split("/")[0] if "/namespaces/" in path else ""
        meta = {**body.get("metadata", {}), "name": name, "resourceVersion": str(self._version)}
        meta |= {"namespace": space} if space else {}
        stored: Object = json.loads(json.dumps({**body, "metadata": meta}))
        if kind != "DELETED":
            self.objects[path] = stored
        self._events.append((self._version, kind, path, stored))
        self.changed.notify_all()
        return stored

    def _scale(self, method: str, path: str, body: Object) -> Object:
        found = self._found(path)
        if method == "PUT":
            self._current(path, body)
            replicas = int(body["spec"].get("replicas", 0))
            found = self._store("MODIFIED", path, {**found, "spec": {**found["spec"], "replicas": replicas}})
            self.scaled(path, replicas)
        meta = {key: found["metadata"][key] for key in ("name", "namespace", "resourceVersion")}
        replicas = found["spec"].get("replicas", 0)  # a real server leaves out a zero
        return {"kind": "Scale", "metadata": meta, "spec": {"replicas": replicas} if replicas else {}}

    def _evict(self, path: str) -> Object:
        pod = self._found(path)
        if pod.get("guarded"):
            raise Refused(429, "Cannot evict pod as it would violate the pod's disruption budget.")
        self._store("DELETED", path, self.objects.pop(path))
        return {"kind": "Status", "status": "Success"}


def slice_of(workload: str, *pods: str, port: int = 8000, node: str = "", **conditions: bool) -> Object:
    """Give an EndpointSlice; a pod is its name, or its name @ its address."""
    endpoints = []
    for pod in pods:
        name, _, address = pod.partition("@")
        endpoints.append(
            {
                "addresses": [address or "127.0.0.1"],
                "conditions": {"ready": True, "serving": True, "terminating": False, **conditions},
                "targetRef": {"kind": "Pod", "name": name},
                "nodeName": node,
            }
        )
    return {
        "metadata": {"labels": {"kubernetes.io/service-name": workload}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": port, "protocol": "TCP"}],
        "endpoints": endpoints,
    }


def _merged(target: Any, patch: Any) -> Any:
    """Apply a JSON merge patch."""
    if not isinstance(patch, dict):
        return patch
    found = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            found.pop(key, None)
        else:
            found[key] = _merged(found.get(key), value)
    return found


def _handler(server: ApiServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def _do(self) -> None:
            url = urlsplit(self.path)
            query = {key: values[0] for key, values in parse_qs(url.query).items()}
            length = int(self.headers.get("content-length") or 0)
            body = json.loads(self.rfile.read(length) or b"{}")
            method = "WATCH" if "watch" in query else self.command
            server.asked.append((method, url.path))
            try:
                server.faults(method, url.path)
                if method == "WATCH":
                    self._watch(url.path, query)
                    return
                found, status = server.answer(method, url.path, body), 200
            except Refused as error:
                found, status = {"kind": "Status", "code": error.status, "message": str(error)}, error.status
            data = json.dumps(found).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def _watch(self, path: str, query: dict[str, str]) -> None:
            self.send_response(200)
            self.send_header("connection", "close")
            self.end_headers()
            self.close_connection = True

            def send(kind: str, one: Object) -> None:
                self.wfile.write(json.dumps({"type": kind, "object": one}).encode() + b"\n")

            until_s = time.monotonic() + float(query["timeoutSeconds"])
            server.watch(path, int(query["resourceVersion"]), send, until_s)

        do_GET = do_POST = do_PUT = do_PATCH = _do

        def handle(self) -> None:
            try:
                super().handle()
            except OSError:  # whoever asked has gone
                self.close_connection = True

        def log_message(self, *_: Any) -> None:
            pass

    return Handler
