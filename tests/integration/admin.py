"""The admin API of a real gateway process: asking it, and a gateway on a database of choice."""

import json
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any

from gateway import database
from tests.integration.gateway import Gateway, Upstreams, call, config, model, unique

ADMIN = "sk-sg-admin-" + "a" * 43

Reply = tuple[int, dict[str, str], Any]


def open_gateway(
    directory: Path, url: str, upstreams: Upstreams, *, more: str = "", **environ: str
) -> Gateway:
    """Start a gateway on a database, with the models ``small`` and ``large``; ``more`` is configuration."""
    directory.mkdir(parents=True, exist_ok=True)
    models = model("small", upstreams.ports[:1]) + model("large", upstreams.ports[:1])
    text = config(models, directory=directory, cache="exact_ttl_s = 3600", more=more)
    text = text.replace(f"sqlite:///{directory / 'gateway.db'}", url)
    return Gateway(directory, text, **{"SWITCHGEAR_ADMIN_KEY": ADMIN, **environ})


def emptied(url: str) -> str:
    """Give the database with nothing in it."""
    engine = database.connect(url)
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP SCHEMA public CASCADE")
        connection.exec_driver_sql("CREATE SCHEMA public")
    engine.dispose()
    return url


def ask(
    gateway: Gateway, method: str, path: str, body: Any = None, *, key: str | None = ADMIN, **headers: str
) -> Reply:
    """Send one request to the admin API; gives status, headers and the JSON answer."""
    sent = {} if key is None else {"authorization": f"Bearer {key}"}
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    data = b""
    if body is not None:
        data = json.dumps(body).encode()
        sent["content-type"] = "application/json"
    status, got, answer = call(gateway.port, method, f"/admin/v1/{path}", data, sent)
    return status, got, json.loads(answer) if answer else None


def good(gateway: Gateway, method: str, path: str, body: Any = None, **options: Any) -> Any:
    """Send one request that must succeed; gives the JSON answer."""
    status, _, answer = ask(gateway, method, path, body, **options)
    assert status in (200, 201, 204), answer
    return answer


def change(gateway: Gateway, path: str, body: Any, **options: Any) -> Any:
    """Change something over the version that it has now."""
    etag = ask(gateway, "GET", path)[1]["etag"]
    return good(gateway, "PATCH", path, body, if_match=etag, **options)


class Tenant:
    """An organisation with a project and a key, all new; ``terms`` are the key's."""

    def __init__(self, gateway: Gateway, **terms: Any) -> None:
        self.gateway = gateway
        self.org = f"org {unique()}"
        self.org_id: str = good(gateway, "POST", "orgs", {"name": self.org})["id"]
        project = {"org": self.org, "name": "chat"}
        self.project_id: str = good(gateway, "POST", "projects", project)["id"]
        self.key_id, self.key = self.make_key(terms=terms)

    def make_key(self, **fields: Any) -> tuple[str, str]:
        made = good(self.gateway, "POST", "keys", {"project_id": self.project_id, "name": "k", **fields})
        return made["id"], made["key"]

    def sign_in(self, role: str, password: str = "correct horse battery") -> "Browser":
        email = f"{role}-{unique()}@example.com"
        person = {"org": self.org, "email": email, "name": role, "role": role, "password": password}
        good(self.gateway, "POST", "people", person)
        return Browser(self.gateway, {"org": self.org, "email": email, "password": password})


class Browser:
    """Somebody who is signed in."""

    def __init__(self, gateway: Gateway, who: dict[str, str]) -> None:
        self.gateway = gateway
        self.who = who
        status, headers, self.session = ask(gateway, "POST", "session", who, key=None)
        assert status == 201, self.session
        (morsel,) = SimpleCookie(headers["set-cookie"]).values()
        self.attributes = {name: value for name, value in morsel.items() if value}
        self.cookie = f"{morsel.key}={morsel.value}"

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Reply:
        """Send one request as a page of the console does."""
        sent = {"cookie": self.cookie, "x_csrf_token": self.session["csrf_token"], **headers}
        return ask(self.gateway, method, path, body, key=None, **sent)


def chat(gateway: Gateway, key: str, prompt: str = "Hi", name: str = "small", **headers: str) -> Reply:
    """Ask for a chat completion with a key."""
    sent = {"authorization": f"Bearer {key}", **headers}
    status, got, body = gateway.chat(name, prompt, headers=sent)
    return status, got, json.loads(body)


def models(gateway: Gateway, key: str) -> int:
    """Give the status of asking for the models: whether a key counts."""
    return gateway.call("GET", "/v1/models", headers={"authorization": f"Bearer {key}"})[0]
