"""Tests a service in any language against what the coordinator will send it. (Needs the extra `http`.)

    CONTRACT_SECRET=... python -m participants.http.contract http://127.0.0.1:8000 --key 2026-11 --action /charge \\
        --undo /charge/undo --body '{"amount": 5}' --effects '/effects?gid={gid}'

With `--status /charge/status` it also asks what became of an action, as `Service.status` does. With `--reservation
/reservation` (and `--body` and `--refused` for its try) it tests the four endpoints of a service
that reserves, beside an action or alone.

It sends signed requests, and forged, old, repeated, early, late and simultaneous ones, and prints what was answered
wrongly. The effects of what is sent are real: point it at a service for tests. `--effects` is where the service says,
unsigned and as a JSON number, how many effects of a gid stand; without it only the answers can be judged. `--refused`
is a body that the service refuses for a reason of its own.

The exit code is 0 where everything was right, 1 where something was wrong, and 2 where the service was not reached.
"""

import argparse
import asyncio
import os
import sys
from dataclasses import replace
from pathlib import Path
from textwrap import indent

import aiohttp

from participants.http.checks import CHECKS
from participants.http.reservation_checks import RESERVATION_CHECKS
from participants.http.signing import Key
from participants.http.status_checks import STATUS_CHECKS
from participants.http.subject import Subject, Wrong

_TOTAL_S = 30.0


async def judge(subject: Subject) -> dict[str, str]:
    """What is wrong with the service, by check; empty strings where it is right."""
    verdicts = {}
    reserving = replace(subject, status=f"{subject.reservation}/pending")
    for check, judged in (
        *((check, subject) for check in CHECKS if subject.action),
        *((check, subject) for check in STATUS_CHECKS if subject.status),
        *((check, reserving) for check in RESERVATION_CHECKS if subject.reservation),
    ):
        name = check.__name__.replace("_", " ")
        try:
            await check(judged)
        except Wrong as wrong:
            verdicts[name] = f"{wrong}\nbecause: {' '.join((check.__doc__ or '').split())}"
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientPayloadError, TimeoutError) as failure:
            verdicts[name] = f"there was no answer ({type(failure).__name__})"
        else:
            verdicts[name] = ""
    return verdicts


async def run(arguments: argparse.Namespace) -> int:
    """Judge the service that *arguments* name, and print it; the exit code."""
    secret = (
        arguments.secret_file.read_bytes().strip() if arguments.secret_file else os.environ["CONTRACT_SECRET"].encode()
    )
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_TOTAL_S)) as session:
        subject = Subject(
            session=session,
            url=arguments.url.rstrip("/"),
            key=Key(arguments.key, secret),
            action=arguments.action,
            undo=arguments.undo,
            status=arguments.status,
            reservation=arguments.reservation,
            body=arguments.body.encode(),
            refused=arguments.refused.encode() if arguments.refused else None,
            effects_path=arguments.effects,
        )
        try:
            verdicts = await judge(subject)
        except aiohttp.ClientConnectorError as failure:
            print(f"the service was not reached: {failure}", file=sys.stderr)
            return 2
    for name, wrong in verdicts.items():
        print(f"WRONG  {name}\n{indent(wrong, ' ' * 7)}" if wrong else f"right  {name}")
    if arguments.effects is None:
        print("note   without --effects only the answers were judged")
    return 1 if any(verdicts.values()) else 0


def main() -> int:
    """Read the command line, and judge."""
    parser = argparse.ArgumentParser(prog="python -m participants.http.contract", description=__doc__.splitlines()[0])
    parser.add_argument("url", help="scheme, host and port of the service")
    parser.add_argument("--key", required=True, help="the name of the key; its secret is in CONTRACT_SECRET")
    parser.add_argument("--secret-file", type=Path, help="a file with the secret, instead of CONTRACT_SECRET")
    parser.add_argument("--action", default="", help="the path of an action")
    parser.add_argument("--undo", default="", help="the path of its compensation")
    parser.add_argument("--status", default="", help="where it is asked what became of the action")
    parser.add_argument(
        "--reservation", default="", help="what the paths of try, confirm, cancel and pending begin with"
    )
    parser.add_argument("--body", default="{}", help="the JSON that an action, its compensation and a try are sent")
    parser.add_argument("--refused", help="JSON that an action, or a try, refuses")
    parser.add_argument("--effects", help="where the number of effects is told; {gid} stands for the gid")
    arguments = parser.parse_args()
    if arguments.secret_file is None and "CONTRACT_SECRET" not in os.environ:
        parser.error("the secret is read from CONTRACT_SECRET, or from --secret-file")
    if bool(arguments.action) is not bool(arguments.undo) or not (arguments.action or arguments.reservation):
        parser.error("what is tested is --action with its --undo, --reservation, or all of them")
    if arguments.status and not arguments.action:
        parser.error("--status is asked what became of an --action")
    return asyncio.run(run(arguments))


if __name__ == "__main__":
    sys.exit(main())
