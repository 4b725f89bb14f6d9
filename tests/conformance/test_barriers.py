"""The public suite of the barrier, on each driver."""

import pytest

from participants.barrier.conformance import CHECKS
from tests.conformance.barriers import in_memory, on_asyncpg, on_psycopg, on_redis, on_sqlalchemy, prepare

ON = {
    "asyncpg": on_asyncpg,
    "asyncpg, repeatable read": lambda url: on_asyncpg(url, "repeatable read"),
    "asyncpg, serializable": lambda url: on_asyncpg(url, "serializable"),
    "sqlalchemy": on_sqlalchemy,
    "sqlalchemy session": lambda url: on_sqlalchemy(url, session=True),
    "sqlalchemy, psycopg": lambda url: on_sqlalchemy(url, "psycopg"),
    "psycopg": on_psycopg,
}


@pytest.fixture(scope="module", params=[*ON, "redis", "memory"])
def kind(request):
    """The kind of barrier, and only the server that it needs."""
    needed = {"redis": "redis_url", "memory": None}.get(request.param, "postgres")
    return request.param, needed and request.getfixturevalue(needed)


@pytest.fixture(scope="module")
async def subject(kind):
    """One subject for all checks."""
    name, server = kind
    if name == "memory":
        async with in_memory() as made:
            yield made
    elif name == "redis":
        async with on_redis(server) as made:
            yield made
    else:
        database = f"barrier_{list(ON).index(name)}"
        url = await server.create_database(database)
        await prepare(url)
        async with ON[name](url) as made:
            yield made
        await server.drop_database(database)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_it_answers_as_a_barrier_must(subject, check):
    """Every check, on every driver."""
    await check(subject)
