"""Whether two definitions of one name call the same functions."""

import runpy

from coordinator.sagas import Saga

TEMPLATE = """
from coordinator.sagas import Saga, step

ACCOUNT = {account!r}


async def charge(request: int) -> str:
    return f"charged to {{ACCOUNT}}"


checkout = Saga("checkout", step(charge), version="1")
"""


def read(path, name="shop") -> Saga:
    return runpy.run_path(str(path), run_name=name)["checkout"]


def test_two_files_of_one_text_are_not_the_same(tmp_path):
    """Each means its own account: a saga of the one would charge that of the other."""
    for account in ("eu", "us"):
        (tmp_path / f"shop_{account}.py").write_text(TEMPLATE.format(account=account))
    eu, us = (read(tmp_path / f"shop_{account}.py") for account in ("eu", "us"))
    assert not eu.calls_the_same(us)


def test_a_file_that_is_read_twice_is_the_same_also_by_another_way(tmp_path):
    (tmp_path / "shop.py").write_text(TEMPLATE.format(account="eu"))
    (tmp_path / "link.py").symlink_to(tmp_path / "shop.py")
    imported = read(tmp_path / "shop.py")
    assert imported.calls_the_same(read(tmp_path / "shop.py", "__main__"))
    assert imported.calls_the_same(read(tmp_path / "link.py", "__main__"))


def test_a_file_is_the_same_wherever_the_process_has_gone_since(tmp_path, monkeypatch):
    """It was named from the directory that the process was in."""
    for account in ("eu", "us"):
        (tmp_path / account).mkdir()
        (tmp_path / account / "shop.py").write_text(TEMPLATE.format(account=account))
    monkeypatch.chdir(tmp_path / "eu")
    eu = read("shop.py")
    monkeypatch.chdir(tmp_path / "us")
    assert eu.calls_the_same(read(tmp_path / "eu" / "shop.py"))
    assert not eu.calls_the_same(read("shop.py"))
