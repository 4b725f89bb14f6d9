"""Configuration: the file, the environment over it, and errors that name the field."""

import pytest

from coordinator import BackupPolling, CoordinatorError, Misconfigured, Retry, Rollback
from coordinator.client import Client
from coordinator.protocol.calls import CallBudget
from coordinator.settings import load


def test_policies_come_from_the_file_by_name(tmp_path, monkeypatch):
    """As `docs/failure-policies.md` shows it."""
    path = tmp_path / "coordinator.toml"
    path.write_text(
        "lease_s = 4\n[policies.default]\nkind = 'rollback'\nwithin_s = 5\n"
        "[policies.create-post]\nkind = 'retry'\nattempts = 3\n"
        "then = { kind = 'backup-polling', push_within_s = 0.5 }\n"
    )
    monkeypatch.setenv("COORDINATOR_CONFIG", str(path))
    settings = load()
    assert settings.lease_s == 4
    assert settings.policies["default"] == Rollback(within_s=5)
    assert settings.policies["create-post"] == Retry(attempts=3, then=BackupPolling(push_within_s=0.5))
    client = Client(engine=None, policies=settings.policies)
    assert client.transaction("create-post").policy == settings.policies["create-post"]
    assert client.transaction("other").policy == Rollback(within_s=5)
    assert client.transaction("other", policy=BackupPolling()).policy == BackupPolling()


def test_the_environment_wins_over_the_file(tmp_path, monkeypatch):
    """And JSON says what a policy is."""
    path = tmp_path / "coordinator.toml"
    path.write_text("lease_s = 4\n[policies.default]\nkind = 'rollback'\n")
    monkeypatch.setenv("COORDINATOR_CONFIG", str(path))
    monkeypatch.setenv("COORDINATOR_LEASE_S", "7")
    monkeypatch.setenv("COORDINATOR_POLICIES", '{"default": {"kind": "backup-polling"}}')
    settings = load()
    assert (settings.lease_s, settings.policies["default"]) == (7, BackupPolling())


def test_budgets_of_participants_come_by_name(monkeypatch):
    """Checked where they are read."""
    monkeypatch.setenv("COORDINATOR_BUDGETS", '{"payments": {"in_flight": 20, "per_second": 100}}')
    assert load().budgets == {"payments": CallBudget(in_flight=20, per_second=100)}
    monkeypatch.setenv("COORDINATOR_BUDGETS", '{"payments": {"in_flight": 0}}')
    with pytest.raises(CoordinatorError, match="one call at least"):
        load()


@pytest.mark.parametrize(
    ("variable", "value", "named"),
    [
        ("COORDINATOR_POLICIES", '{"a": {"kind": "hope"}}', "policies"),
        ("COORDINATOR_POLICIES", '{"a": {"kind": "rollback", "within_s": 0}}', "policies"),
        ("COORDINATOR_LEASE_S", "-1", "lease_s"),
        ("COORDINATOR_PREFIX", "has spaces", "prefix"),
        ("COORDINATOR_CONFIG", "/no/such/file", "no such file"),
    ],
)
def test_what_is_not_valid_is_refused_at_the_start_by_name(monkeypatch, variable, value, named):
    """Nobody finds out at three in the morning."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(Misconfigured, match=named):
        load()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[policy.default]\nkind = 'rollback'\n", "policy: Extra inputs are not permitted"),
        ("lease = 5\n", "lease: Extra inputs are not permitted"),
        ("lease_s = \n", "is no TOML"),
    ],
)
def test_a_name_in_the_file_that_nobody_knows_is_refused(tmp_path, monkeypatch, text, said):
    """A typing error must not quietly mean the default."""
    path = tmp_path / "coordinator.toml"
    path.write_text(text)
    monkeypatch.setenv("COORDINATOR_CONFIG", str(path))
    monkeypatch.setenv("COORDINATOR_SOMETHING_ELSE", "is not ours to judge")
    with pytest.raises(Misconfigured, match=said):
        load()
