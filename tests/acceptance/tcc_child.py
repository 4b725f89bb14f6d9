"""An order and its payment over HTTP, in a process that is killed at one point of the payment.

python -m tests.acceptance.tcc_child SCENARIO CELL ACCOUNT PORT

Without an account it orders nothing, and is killed where it finishes what another process has left.
"""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator

from coordinator import Coordinator, CoordinatorError, Settings
from coordinator.faults.injectors import ArmedFaults, Fault
from coordinator.faults.points import Cell
from participants import Postgres
from participants.http import Key
from participants.http.reservations import reservations
from participants.http.service import Service
from participants.tcc import Tcc

KEY = Key("payments", b"k" * 32)
AMOUNT = 30
# A hold of a process that lives is not presumed to be left over, however slow this machine is.
SETTINGS = Settings(lease_s=2.0, recovery_s=0.2, presume_abort_after_s=4.0, presume_abort_looks_apart_s=0.1)
TABLES = """
CREATE TABLE allowed (account text PRIMARY KEY);
CREATE TABLE orders (account text REFERENCES allowed DEFERRABLE INITIALLY DEFERRED);
"""
# The point of each scenario, and what goes wrong before, so that it is reached.
SCENARIOS = {
    "tried": ("tcc.try", None),
    "confirmed": ("tcc.confirm", None),
    "cancelled in doubt": ("tcc.cancel", Fault(point="tcc.try", cell=Cell.REPLY_LOST)),
    "cancelled after its vote": ("tcc.cancel", None),
}


@contextlib.asynccontextmanager
async def coordinating(database: str, port: int, call_within_s: float = 10.0) -> AsyncIterator[Coordinator]:
    """A coordinator with the orders' database, which is its journal, and the payments at *port* of this machine."""
    async with Service("payments", f"http://127.0.0.1:{port}", KEY, networks=["127.0.0.1/32"]) as service:
        payments = Tcc(**reservations(service, "/reservation"), call_within_s=call_within_s)
        participants = {"db": Postgres(database), "payments": payments}
        async with Coordinator(journal=database, participants=participants, settings=SETTINGS) as coordinator:
            yield coordinator


async def order(coordinator: Coordinator, account: str, *, deadline_s: float = 30.0) -> None:
    """One order of *account*, and its payment. Without a permission the database says no when it is to prepare."""
    async with coordinator.transaction("order", deadline_s=deadline_s) as transaction:
        connection = await transaction.enlist("db")
        await connection.execute("INSERT INTO orders VALUES ($1)", account)
        (await transaction.enlist("payments")).reserve({"account": account, "amount": AMOUNT})


async def main(scenario: str, cell: str, account: str, port: str) -> None:
    """Run the scenario; it does not return."""
    point, before = SCENARIOS[scenario]
    faults = [Fault(point=point, cell=Cell(cell), action="crash"), *([before] if before else [])]
    async with coordinating(os.environ["COORDINATOR_POSTGRES_URL"], int(port)) as coordinator:
        with ArmedFaults(faults=faults):
            if account:
                with contextlib.suppress(CoordinatorError):
                    await order(coordinator, account)
            await asyncio.sleep(20)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:5]))
