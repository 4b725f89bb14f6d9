"""The write path of the service: what an application writes, and nothing else."""

from pydantic import BaseModel

from coordinator import Coordinator, FailurePolicy, Settings, TransactionBlock
from participants import Kafka, Postgres

TOPIC = "posts"
TABLES = """
    CREATE TABLE IF NOT EXISTS posts (
        id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        author text NOT NULL,
        body   text NOT NULL
    )
"""


class PostCreated(BaseModel):
    """What followers are told."""

    post_id: int
    author: str
    body: str


def coordinator_of(
    database: str, brokers: str, settings: Settings | None = None, *, drain_on_sigterm: bool = False
) -> Coordinator:
    """The service's coordinator: its journal lives in the service's own database."""
    return Coordinator(
        journal=database,
        participants={"db": Postgres(database), "events": Kafka(brokers)},
        settings=settings,
        drain_on_sigterm=drain_on_sigterm,
    )


async def create_post(
    coordinator: Coordinator,
    *,
    author: str,
    body: str,
    policy: FailurePolicy | None = None,
    recipe: str | None = None,
) -> TransactionBlock:
    """Write a post and announce it, as one."""
    async with coordinator.transaction("create-post", policy=policy, recipe=recipe) as transaction:
        connection = await transaction.enlist("db")
        post_id = await connection.fetchval(
            "INSERT INTO posts (author, body) VALUES ($1, $2) RETURNING id", author, body
        )
        event = PostCreated(post_id=post_id, author=author, body=body)
        await transaction.publish("events", topic=TOPIC, key=author, value=event)
    return transaction
