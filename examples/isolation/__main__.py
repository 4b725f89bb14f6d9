"""Run every example, without its countermeasure and with it: python -m examples.isolation

COORDINATOR_POSTGRES_URL is a database for it (`coordinator dev up` starts one); the table `account` in it is made anew.
"""

import asyncio
import os

from examples.isolation import commutative, rereading, semantic_lock

EXAMPLES = {
    "semantic lock, against a dirty read": semantic_lock,
    "reread, against a lost update": rereading,
    "commutative update, against another": commutative,
}


async def main() -> None:
    """Print what is on the account in the end."""
    url = os.environ["COORDINATOR_POSTGRES_URL"]
    for name, example in EXAMPLES.items():
        without, guarded = await example.shown(url, guarded=False), await example.shown(url, guarded=True)
        print(f"{name:<37} {without:>5} without it, {guarded:>4} with it")


if __name__ == "__main__":
    asyncio.run(main())
