"""Clients that keep a gateway busy and notice every answer that is not whole."""

import json
import threading
from contextlib import closing
from http.client import HTTPConnection
from urllib.parse import urlsplit

SLOW_S = 400.0


class Load:
    """Clients that ask one streamed question after the other until they are told to stop."""

    def __init__(self, base_url: str, api_key: str) -> None:
        self._base_url, self._api_key = base_url, api_key
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self.ids: list[str] = []
        self.heartbeats = 0
        self.errors: list[str] = []

    def more(self, clients: int) -> None:
        """Add clients."""
        for _ in range(clients):
            thread = threading.Thread(target=self._ask_on, args=(len(self._threads),))
            self._threads.append(thread)
            thread.start()

    def end(self) -> None:
        """Let what is under way finish."""
        self._stop.set()
        for thread in self._threads:
            thread.join(SLOW_S)

    def _ask_on(self, number: int) -> None:
        asked = 0
        while not self._stop.is_set():
            asked += 1
            try:
                self._ask(f"{number}.{asked}")
            except (OSError, ValueError) as error:
                self.errors.append(repr(error))

    def _ask(self, name: str) -> None:
        """Ask and read to the end; what is not a whole answer is an error."""
        parts = urlsplit(self._base_url)
        body = {
            "model": "m",
            "messages": [{"role": "user", "content": f"Tell a story about the number {name}."}],
            "max_tokens": 24,
            "stream": True,
        }
        headers = {
            "authorization": f"Bearer {self._api_key}",
            "content-type": "application/json",
        }
        with closing(HTTPConnection(parts.hostname or "", parts.port, timeout=SLOW_S)) as connection:
            connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
            reply = connection.getresponse()
            text = reply.read().decode()
        lines = text.splitlines()
        self.heartbeats += sum(1 for line in lines if line.startswith(":"))
        whole = "data: [DONE]" in lines and '"finish_reason":"' in text.replace(" ", "")
        if reply.status != 200 or not whole or '"error"' in text:
            self.errors.append(f"{reply.status}: {text[-500:]}")
            return
        self.ids.append({name.lower(): value for name, value in reply.getheaders()}["x-request-id"])
