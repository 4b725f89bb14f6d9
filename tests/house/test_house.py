"""The house rules that a machine can check: sizes, public names, fault points, pages, and what may not be said."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import coordinator
import participants
from coordinator.faults.points import POINTS
from coordinator.telemetry import names
from scripts.document import BLOCKS, DOCS

ROOT = Path(__file__).resolve().parent.parent.parent
SOURCES = sorted([*(ROOT / "coordinator").rglob("*.py"), *(ROOT / "participants").rglob("*.py")])
EXAMPLES = sorted((ROOT / "examples").rglob("*.py"))
FILE_LINES_MAX, FUNCTION_LINES_MAX = 400, 70
COORDINATOR_NAMES = [
    "BackupPolling",
    "CircuitOpen",
    "Compensated",
    "Conflict",
    "Coordinator",
    "CoordinatorError",
    "DeadlineExceeded",
    "Disconnected",
    "Ending",
    "FailurePolicy",
    "ForbiddenStatement",
    "Heuristic",
    "InDoubt",
    "InvalidDefinition",
    "KeyReused",
    "Misconfigured",
    "NothingEnlisted",
    "Outcome",
    "Overloaded",
    "Park",
    "Parked",
    "Recipe",
    "Refused",
    "Replaced",
    "Retry",
    "Rollback",
    "Settings",
    "TransactionBlock",
    "TransactionOutcome",
    "Unavailable",
    "VotedNo",
]
PARTICIPANTS_NAMES = ["Kafka", "KafkaSecurity", "MemoryBroker", "MemoryDatabase", "Postgres"]


@pytest.mark.parametrize("path", [*SOURCES, *EXAMPLES], ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_are_short(path: Path):
    """A file fits a sitting, and a function a screen."""
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= FILE_LINES_MAX
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < FUNCTION_LINES_MAX, node.name


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_and_public_definitions_explain_themselves(path: Path):
    """Everything that others use says what it promises."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if path.name != "__init__.py" or tree.body:
        assert ast.get_docstring(tree), "a module says what it is"
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), node.name


def test_public_names_are_these():
    """What users import changes only on purpose."""
    assert coordinator.__all__ == sorted(COORDINATOR_NAMES)
    assert participants.__all__ == sorted(PARTICIPANTS_NAMES)
    assert all(hasattr(coordinator, name) for name in coordinator.__all__)
    assert all(hasattr(participants, name) for name in participants.__all__)


def test_every_declared_fault_point_is_used_and_every_used_one_declared():
    """Declared, used and documented are the same list."""
    used = set()
    for path in SOURCES:
        if path.name != "points.py":
            used |= set(
                re.findall(r'"((?:pg|kafka|journal|owner|outbox|inbox|barrier|saga|tcc)\.[a-z_.]+)"', path.read_text())
            )
    assert used == set(POINTS)
    page = (DOCS / "architecture.md").read_text()
    assert all(f"`{point}`" in page for point in POINTS)


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda page: page.name)
def test_generated_parts_of_pages_are_up_to_date(page: Path):
    """Run `python -m scripts.document` after changing what they are made from."""
    for name, body in re.findall(r"<!-- generated: (\w+) -->\n(.*?)<!-- end -->", page.read_text(), re.DOTALL):
        assert body.strip() == BLOCKS[name]().strip(), name


@pytest.mark.parametrize("package", ["coordinator", "participants"])
def test_type_checkers_of_others_see_our_types(package):
    """By this marker (PEP 561); without it everything of ours is `Any` to them."""
    assert (ROOT / package / "py.typed").is_file()


def test_import_contracts_are_kept():
    """Imports point one way, and the protocol is pure."""
    command = [str(Path(sys.executable).with_name("lint-imports"))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_libraries_of_the_lock_file_have_hashes_and_name_no_host():
    """What is installed is what was looked at."""
    lock = (ROOT / "requirements.lock").read_text()
    assert "://" not in lock
    assert "index-url" not in lock.replace("--no-emit-index-url", "")
    assert len(re.findall(r"^[a-z0-9-]+==", lock, re.MULTILINE)) > 20
    assert "--hash=sha256:" in lock


def test_every_declared_name_of_telemetry_is_used_and_documented():
    """Nothing is told under a name that is not declared; whatever is declared is told, and stands in the page."""
    used = set()
    for path in SOURCES:
        if path.name == "names.py":
            continue
        text = path.read_text()
        used |= set(re.findall(r"\bnames\.([A-Z][A-Z_]+)\b", text))
        for literal in re.findall(
            r"\b(?:start_span|start_as_current_span|create_[a-z_]+|set_attribute)\(\s*[f\"'].*", text
        ):
            raise AssertionError(f"{path.name} names telemetry itself: {literal}")
    declared = {
        name: value
        for name, value in vars(names).items()
        if isinstance(value, names.Metric | names.Span | names.Attribute)
    }
    assert used - {"METRICS", "SCOPE"} == set(declared)
    page = (DOCS / "telemetry.md").read_text()
    for value in declared.values():
        assert f"`{value.name}`" in page, value.name


def test_metrics_have_no_attribute_that_grows_with_traffic():
    """An id, a key or a topic belongs to spans: each value of a metric's attribute is a series for ever."""
    unbounded = {names.GID, names.MESSAGE_ID, names.TOPIC, names.TRANSACTION_NAME, names.ERROR, names.CONSUMER}
    for metric in names.METRICS:
        assert not unbounded & set(metric.attributes), metric.name
        assert metric.unit, metric.name
        assert metric.description, metric.name
