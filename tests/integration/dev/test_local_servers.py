"""The servers that everything else is proved on: they start, stop, freeze and come back as they were."""

import asyncio

import asyncpg
import pytest


async def test_postgres_allows_prepared_transactions_and_survives_a_kill(private_postgres):
    """What was committed is there after SIGKILL and restart, on the same port."""
    server = await private_postgres()
    connection = await asyncpg.connect(server.url)
    assert int(await connection.fetchval("SHOW max_prepared_transactions")) > 0
    await connection.execute("CREATE TABLE kept (n int); INSERT INTO kept VALUES (1)")
    await server.kill()
    await server.start()
    connection = await asyncpg.connect(server.url)
    assert await connection.fetchval("SELECT n FROM kept") == 1
    await connection.close()


async def test_a_frozen_postgres_hangs_and_goes_on_when_thawed(private_postgres):
    """A frozen server answers nothing; thawed, it answers what was asked."""
    server = await private_postgres()
    connection = await asyncpg.connect(server.url)
    server.freeze()
    asked = asyncio.ensure_future(connection.fetchval("SELECT 1"))
    done, _ = await asyncio.wait({asked}, timeout=0.5)
    assert not done
    server.thaw()
    assert await asyncio.wait_for(asked, 10) == 1
    await connection.close()


@pytest.mark.timeout(240)
async def test_three_brokers_survive_the_loss_of_one(private_kafka):
    """A topic on three brokers is written and read while one of them is dead."""
    from aiokafka import AIOKafkaProducer

    cluster = await private_kafka(brokers=3)
    await cluster.create_topic("kept")
    await cluster.kill(broker=2)
    producer = AIOKafkaProducer(bootstrap_servers=cluster.bootstrap, acks="all")
    await producer.start()
    try:
        await asyncio.wait_for(producer.send_and_wait("kept", b"still here"), 60)
    finally:
        await producer.stop()
