"""The social-post service with the users and passwords of `docs/operating.md`; run as a program it writes one post.

COORDINATOR_FAULTS='kafka.end.commit:before=crash' python -m tests.docs.service DATABASE BROKERS AUTHOR RECIPE
"""

import asyncio
import sys

from coordinator import Coordinator
from coordinator.dev.kafka import USERS
from examples.social_post.promises import SETTINGS
from examples.social_post.service import create_post
from participants import Kafka, KafkaSecurity, Postgres


def security() -> KafkaSecurity:
    """The user that the page's rules are for."""
    return KafkaSecurity(
        security_protocol="SASL_PLAINTEXT",
        sasl_mechanism="PLAIN",
        sasl_plain_username="app",
        sasl_plain_password=USERS["app"],
    )


def service(database: str, brokers: str) -> Coordinator:
    """A coordinator as that user."""
    participants = {"db": Postgres(database), "events": Kafka(brokers, security=security())}
    return Coordinator(journal=database, participants=participants, settings=SETTINGS)


async def main(database: str, brokers: str, author: str, recipe: str) -> None:
    """Write one post; with a fault armed this does not return."""
    async with service(database, brokers) as coordinator:
        await create_post(coordinator, author=author, body="hello", recipe=recipe)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:5]))
