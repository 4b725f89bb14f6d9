"""Every command of the pages is run, in the order of its page, and prints what the page says."""

import ast
import asyncio
import os
import re
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import asyncpg
import pytest
from typer.main import get_command
from typer.testing import CliRunner

from coordinator.cli import app
from coordinator.dev.downloads import cache_directory
from coordinator.schema import apply
from coordinator.settings import Settings
from tests.docs.pages import PAGES, ROOT, as_shown, blocks

RUN = {"bash", "python"}
READ = {"text", "mermaid", "sql", "toml", "{toctree}", "{eval-rst}"}
NOT_RUN_MAX = 6
BLOCK_WITHIN_S = 120
# What a block exports is there for the next one, as in the shell of whoever reads the page.
KEEP = "set -euo pipefail; [ ! -e .exported ] || . ./.exported; {\n%s\n}; export -p > .exported"


def commands(page: Path):
    return [block for block in blocks(page) if block.kind in RUN and block.mark != "part"]


def names(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture
def shell(tmp_path):
    """A function that runs a block in an empty folder with this project installed; what it started is ended."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COORDINATOR_")}
    environment |= {
        "PATH": f"{Path(sys.executable).parent}:{environment['PATH']}",
        "COORDINATOR_CACHE_DIR": str(cache_directory()),
        "COORDINATOR_DEV_DOCKER": "never",
        "COLUMNS": "160",
    }
    (tmp_path / ".venv").symlink_to(Path(sys.prefix))

    def run(text: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", KEEP % text],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=BLOCK_WITHIN_S,
            check=False,
        )

    yield run
    run("coordinator dev down --purge")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=names)
def test_what_a_page_says_to_run_is_run(page: Path, tmp_path, shell):
    """A reader who does what it says sees what it says."""
    for block in commands(page):
        where = f"{names(page)}:{block.line}"
        if block.mark == "file":
            (tmp_path / block.said).write_text(block.text)
        elif block.mark != "not run":
            text = block.text if block.kind == "bash" else f"python - <<'PYTHON'\n{block.text}PYTHON"
            done = shell(text)
            assert done.returncode == 0, f"{where}\n{done.stdout}\n{done.stderr}"
            if block.printed is not None:
                assert as_shown(done.stdout, block.printed), f"{where}\n{done.stdout}\n{done.stderr}"


def test_few_commands_are_not_run_and_each_for_a_reason():
    """The number is a bound, not a budget: raise it for a reason that is as good as these."""
    reasons = [f"{names(page)}:{b.line}: {b.said}" for page in PAGES for b in blocks(page) if b.mark == "not run"]
    print("\n".join(reasons))  # For whoever runs it with -rP.
    assert len(reasons) <= NOT_RUN_MAX, reasons


def test_python_that_is_not_run_is_python():
    """It can be read at least."""
    for page in PAGES:
        for block in blocks(page):
            if block.kind == "python":
                compile(block.text, f"{names(page)}:{block.line}", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@pytest.mark.parametrize("page", PAGES, ids=names)
def test_every_block_says_what_it_is(page: Path):
    """A block of a kind that this test does not know would be run by nobody."""
    assert {block.kind for block in blocks(page)} <= RUN | READ


@pytest.mark.parametrize("page", [page for page in PAGES if any(b.kind == "toml" for b in blocks(page))], ids=names)
def test_configuration_that_is_shown_is_valid(page: Path, tmp_path, monkeypatch):
    """It is read as the library would, and something comes of it."""
    for number, block in enumerate(block for block in blocks(page) if block.kind == "toml"):
        path = tmp_path / f"{number}.toml"
        path.write_text(block.text)
        monkeypatch.setenv("COORDINATOR_CONFIG", str(path))
        assert Settings() != Settings.model_construct()


MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
SAID = [
    (page, line)
    for page in PAGES
    for line in dict.fromkeys(re.findall(r"`((?:coordinator [a-z]|make |python -m )[^`\n]*)`", page.read_text()))
]
NOBODY = re.compile(r"01JD3Q9V2K8RZ6W0X5C7T4M1NB|4711")
REFUSALS = ("no record of", "there is no saga", "is not in doubt", "no open alert", "was not given up", "never was")
EXAMPLES = re.findall(r"^ {4}.*?\bcoordinator ([^)\n]+)", (ROOT / "docs/reference/cli.md").read_text(), re.MULTILINE)


@pytest.mark.parametrize("example", [example for example in EXAMPLES if not example.startswith("dev ")])
async def test_the_examples_of_commands_are_run(example: str, database, kafka, monkeypatch):
    """On a database of ours; the ids in them are nobody's, so what would be changed is refused, and that is said."""
    connection = await asyncpg.connect(database)
    await apply(connection)
    await connection.close()
    mine = {"postgresql://localhost/app": database, "postgresql://owner@localhost/app": database}
    for theirs, ours in {**mine, "localhost:9092": kafka.bootstrap}.items():
        example = example.replace(theirs, ours)
    monkeypatch.setenv("COORDINATOR_JOURNAL", database)
    monkeypatch.setenv("COORDINATOR_LOOKS", "1")  # Else watching goes on.
    done = await asyncio.to_thread(CliRunner().invoke, app, shlex.split(example), input="y\n")
    about_nobody = NOBODY.search(example)
    assert done.exit_code in ((1,) if about_nobody else (0, 1)), done.output
    assert done.exception is None or isinstance(done.exception, SystemExit)
    assert bool(about_nobody) == any(word in done.stderr for word in REFUSALS), done.stderr


def test_the_command_of_another_test_is_the_example_that_is_left_out():
    """The quickstart runs it."""
    assert [example for example in EXAMPLES if example.startswith("dev ")] == ["dev up --export"]


@pytest.mark.parametrize(("page", "line"), SAID, ids=lambda value: value if isinstance(value, str) else names(value))
def test_commands_that_a_sentence_names_are_there(page: Path, line: str):
    """Its subcommands and options, its target, its module."""
    words = shlex.split(line)
    match words[0]:
        case "make":
            assert re.search(rf"^{words[1]}:", MAKEFILE, re.MULTILINE)
        case "python":
            assert find_spec(words[2]) is not None
        case _:
            understood(words[1:])


@pytest.mark.parametrize(
    ("line", "runs"),
    [
        ("make demo", "python -m examples.social_post.demo"),
        ("make soak MINUTES=3 SEED=7", "python -m tests.soak --minutes 3 --seed 7"),
        ("make bench ARGUMENTS=--quick", "python -m tests.benchmarks --quick"),
        ("make test", "python -m pytest"),
        ("make docs", "sphinx-build -W --keep-going -q -E -b html -d .docs/doctrees docs .docs/html"),
    ],
)
def test_what_make_runs_is_what_tests_run(line: str, runs: str):
    """The jobs take their time; other tests run the same code: the soak, the demo, a tiny bench, the pages."""
    # As a reader runs it, and not as a part of the `make test` that may run us.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    done = subprocess.run(
        [*shlex.split(line), "--dry-run"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert done.stdout.rstrip().splitlines()[-1 if "docs" not in line else -2].endswith(runs)
    words = runs.split()
    assert words[0] != "python" or find_spec(words[2]) is not None


def understood(words: list[str]) -> None:
    """Raise where a command line of ours has a name or an option that is not there."""
    command = get_command(app)
    while hasattr(command, "commands") and words:
        command, words = command.commands[words[0]], words[1:]
    options = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("-")} <= options | {"--help"}


def test_a_command_that_is_not_there_is_noticed():
    """The test above can fail."""
    for words in (["transactions", "forget"], ["doctor", "--quick"]):
        with pytest.raises((KeyError, AssertionError)):
            understood(words)


def test_output_that_differs_is_noticed():
    """The comparison can fail, and `…` stands for no line's end."""
    assert as_shown("gid unan:1  \nok\n", "gid …\nok")
    assert not as_shown("gid unan:1\nbad\n", "gid …\nok")
    assert not as_shown("gid a\nb\nok\n", "gid …\nok")
