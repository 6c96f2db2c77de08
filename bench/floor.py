"""The least that a Python gateway can do, for reference: raw ASGI, a key check, aiohttp."""

import os

import aiohttp

KEY = b"Bearer " + os.environ.get("BENCH_KEY", "").encode()
URL = os.environ.get("BENCH_UPSTREAM", "") + "/v1/chat/completions"
session: list[aiohttp.ClientSession] = []


async def app(scope, receive, send):  # type: ignore[no-untyped-def]  # ASGI's own loose types
    """Pass a request through."""
    if scope["type"] == "lifespan":
        return
    body = b""
    while True:
        message = await receive()
        body += message["body"]
        if not message["more_body"]:
            break
    if dict(scope["headers"]).get(b"authorization") != KEY:
        await send({"type": "http.response.start", "status": 401, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})
        return
    if not session:
        session.append(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), auto_decompress=False))
    async with session[0].post(URL, data=body, headers={"content-type": "application/json"}) as reply:
        headers = [(b"content-type", reply.headers["content-type"].encode())]
        if "content-length" in reply.headers:
            headers.append((b"content-length", reply.headers["content-length"].encode()))
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        async for data in reply.content.iter_any():
            await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
