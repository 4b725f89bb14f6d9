"""Servers in containers, where a Docker engine answers (through `testcontainers` and Docker's own client).

`COORDINATOR_DEV_DOCKER=never` passes it over. Three brokers, and brokers with KIP-939, are started on the machine.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from coordinator.dev.downloads import say
from coordinator.dev.processes import free_port

VARIABLE = "COORDINATOR_DEV_DOCKER"
POSTGRES_IMAGE = "postgres:18"
KAFKA_IMAGE = "apache/kafka:4.1.1"


async def start(*, brokers: int, two_phase: bool) -> Mapping[str, Any] | None:
    """Both servers' URLs and container ids; None where Docker does not answer, or cannot give what is asked for."""
    if os.environ.get(VARIABLE) == "never" or brokers != 1 or two_phase or not _answers():
        return None
    from testcontainers.core.config import testcontainers_config
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.waiting_utils import wait_for_logs

    testcontainers_config.ryuk_disabled = True  # It would remove the containers as soon as `dev up` ends.
    say("starting PostgreSQL and Apache Kafka in containers")
    postgres_port, kafka_port = free_port(), free_port()
    postgres = (
        DockerContainer(POSTGRES_IMAGE)
        .with_env("POSTGRES_HOST_AUTH_METHOD", "trust")
        .with_command("-c max_prepared_transactions=200 -c max_connections=300")
        .with_bind_ports(5432, postgres_port)
    )
    listeners = f"PLAINTEXT://:{kafka_port},CONTROLLER://:9093"
    kafka = DockerContainer(KAFKA_IMAGE).with_bind_ports(kafka_port, kafka_port)
    for name, value in {
        "KAFKA_NODE_ID": "1",
        "KAFKA_PROCESS_ROLES": "broker,controller",
        "KAFKA_LISTENERS": listeners,
        "KAFKA_ADVERTISED_LISTENERS": f"PLAINTEXT://127.0.0.1:{kafka_port}",
        "KAFKA_CONTROLLER_LISTENER_NAMES": "CONTROLLER",
        "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
        "KAFKA_CONTROLLER_QUORUM_VOTERS": "1@localhost:9093",
        "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
        "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
        "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR": "1",
        "KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
    }.items():
        kafka = kafka.with_env(name, value)
    try:
        for container in (postgres, kafka):
            container.start()
        wait_for_logs(postgres, "ready to accept connections.*ready to accept connections", timeout=60)
        wait_for_logs(kafka, "Kafka Server started", timeout=60)
    except BaseException:
        for container in (postgres, kafka):
            container.stop()
        raise
    return {
        "postgres": f"postgresql://postgres@127.0.0.1:{postgres_port}/postgres",
        "kafka": f"127.0.0.1:{kafka_port}",
        "containers": tuple(container.get_wrapped_container().id for container in (postgres, kafka)),
    }


def running(containers: Sequence[str]) -> bool:
    """Whether all of *containers* run."""
    if not containers:
        return True
    import docker

    try:
        client = docker.from_env()
        return all(client.containers.get(container).status == "running" for container in containers)
    except docker.errors.DockerException:
        return False


def remove(containers: Sequence[str]) -> None:
    """Remove *containers*; those that are gone already are left alone."""
    if not containers:
        return
    import docker

    client = docker.from_env()
    for container in containers:
        try:
            client.containers.get(container).remove(force=True)
        except docker.errors.NotFound:
            continue


def _answers() -> bool:
    try:
        import docker
        import testcontainers  # noqa: F401 - both are needed; neither is required.
    except ImportError:
        return False
    try:
        return bool(docker.from_env(timeout=3).ping())
    except (docker.errors.DockerException, OSError):
        return False
