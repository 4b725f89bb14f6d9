"""The public suite of the barrier, on each driver."""

import pytest

from participants.barrier.conformance import CHECKS
from tests.conformance.barriers import on_asyncpg, on_psycopg, on_sqlalchemy, prepare

ON = {
    "asyncpg": on_asyncpg,
    "asyncpg, repeatable read": lambda url: on_asyncpg(url, "repeatable read"),
    "asyncpg, serializable": lambda url: on_asyncpg(url, "serializable"),
    "sqlalchemy": on_sqlalchemy,
    "sqlalchemy session": lambda url: on_sqlalchemy(url, session=True),
    "sqlalchemy, psycopg": lambda url: on_sqlalchemy(url, "psycopg"),
    "psycopg": on_psycopg,
}


@pytest.fixture(scope="module", params=ON)
async def subject(request, postgres):
    """One subject for all checks."""
    name = f"barrier_{list(ON).index(request.param)}"
    url = await postgres.create_database(name)
    await prepare(url)
    async with ON[request.param](url) as made:
        yield made
    await postgres.drop_database(name)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_it_answers_as_a_barrier_must(subject, check):
    """Every check, on every driver."""
    await check(subject)
