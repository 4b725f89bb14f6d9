"""The contract test: the reference service keeps it, and each service that breaks a rule of it is caught."""

import asyncio
import sys

import aiohttp
import asyncpg
import pytest

from examples.payments.service import create_app
from participants.http import Key
from participants.http.checks import CHECKS
from participants.http.contract import judge
from participants.http.reservation_checks import RESERVATION_CHECKS
from participants.http.status_checks import STATUS_CHECKS
from participants.http.subject import Subject
from tests.integration.http import wrong_reservations
from tests.integration.http.server import serving
from tests.integration.http.wrong_services import FLAWS, service

KEY = Key("payments", b"k" * 32)


async def judged(port, **options):
    """What the contract test finds."""
    fields = {"action": "/charge", "undo": "/undo", "status": "/status"}
    fields |= {"body": b'{"amount": 5}', "refused": b'{"refuse": true}'}
    async with aiohttp.ClientSession() as session:
        subject = Subject(
            session=session,
            url=f"http://127.0.0.1:{port}",
            key=KEY,
            **{**fields, "effects_path": "/effects?gid={gid}", **options},
        )
        return await judge(subject)


async def with_account(database):
    """A database with an account in it, and an application on it."""
    app = create_app(database, [KEY])
    async with app.router.lifespan_context(app):
        connection = await asyncpg.connect(database)
        await connection.execute("INSERT INTO accounts VALUES ('ada', 1000000)")
        await connection.close()
    return app


REFERENCE = {
    "undo": "/charge/undo",
    "status": "",
    "reservation": "/reservation",
    "body": b'{"account": "ada", "amount": 5}',
    "refused": b'{"account": "ada", "amount": 5000000}',
}


async def test_the_reference_service_keeps_the_contract_and_its_books(database):
    app = await with_account(database)
    async with serving(app, lifespan="on") as port:
        verdicts = await judged(port, **REFERENCE)
    assert len(verdicts) == len(CHECKS) + len(RESERVATION_CHECKS)
    assert not any(verdicts.values()), verdicts
    connection = await asyncpg.connect(database)
    charged = await connection.fetchval("SELECT sum(amount) FROM charges")
    left = await connection.fetchval("SELECT balance FROM accounts")
    held = await connection.fetchval("SELECT count(*) FROM holds")
    await connection.close()
    assert (charged + left, held) == (1_000_000, 0)


async def test_a_service_in_memory_keeps_it_too():
    async with serving(service(KEY)) as port:
        verdicts = await judged(port)
    assert len(verdicts) == len(CHECKS) + len(STATUS_CHECKS)
    assert not any(verdicts.values()), verdicts


@pytest.mark.parametrize("flaw", FLAWS)
async def test_a_service_that_breaks_a_rule_is_caught(flaw):
    async with serving(service(KEY, flaw)) as port:
        verdicts = await judged(port)
    wrong = [name for name, said in verdicts.items() if said]
    assert any(FLAWS[flaw] in name for name in wrong), wrong


async def judged_reservations(flaw=None):
    """What the contract test finds in a service that only reserves."""
    async with serving(wrong_reservations.service(KEY, flaw)) as port:
        return await judged(port, action="", undo="", status="", reservation="/r", body=b'{"item": "apple"}')


async def test_reservations_in_memory_keep_it_too():
    verdicts = await judged_reservations()
    assert len(verdicts) == len(RESERVATION_CHECKS)
    assert not any(verdicts.values()), verdicts


@pytest.mark.parametrize("flaw", wrong_reservations.FLAWS)
async def test_a_reservation_that_breaks_a_rule_is_caught(flaw):
    wrong = [name for name, said in (await judged_reservations(flaw)).items() if said]
    assert any(wrong_reservations.FLAWS[flaw] in name for name in wrong), wrong


@pytest.mark.parametrize(
    ("checks", "flaws"), [((*CHECKS, *STATUS_CHECKS), FLAWS), (RESERVATION_CHECKS, wrong_reservations.FLAWS)]
)
def test_every_check_catches_something(checks, flaws):
    """Otherwise it would not be known that it can."""
    names = {check.__name__.replace("_", " ") for check in checks}
    assert all(any(part in name for part in flaws.values()) for name in names), names


OF_ACTIONS = ("--action", "/charge", "--undo", "/undo", "--status", "/status")


async def command(url, *paths):
    """The exit code and the output of the command."""
    arguments = ["--key", "payments", *(paths or OF_ACTIONS), "--effects", "/effects?gid={gid}"]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "participants.http.contract", url, *arguments,
        env={"CONTRACT_SECRET": "k" * 32}, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await process.communicate()
    return process.returncode, output.decode()


async def test_the_command_tells_scripts_by_its_exit_code():
    async with serving(service(KEY)) as port:
        code, output = await command(f"http://127.0.0.1:{port}")
        assert code == 0, output
    async with serving(service(KEY, "dedupes nothing")) as port:
        code, output = await command(f"http://127.0.0.1:{port}")
    assert code == 1
    assert "WRONG  a duplicate has no effect" in output
    assert "sent: POST /charge: action of contracttest:" in output
    assert "because: Another attempt is the same step" in output
    assert "k" * 32 not in output
    async with serving(wrong_reservations.service(KEY)) as port:
        code, output = await command(f"http://127.0.0.1:{port}", "--reservation", "/r")
    assert code == 0, output
    assert "right  a reservation that is confirmed is one effect" in output
    code, output = await command("http://127.0.0.1:1", "--action", "/charge")
    assert (code, "--action with its --undo" in output) == (2, True)
    code, output = await command("http://127.0.0.1:1", "--reservation", "/r", "--status", "/status")
    assert (code, "of an --action" in output) == (2, True)
    code, output = await command("http://127.0.0.1:1")
    assert code == 2
    assert "not reached" in output
