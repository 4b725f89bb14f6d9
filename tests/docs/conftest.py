"""A PostgreSQL with passwords and a Kafka with access rules, on which `docs/operating.md` is carried out."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest

from coordinator.dev.downloads import cache_directory
from coordinator.dev.kafka import LocalKafka
from coordinator.dev.postgres import LocalPostgres
from examples.social_post.service import TABLES, TOPIC
from participants.kafka.cluster import Cluster
from participants.kafka.connection import Security
from tests.docs.pages import part
from tests.docs.privileges import PAGE, rules
from tests.integration.kafka.access import allow

ACCESS = """
host all postgres 127.0.0.1/32 trust
host all all 127.0.0.1/32 scram-sha-256
"""
PASSWORDS = {"app_owner": "owner-secret", "app_service": "service-secret", "app_reader": "reader-secret"}


@dataclass(frozen=True, slots=True)
class Guarded:
    """A server on which a role may do what the page grants it, and nothing else."""

    server: LocalPostgres

    def url(self, role: str = "postgres", database: str = "app") -> str:
        """The URL of a database, for a role and its password."""
        secret = f":{PASSWORDS[role]}" if role in PASSWORDS else ""
        return f"postgresql://{role}{secret}@127.0.0.1:{self.server.port}/{database}"

    async def execute(self, statements: str, role: str = "postgres", database: str = "app") -> None:
        """Carry out *statements* as *role*."""
        connection = await asyncpg.connect(self.url(role, database))
        try:
            await connection.execute(statements)
        finally:
            await connection.close()

    def run(self, commands: str) -> None:
        """Carry out a block of the page, which has its server on the usual port."""
        commands = commands.replace("127.0.0.1:5432", f"127.0.0.1:{self.server.port}")
        path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
        subprocess.run(["bash", "-euc", commands], env={"PATH": path}, check=True, timeout=60)


@pytest.fixture(scope="module")
async def guarded(servers_directory, request):
    """The page's roles, schema and grants, on a server that asks for passwords."""
    server = LocalPostgres(servers_directory / f"postgres-of-{request.module.__name__}", cache=cache_directory())
    await server.start()
    made = Guarded(server)
    (server.directory / "data" / "pg_hba.conf").write_text(ACCESS)
    await made.execute("SELECT pg_reload_conf()", database="postgres")
    await server.create_database("app")
    await made.execute(part(PAGE, "roles"))
    made.run(part(PAGE, "apply"))
    for grants in ("service", "reader"):
        await made.execute(part(PAGE, grants), role="app_owner")
    await made.execute(f"{TABLES}; GRANT SELECT, INSERT ON posts TO app_service")
    await server.create_database("billing")
    await made.execute(part(PAGE, "other-roles"))
    made.run(part(PAGE, "other-apply"))
    await made.execute(part(PAGE, "other-service"), role="app_owner", database="billing")
    await made.execute(f"{TABLES}; GRANT SELECT, INSERT ON posts TO app_service", database="billing")
    yield made
    await server.kill()


@pytest.fixture(scope="module")
async def guarded_kafka(servers_directory):
    """The page's access rules, on a broker that asks for passwords."""
    cluster = LocalKafka(
        directory=servers_directory / "kafka-operating", cache=cache_directory(), authorizer=True, two_phase=True
    )
    await cluster.start()
    await cluster.create_topic(TOPIC)
    as_super_user = Cluster(cluster.bootstrap, Security())
    await allow(as_super_user, *rules())
    as_super_user.close()
    yield cluster
    await cluster.kill()
