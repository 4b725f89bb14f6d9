"""A server on loopback that answers as a test tells it, and remembers what it was sent."""

import asyncio
import re
from contextlib import asynccontextmanager

import uvicorn


async def whole(receive):
    """The body of a request, in however many pieces it comes."""
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body


class Answers:
    """An ASGI application: one planned answer after the other, the last one for ever."""

    def __init__(self, *planned):
        self.planned = list(planned)
        self.requests = []

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return
        body = await whole(receive)
        self.requests.append((scope, body))
        status, headers, content = self.planned.pop(0) if len(self.planned) > 1 else self.planned[0]
        if callable(content):
            content = await content()
        raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": raw})
        await send({"type": "http.response.body", "body": content})


@asynccontextmanager
async def serving(app, host="127.0.0.1", port=0, lifespan="off", root_path=""):
    """The port at which *app* is served."""
    config = uvicorn.Config(app, host=host, port=port, log_level="error", lifespan=lifespan, root_path=root_path)
    server = uvicorn.Server(config)
    server.install_signal_handlers = lambda: None
    task = asyncio.create_task(server._serve())
    while not server.started:  # noqa: ASYNC110 - the server has no event for it.
        await asyncio.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.force_exit = server.should_exit = True
        await task
        await server.lifespan.shutdown()  # Who is forced to end leaves it out, and the application's pools open.


async def message(reader):
    """The next HTTP message, whole, in however many pieces it comes; nothing where the connection has ended."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as ended:
        if ended.partial:
            raise
        return b""
    (length,) = re.findall(rb"\r\ncontent-length: *(\d+)\r\n", head, re.IGNORECASE)
    return head + await reader.readexactly(int(length))


@asynccontextmanager
async def canary(host="127.0.0.1"):
    """A listener that nothing may ever connect to: its port, and a list of who did."""
    visitors = []

    async def visited(reader, writer):
        visitors.append(writer.get_extra_info("peername"))
        writer.close()

    server = await asyncio.start_server(visited, host, 0)
    try:
        yield server.sockets[0].getsockname()[1], visitors
    finally:
        server.close()
