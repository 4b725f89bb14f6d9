"""Run a soak, and say in one page what it was, what was survived, and what is wrong.

python -m tests.soak --minutes 10
python -m tests.soak --judge .dev/soak-1234/observations.json
"""

import argparse
import asyncio
import json
import random
import shutil
import sys
import time
import traceback
from pathlib import Path

import asyncpg
from aiokafka.errors import KafkaError

from coordinator import CoordinatorError
from tests.soak.checker import Violation, check
from tests.soak.evidence import Observations
from tests.soak.report import report, vacuous
from tests.soak.soak import NotGoing, Options, started

CLEAN, VIOLATED, VACUOUS, BROKEN = 0, 1, 2, 3
NOT_JUDGED = (NotGoing, CoordinatorError, KafkaError, asyncpg.PostgresError, OSError, TimeoutError)
EXPLANATION = """
Workers write rows and messages with every recipe and policy, through coordinators of their own. Meanwhile they are
killed, frozen and cut off, brokers and the database are killed, frozen and restarted, by a plan that the seed decides.
Then everything heals, what is unfinished has to be finished, and all rows and messages are compared with each other,
with what each caller was told, and with the journal.

exit status: 0 every promise was kept; 1 violations, each with a witness; 2 it proved too little (a recipe never
committed, nothing was disturbed); 3 it could not be judged.
"""


def options_of(arguments: list[str]) -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak",
        description="Keep the coordinator under load while everything around it breaks, and check what it promised.",
        epilog=EXPLANATION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="how long to disturb (default: 10)")
    parser.add_argument("--seed", type=int, help="repeat the plan of an earlier soak (default: a new one, printed)")
    parser.add_argument("--workers", type=int, default=3, help="processes under load (default: 3)")
    parser.add_argument("--brokers", type=int, choices=(3, 5), default=3, help="Kafka brokers (default: 3)")
    parser.add_argument("--rate", type=float, default=40.0, help="transactions a second, of all workers (default: 40)")
    parser.add_argument("--rest", type=float, default=2.0, help="seconds of peace between two injuries (default: 2)")
    parser.add_argument(
        "--faults", default="", help="faults in the workers: '*:reply_lost=1%%error;*:late=1%%delay(300)'"
    )
    parser.add_argument("--keep", action="store_true", help="keep the servers' data, logs and histories")
    parser.add_argument("--judge", type=Path, metavar="FILE", help="judge what an earlier soak observed; run nothing")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Soak, report, and say by the exit status how it went."""
    given = options_of(arguments)
    if given.judge is not None:
        return _conclude(
            Observations.load(given.judge), json.loads(_facts(given.judge).read_text()), given.judge.parent
        )
    seed = given.seed if given.seed is not None else random.SystemRandom().randrange(10_000)
    options = Options(
        minutes=given.minutes,
        seed=seed,
        workers=given.workers,
        brokers=given.brokers,
        transactions_per_s=given.rate,
        rest_s=given.rest,
        faults=given.faults,
    )
    directory = Path(".dev").resolve() / f"soak-{seed}"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    began_s = time.monotonic()

    def tell(text: str) -> None:
        print(f"{time.monotonic() - began_s:7.1f} s  {text}", flush=True)

    tell(f"seed {seed}: what is observed is kept in {directory}")
    judged = None
    try:
        judged = asyncio.run(_soak(options, directory, tell))
    except* NOT_JUDGED as failures:
        traceback.print_exception(failures)
    if judged is None:
        print(f"the soak could not be judged; logs are in {directory}", file=sys.stderr)
        return BROKEN
    observations, facts = judged
    path = directory / "observations.json"
    observations.save(path)
    _facts(path).write_text(json.dumps(facts))
    status = _conclude(observations, facts, directory)
    if status == CLEAN and not given.keep:
        for part in ("postgres", "kafka", "workers"):
            shutil.rmtree(directory / part, ignore_errors=True)
    return status


async def _soak(options: Options, directory: Path, tell) -> tuple[Observations, dict]:
    async with started(options, directory, tell) as soak:
        observations, facts = await soak.run()
    return observations, facts | {
        "minutes": options.minutes,
        "seed": options.seed,
        "workers": options.workers,
        "brokers": options.brokers,
    }


def _facts(observations: Path) -> Path:
    return observations.with_name("facts.json")


def _conclude(observations: Observations, facts: dict, directory: Path) -> int:
    violations: list[Violation] = check(observations)
    page = report(observations, violations, facts)
    print("\n" + page)
    (directory / "report.txt").write_text(page + "\n")
    if violations:
        return VIOLATED
    return VACUOUS if vacuous(observations) else CLEAN


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
