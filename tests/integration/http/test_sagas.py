"""Sagas whose steps are a service's endpoints, while that service is killed, slow, or out of reach."""

import asyncio
import os
import socket
import sys
import time
from contextlib import asynccontextmanager

import aiohttp
import asyncpg
import pytest
from opentelemetry import baggage, context
from opentelemetry.sdk.trace import TracerProvider
from pydantic import BaseModel
from pydantic_core import to_json

from coordinator import Coordinator, InvalidDefinition, Misconfigured, Refused, Settings
from coordinator.engine.saga_calls import Status
from coordinator.errors import Compensated, Parked
from coordinator.protocol.saga import Phase
from coordinator.sagas import Attempts, Saga, StepContext, step
from participants.http import Delivery, Key
from participants.http.service import Bounds, Service, Services
from tests.integration.http.server import Answers, message, serving
from tests.integration.postgres.branches import until

KEY = Key("payments", b"k" * 32)
SETTINGS = Settings(lease_s=5.0, recovery_s=0.2)
QUICK = Attempts(at_most=3, backoff_s=0.001, backoff_max_s=0.01)
PATIENT = Attempts(at_most=400, backoff_s=0.02, backoff_max_s=0.1)


class Order(BaseModel):
    """The saga's input."""

    account: str
    amount: int


class Receipt(BaseModel):
    """What the service answers."""

    charge: str


async def reserve(request: Order) -> int:
    return request.amount


def charge_of(request: Order, reserve: int) -> dict[str, object]:
    return {"account": request.account, "amount": reserve}


async def ship(charge: Receipt) -> str:
    return f"shipped for {charge.charge}"


async def give_up(charge: Receipt) -> str:
    raise Refused("no address")


def checkout(payments, last=ship, **options):
    """reserve -> charge (over HTTP) -> ship."""
    return Saga(
        "checkout",
        step(reserve),
        step(
            payments.action("/charge", charge_of, output=Receipt),
            compensate=payments.compensation("/charge/undo", charge_of),
            **{"retry": QUICK, "undo_retry": PATIENT, **options},
        ),
        step(last, retry=QUICK),
    )


def service(port, **bounds):
    return Service("payments", f"http://127.0.0.1:{port}", KEY, networks=["127.0.0.1/32"], bounds=Bounds(**bounds))


class Payments:
    """The reference service in a process of its own, that can be killed and started again at one port."""

    def __init__(self, database):
        self.database = database
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]

    async def start(self):
        environment = {"PAYMENTS_DATABASE": self.database, "PAYMENTS_SECRET": "k" * 32, "PAYMENTS_PORT": str(self.port)}
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "examples.payments", env={**os.environ, **environment}
        )
        async with asyncio.timeout(40), aiohttp.ClientSession() as session:
            while True:
                try:
                    async with session.get(f"http://127.0.0.1:{self.port}/health"):
                        return
                except aiohttp.ClientConnectorError:
                    await asyncio.sleep(0.05)

    async def kill(self):
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()


@pytest.fixture
async def payments(database):
    """The service, running."""
    made = Payments(database)
    await made.start()
    yield made
    await made.kill()


@pytest.fixture
async def ledger(database, payments):
    """A look at the service's books; an account with 100."""
    connection = await asyncpg.connect(database)
    await connection.execute("INSERT INTO accounts VALUES ('ada', 100)")
    yield connection
    await connection.close()


async def books(ledger):
    """What is left on the account, and how many charges stand."""
    return (
        await ledger.fetchval("SELECT balance FROM accounts"),
        await ledger.fetchval("SELECT count(*) FROM charges"),
    )


@asynccontextmanager
async def coordinating(*sagas):
    async with Coordinator(journal=f"memory://{os.urandom(4).hex()}", sagas=sagas, settings=SETTINGS) as opened:
        yield opened


@asynccontextmanager
async def losing_the_first_answer(port, path):
    """A way to the service that carries everything, and breaks when the first answer to *path* comes back."""
    lost = []

    async def carry(reader, writer):
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            while request := await message(reader):
                up_writer.write(request)
                answer = await message(up_reader)
                if not lost and request.startswith(b"POST " + path + b" "):
                    lost.append(answer)
                    break
                writer.write(answer)
        finally:
            writer.close()
            up_writer.close()

    server = await asyncio.start_server(carry, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], lost
    finally:
        server.close()


async def test_a_saga_completes_and_its_steps_get_each_other_s_outputs(payments, ledger):
    async with service(payments.port) as client, coordinating(saga := checkout(client)) as coordinator:
        outcome = await coordinator.run(saga, Order(account="ada", amount=30))
    receipt = outcome.outputs["charge"]
    assert outcome.outputs["ship"] == f"shipped for {receipt.charge}"
    assert await books(ledger) == (70, 1)


async def test_a_refusal_of_the_service_has_its_reason_and_a_later_one_undoes_the_charge(payments, ledger):
    async with service(payments.port) as client:
        async with coordinating(saga := checkout(client)) as coordinator:
            with pytest.raises(Compensated, match="409: the account has not that much"):
                await coordinator.run(saga, Order(account="ada", amount=300))
        async with coordinating(saga := checkout(client, last=give_up)) as coordinator:
            with pytest.raises(Compensated, match="no address"):
                await coordinator.run(saga, Order(account="ada", amount=30))
    assert await books(ledger) == (100, 0)


async def test_two_charges_of_one_saga_are_undone_each_at_its_own_account(payments, ledger):
    """The first undo takes back its own charge alone, and the money goes where it came from."""
    await ledger.execute("INSERT INTO accounts VALUES ('bob', 100)")

    def of_ada(request: int) -> dict[str, object]:
        return {"account": "ada", "amount": request}

    def of_bob(request: int) -> dict[str, object]:
        return {"account": "bob", "amount": request + 20}

    async def ship_both(request: int) -> None:
        raise Refused("no address")

    async with service(payments.port) as client:
        split = Saga(
            "split",
            step(client.action("/charge", of_ada, name="half"), compensate=client.compensation("/charge/undo", of_ada)),
            # Whoever writes this saga may be wrong about whom to give it back to: the service knows.
            step(client.action("/charge", of_bob, name="rest"), compensate=client.compensation("/charge/undo", of_ada)),
            step(ship_both),
        )
        async with coordinating(split) as coordinator:
            with pytest.raises(Compensated, match="no address"):
                await coordinator.run(split, 30)
    accounts = await ledger.fetch("SELECT name, balance FROM accounts ORDER BY name")
    assert [tuple(each) for each in accounts] == [("ada", 100), ("bob", 100)]
    assert await ledger.fetchval("SELECT count(*) FROM charges") == 0


@pytest.mark.parametrize(("on_unknown", "left"), [("compensate", (100, 0)), ("retry", (70, 1))])
async def test_an_answer_that_is_lost_is_undone_or_repeated_without_a_second_effect(payments, ledger, on_unknown, left):
    async with (
        losing_the_first_answer(payments.port, b"/charge") as (port, lost),
        service(port) as client,
        coordinating(saga := checkout(client, on_unknown=on_unknown)) as coordinator,
    ):
        if on_unknown == "retry":
            outcome = await coordinator.run(saga, Order(account="ada", amount=30))
            assert outcome.outputs["charge"].charge.encode() in lost[0], "the repetition got the first answer"
        else:
            with pytest.raises(Compensated):
                await coordinator.run(saga, Order(account="ada", amount=30))
    assert b"200 OK" in lost[0]
    assert await books(ledger) == left


async def test_that_a_service_knows_a_higher_term_is_no_refusal_of_the_step(payments, ledger):
    """The journal was restored from a backup: since then another process had taken the saga over, and charged."""

    async def reserve(request: Order, context: StepContext) -> int:
        charged = Delivery(gid=context.gid, step="charge", direction="action", term=2)
        await client.send("/charge", to_json(charge_of(request, request.amount)), charged)
        return request.amount

    async with service(payments.port) as client:
        charge = client.action("/charge", charge_of, output=Receipt)
        refund = client.compensation("/charge/undo", charge_of)
        saga = Saga("restored", step(reserve), step(charge, compensate=refund, undo_retry=QUICK), step(ship))
        async with coordinating(saga) as coordinator:
            handle = await coordinator.start(saga, Order(account="ada", amount=30))
            with pytest.raises(Parked, match=r"412: .* term 1, and term 2 was here before"):
                await handle.result()
            assert await books(ledger) == (70, 1)
            await handle.resume("the charge is looked at")  # Whoever goes on has a higher term.

            async def undone():
                return (await handle.outcome()).phase is Phase.COMPENSATED

            await until(undone)
    assert await books(ledger) == (100, 0)


@pytest.mark.parametrize(("on_unknown", "left"), [("compensate", (100, 0)), ("retry", (70, 1))])
async def test_a_service_that_is_killed_in_the_middle_leaves_nothing_half(database, payments, ledger, on_unknown, left):
    """It is killed inside its transaction, stays away for a while, and comes back; the books are right afterwards."""
    async with (
        service(payments.port) as client,
        coordinating(saga := checkout(client, on_unknown=on_unknown, retry=PATIENT)) as coordinator,
    ):
        holder = await asyncpg.connect(database)
        async with holder.transaction():
            await holder.execute("SELECT FROM accounts FOR UPDATE")
            running = asyncio.create_task(coordinator.run(saga, Order(account="ada", amount=30)))
            await waiting_for_a_lock(ledger)
            await payments.kill()
        await holder.close()
        await asyncio.sleep(0.3)  # Attempts meet a port at which nobody listens.
        assert not running.done()
        await payments.start()
        if on_unknown == "retry":
            assert (await running).completed
        else:
            with pytest.raises(Compensated):
                await running
    assert await books(ledger) == left


async def waiting_for_a_lock(connection):
    """Until a transaction in this database waits for a lock."""
    async with asyncio.timeout(20):
        while not await connection.fetchval(  # noqa: ASYNC110 - a lock has no event.
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        ):
            await asyncio.sleep(0.01)


async def test_what_a_service_asks_with_retry_after_is_waited_for():
    app = Answers((503, {"Retry-After": "1"}, b""), (429, {"Retry-After": "0"}, b""), (200, {}, b'{"charge": "c"}'))
    async with (
        serving(app) as port,
        service(port) as client,
        coordinating(saga := checkout(client)) as coordinator,
    ):
        began = time.monotonic()
        assert (await coordinator.run(saga, Order(account="ada", amount=1))).completed
        assert time.monotonic() - began >= 1.0
    headers = [dict(scope["headers"]) for scope, _ in app.requests]
    assert [each[b"unanimity-attempt"] for each in headers] == [b"1", b"2", b"3"]
    assert len({each[b"idempotency-key"] for each in headers}) == 1


async def test_a_step_is_asked_about_with_its_status():
    app = Answers((500, {}, b""), (200, {}, b'{"status": "done", "output": {"charge": "found"}}'))
    async with serving(app) as port, service(port) as client:
        ask = client.status("/charge/status", charge_of, output=Receipt)
        saga = Saga("asked", step(reserve), step(client.action("/charge", charge_of, output=Receipt), status=ask))
        async with coordinating(saga) as coordinator:
            outcome = await coordinator.run(saga, Order(account="ada", amount=1))
    assert outcome.outputs["charge"] == Receipt(charge="found")
    assert [scope["path"] for scope, _ in app.requests] == ["/charge", "/charge/status"]
    assert Status.DONE == "done"


async def test_an_answer_of_another_shape_means_that_the_output_is_not_known():
    app = Answers((200, {}, b'{"other": 1}'), (200, {}, b"whatever"))
    async with serving(app) as port, service(port) as client, coordinating(saga := checkout(client)) as coordinator:
        with pytest.raises(Compensated, match="cannot be read"):
            await coordinator.run(saga, Order(account="ada", amount=1))
    assert [scope["path"] for scope, _ in app.requests] == ["/charge", "/charge/undo"]


async def test_the_trace_goes_along_and_baggage_does_not():
    carries = context.attach(baggage.set_baggage("secret", "canary"))
    try:
        with TracerProvider().get_tracer("test").start_as_current_span("here") as span:
            async with serving(app := Answers((200, {}, b"{}"))) as port, service(port) as client:
                call = client.action("/charge")
                await call(request={}, context=_context())
    finally:
        context.detach(carries)
    headers = dict(app.requests[0][0]["headers"])
    assert f"{span.get_span_context().trace_id:032x}".encode() in headers[b"traceparent"]
    assert b"baggage" not in headers


def _context():
    return StepContext(gid="g", saga="s", step="charge", direction="action", attempt=1, term=1)


async def test_a_definition_says_what_is_wrong_with_it():
    payments = service(1)
    services = Services(payments)
    assert services["payments"] is payments
    with pytest.raises(InvalidDefinition, match="no service 'stock' is registered"):
        services["stock"]
    with pytest.raises(Misconfigured, match="two services"):
        Services(payments, service(2))
    elsewhere = Service("stock", "http://127.0.0.1:2", KEY, networks=["127.0.0.1/32"])
    with pytest.raises(Misconfigured, match="payments and stock share a secret"):
        Services(payments, elsewhere)
    Services(payments, Service("payments again", "http://127.0.0.1:1", KEY, networks=["127.0.0.1/32"]))
    with pytest.raises(Misconfigured, match="path"):
        payments.action("//evil.example/charge")

    def body(request: Order, nobody: int) -> int:
        return 0

    with pytest.raises(InvalidDefinition, match="nobody"):
        Saga("wrong", step(payments.action("/charge", body)))
    assert checkout(payments).steps["charge"].run.participant == "payments"
