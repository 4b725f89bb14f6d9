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
