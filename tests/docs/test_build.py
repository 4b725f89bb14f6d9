"""The documentation is built without a warning, and the public names are in it."""

import subprocess
import sys
from pathlib import Path

import coordinator
import participants
from tests.docs.pages import ROOT

BUILD = [str(Path(sys.executable).with_name("sphinx-build")), "-W", "--keep-going", "-q", "-E", "-b", "html"]


def test_it_is_built_without_a_warning_and_has_every_public_name(tmp_path):
    """As `make docs` does it."""
    done = subprocess.run(
        [*BUILD, "-d", str(tmp_path / "doctrees"), "docs", str(tmp_path / "html")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "html" / "reference" / "api.html").read_text()
    missing = [
        f"{module.__name__}.{name}"
        for module in (coordinator, participants)
        for name in module.__all__
        if f'id="{module.__name__}.{name}"' not in page
    ]
    assert not missing
