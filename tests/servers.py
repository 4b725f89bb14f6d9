"""Real servers for tests: one Postgres and one Kafka for the session, private ones for tests that hurt them."""

import asyncio
import fcntl
import itertools
import os
import shutil
import socket
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from coordinator.dev.downloads import cache_directory
from coordinator.dev.kafka import LocalKafka
from coordinator.dev.postgres import LocalPostgres
from coordinator.dev.processes import Process, eventually, failed_to_start, free_port

ROOT = Path(__file__).resolve().parent.parent
OWNED = "owned"
MEMORY = Path("/dev/shm")
ROOM_BYTES = 4 * 2**30
"""What the write-ahead logs of a session's PostgreSQL servers may grow to, and as much again for what they hold."""
_numbers = itertools.count()


@pytest.fixture(scope="session")
def servers_directory():
    """Where this session's servers keep their data, on disk."""
    with directory_of_this_session(ROOT / ".dev", "test") as directory:
        yield directory


@pytest.fixture(scope="session")
def postgres_directory(servers_directory):
    """Where this session's PostgreSQL servers keep their data: in memory, if there is room for it.

    A test makes a database, and half of its time would go into waiting for the disk. No test is about a power cut, and
    a killed server loses nothing that it has written, on either.
    """
    if not has_room(MEMORY):
        yield servers_directory
        return
    with directory_of_this_session(MEMORY, f"unanimity-test-of-{os.getuid()}") as directory:
        yield directory


def has_room(memory):
    """Whether *memory* is there, and so much of it is free that the tests do not fill the machine's."""
    if not os.access(memory, os.W_OK):
        return False
    return min(shutil.disk_usage(memory).free, psutil.virtual_memory().available) >= ROOM_BYTES


@contextmanager
def directory_of_this_session(place, name):
    """A directory in *place*, called *name* and our pid; gone afterwards, as is what killed sessions left there."""
    directory = place / f"{name}-{os.getpid()}"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    with (directory / OWNED).open("w") as owned:
        fcntl.flock(owned, fcntl.LOCK_EX)
        for other in place.glob(f"{name}-*/{OWNED}"):
            remove_if_abandoned(other.parent)
        yield directory
    shutil.rmtree(directory, ignore_errors=True)


def remove_if_abandoned(directory):
    """Remove the servers' directory of a session that is dead: nobody holds its lock.

    The kernel has killed its servers with it, but not the processes of a PostgreSQL that was frozen at the time.
    """
    with (directory / OWNED).open("w") as owned:
        try:
            fcntl.flock(owned, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        for process in psutil.process_iter(["cwd"]):
            if process.info["cwd"] and Path(process.info["cwd"]).is_relative_to(directory):
                process.kill()
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
async def postgres(postgres_directory):
    """The session's PostgreSQL."""
    server = LocalPostgres(postgres_directory / "postgres", cache=cache_directory())
    await server.start()
    yield server
    await server.kill()


@pytest.fixture(scope="session")
async def logging_postgres(postgres_directory):
    """A PostgreSQL whose log has every statement, for tests that count them."""
    settings = {"log_statement": "all", "log_min_messages": "log", "log_error_verbosity": "terse"}
    server = LocalPostgres(postgres_directory / "postgres-logging", cache=cache_directory(), settings=settings)
    await server.start()
    yield server
    await server.kill()


@pytest.fixture(scope="session")
async def posts_topic(kafka):
    """The topic of the social-post service, once for the session: its keys tell the tests apart."""
    await kafka.create_topic("posts")
    return "posts"


@pytest.fixture(scope="session")
async def kafka(servers_directory):
    """The session's Kafka: one broker, with KIP-939."""
    cluster = LocalKafka(directory=servers_directory / "kafka", cache=cache_directory(), two_phase=True)
    await cluster.start()
    yield cluster
    await cluster.kill()


@pytest.fixture(scope="session")
async def redis_url(servers_directory):
    """The session's Redis, from the system's package (`scripts/redis.sh` installs it)."""
    port, directory = free_port(), servers_directory / "redis"
    directory.mkdir()
    program = shutil.which("redis-server")
    assert program, "there is no redis-server: run scripts/redis.sh, or apt-get install redis-server"
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory), "--save", ""]
    server = Process.start(command, log=directory / "redis.log")

    def answers() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    if not await eventually(answers, 20.0):
        raise failed_to_start("Redis", directory / "redis.log")
    yield f"redis://127.0.0.1:{port}"
    await server.kill()


@pytest.fixture
async def create_database(postgres):
    """A factory of fresh databases on the session's PostgreSQL; dropped afterwards, with what is prepared in them."""
    made = []

    async def create() -> str:
        name = f"test_{next(_numbers)}"
        made.append(name)
        return await postgres.create_database(name)

    yield create
    for name in made:
        await postgres.drop_database(name)


@pytest.fixture
async def database(create_database):
    """The URL of a fresh database."""
    return await create_database()


@pytest.fixture
async def logged_database(logging_postgres):
    """The URL of a fresh database, the only one that is used on its server meanwhile; dropped afterwards."""
    name = f"test_{next(_numbers)}"
    yield await logging_postgres.create_database(name)
    await logging_postgres.drop_database(name)


@pytest.fixture
async def create_topic(kafka):
    """A factory of fresh topics on the session's Kafka."""

    async def create(partitions: int = 1, replication: int = 1) -> str:
        name = f"topic-{next(_numbers)}"
        await kafka.create_topic(name, partitions=partitions, replication=replication)
        return name

    return create


@pytest.fixture
async def topic(create_topic):
    """A fresh topic with one partition."""
    return await create_topic()


@pytest.fixture
async def private_postgres(postgres_directory):
    """A factory of PostgreSQL servers of the test's own."""
    made = []

    async def create(**settings: str) -> LocalPostgres:
        server = LocalPostgres(
            postgres_directory / f"postgres-{next(_numbers)}", cache=cache_directory(), settings=settings
        )
        made.append(server)
        await server.start()
        return server

    yield create
    await asyncio.gather(*(server.kill() for server in made))


@pytest.fixture
async def private_kafka(servers_directory):
    """A factory of Kafka clusters of the test's own."""
    made = []

    async def create(**options) -> LocalKafka:
        cluster = LocalKafka(
            directory=servers_directory / f"kafka-{next(_numbers)}", cache=cache_directory(), **options
        )
        made.append(cluster)
        await cluster.start()
        return cluster

    yield create
    for cluster in made:
        cluster.thaw()
    await asyncio.gather(*(cluster.kill() for cluster in made))
