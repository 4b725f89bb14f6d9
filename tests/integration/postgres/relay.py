"""A TCP relay that keeps what clients send, or swallows what they are answered, as a broken network path does."""

import asyncio

LONGEST_TEXT = 100


def _ends_in(before: bytes, data: bytes, text: bytes | None) -> bool:
    """Whether *text* ends in *data*, wherever between two reads it was cut after *before*."""
    return text is not None and (before + data).find(text, max(0, len(before) - len(text) + 1)) >= 0


class Relay:
    """Forwards to 127.0.0.1:*port*. A connection that sends a given text is disturbed from then on."""

    def __init__(self, port: int) -> None:
        self._server_port: int | None = port
        self._server: asyncio.Server | None = None
        self._passing = asyncio.Event()
        self._passing.set()
        self._held_text: bytes | None = None
        self._unanswered_text: bytes | None = None
        self._tasks: set[asyncio.Task] = set()
        self._waiting = 0
        self.held_bytes = b""

    @property
    def port(self) -> int:
        """Where clients connect to."""
        assert self._server is not None
        return self._server.sockets[0].getsockname()[1]

    async def lead_to(self, port: int | None) -> None:
        """From now on connect to another server, or to none; connections to the former one are cut."""
        self._server_port = port
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def hold(self, text: bytes) -> None:
        """What is sent with *text* in it waits for `release`, and what the same connection sends after it."""
        self._held_text = text
        self._passing.clear()

    def swallow_answers_to(self, text: bytes) -> None:
        """A connection that sends *text* hears nothing more."""
        self._unanswered_text = text

    def release(self) -> None:
        """What waited arrives, and nothing is disturbed any more."""
        self._held_text = self._unanswered_text = None
        self._passing.set()

    async def quiet(self) -> None:
        """Wait until all that was held has been passed on, or its receiver found gone."""
        async with asyncio.timeout(20):
            while self._waiting:  # noqa: ASYNC110 - counts down by itself.
                await asyncio.sleep(0.01)

    async def __aenter__(self) -> "Relay":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()

    async def _serve(self, client_reader: asyncio.StreamReader, client_writer: asyncio.StreamWriter) -> None:
        try:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._server_port or 0)
        except OSError:
            client_writer.close()
            return
        deaf = asyncio.Event()
        for pump in (self._up(client_reader, server_writer, deaf), self._down(server_reader, client_writer, deaf)):
            task = asyncio.create_task(pump)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, deaf: asyncio.Event) -> None:
        """To the server: also what was sent by a client that has gone since."""
        held, before = False, b""
        try:
            while data := await reader.read(65536):
                if _ends_in(before, data, self._unanswered_text):
                    deaf.set()
                if held or _ends_in(before, data, self._held_text):
                    held = True
                    await self._keep(data)
                before = (before + data)[-LONGEST_TEXT:]
                writer.write(data)
                await writer.drain()
        except OSError:
            return
        finally:
            if held:
                await self._passing.wait()  # Nor does the server learn meanwhile that its client has gone.
            writer.close()

    async def _keep(self, data: bytes) -> None:
        self.held_bytes += data
        self._waiting += 1
        try:
            await self._passing.wait()
        finally:
            self._waiting -= 1

    async def _down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, deaf: asyncio.Event) -> None:
        try:
            while data := await reader.read(65536):
                if not deaf.is_set():
                    writer.write(data)
                    await writer.drain()
        except OSError:
            return
        finally:
            if not deaf.is_set():
                writer.close()
