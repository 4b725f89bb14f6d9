"""A real Apache Kafka in KRaft mode on free loopback ports: one broker, or three.

Every broker is its own process, controller and broker in one, so that a test can kill, freeze and restart each. The
settings make a small cluster quick to start and honest to fail: internal topics on all brokers, few partitions.
"""

import asyncio
import base64
import json
import shutil
import signal
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError

from coordinator.dev.downloads import java, kafka_jars
from coordinator.dev.processes import Process, failed_to_start, free_port
from coordinator.errors import Misconfigured, Unavailable

START_WITHIN_S = 90.0
_QUICK_START = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
"""Halves the start of three brokers on two cores. One broker alone is also measured, so it is compiled in full."""
USERS: Mapping[str, str] = {"admin": "admin-secret", "app": "app-secret"}
"""With `authorizer`: a super user, and one that may do only what a test grants."""


@dataclass(slots=True)
class Broker:
    """One broker's process and ports."""

    number: int
    port: int
    controller_port: int
    sasl_port: int
    process: Process | None = None


@dataclass(slots=True, kw_only=True)
class LocalKafka:
    """A cluster with a directory of its own. Ports and data survive stop, kill and restart."""

    directory: Path
    cache: Path
    brokers: int = 1
    two_phase: bool = False
    authorizer: bool = False
    settings: Mapping[str, str] = field(default_factory=dict)
    dies_with_us: bool = True
    members: list[Broker] = field(default_factory=list)

    @property
    def bootstrap(self) -> str:
        """All brokers, as `host:port,host:port`."""
        return ",".join(f"127.0.0.1:{broker.port}" for broker in self.members)

    @property
    def sasl_bootstrap(self) -> str:
        """The SASL/PLAIN listeners, where there is an authorizer."""
        return ",".join(f"127.0.0.1:{broker.sasl_port}" for broker in self.members)

    async def start(self, broker: int | None = None) -> None:
        """Start all brokers (or number *broker*, from 1) and wait until every broker that runs is a member.

        One that runs is left alone. Raises `Unavailable` that quotes a log, `Misconfigured` that says what to install.
        """
        jars, executable = await asyncio.to_thread(lambda: (kafka_jars(self.cache), java()))
        if not self.members:
            await self._establish(executable, jars)
        for member in self._chosen(broker):
            if member.process is not None and member.process.alive:
                continue
            command = [executable, *self._java_options(member), "-cp", f"{jars}/*", "kafka.Kafka"]
            member.process = Process.start(
                [*command, self._configuration(member)],
                log=self.log(member.number),
                dies_with_us=self.dies_with_us,
            )
        await self._answers()

    async def stop(self, broker: int | None = None) -> None:
        """Stop cleanly. Idempotent."""
        await asyncio.gather(*(m.process.stop() for m in self._chosen(broker) if m.process is not None))

    async def kill(self, broker: int | None = None) -> None:
        """End broker processes at once."""
        await asyncio.gather(*(m.process.kill() for m in self._chosen(broker) if m.process is not None))

    async def restart(self, broker: int | None = None) -> None:
        """Start again what was stopped or killed."""
        await self.stop(broker)
        await self.start(broker)

    def freeze(self, broker: int | None = None) -> None:
        """Stop broker processes where they are: connections stay open, and nothing answers."""
        for member in self._chosen(broker):
            if member.process is not None:
                member.process.freeze()

    def thaw(self, broker: int | None = None) -> None:
        """Let them go on."""
        for member in self._chosen(broker):
            if member.process is not None:
                member.process.send(signal.SIGCONT)

    @property
    def _ports(self) -> Path:
        """The brokers know each other by port, so a directory keeps its own."""
        return self.directory / "ports.json"

    def log(self, broker: int) -> Path:
        """Where broker number *broker* writes what it has to say."""
        return self.directory / f"broker-{broker}" / "server.log"

    async def create_topic(self, name: str, *, partitions: int = 1, replication: int | None = None) -> None:
        """Create a topic and wait until it can be written."""
        await create_topic(self.bootstrap, name, partitions=partitions, replication=replication or self.brokers)

    def _chosen(self, broker: int | None) -> list[Broker]:
        return [member for member in self.members if broker in (None, member.number)]

    def _home(self, member: Broker) -> Path:
        return self.directory / f"broker-{member.number}"

    def _configuration(self, member: Broker) -> str:
        return str(self._home(member) / "server.properties")

    def _java_options(self, member: Broker) -> list[str]:
        options = ["-Xmx512m", "-XX:+UseSerialGC"] if self.brokers == 1 else ["-Xmx384m", *_QUICK_START]
        options.append("-Dlog4j2.level=WARN")
        if self.authorizer:
            options.append(f"-Djava.security.auth.login.config={self._home(member) / 'jaas.conf'}")
        return options

    async def _establish(self, executable: str, jars: Path) -> None:
        """Find the members that the directory knows, or make new ones. Settings are always today's."""
        if self._ports.exists():
            members = [Broker(*ports) for ports in json.loads(self._ports.read_text())]
            if len(members) != self.brokers:
                raise Misconfigured(f"{self.directory} holds a cluster of {len(members)}, not of {self.brokers}")
        else:
            members = [Broker(n + 1, free_port(), free_port(), free_port()) for n in range(self.brokers)]
        for member in members:
            self._configure(member, members)
        if not self._ports.exists():
            await self._format(members, executable, jars)
            self._ports.write_text(json.dumps([[m.number, m.port, m.controller_port, m.sasl_port] for m in members]))
        self.members = members

    def _configure(self, member: Broker, members: list[Broker]) -> None:
        home = self._home(member)
        home.mkdir(parents=True, exist_ok=True)
        lines = [f"{name}={value}" for name, value in self._properties(member, members).items()]
        (home / "server.properties").write_text("\n".join(lines) + "\n")
        if self.authorizer:
            users = " ".join(f'user_{name}="{password}"' for name, password in USERS.items())
            login = f'required username="admin" password="{USERS["admin"]}" {users};'
            module = "org.apache.kafka.common.security.plain.PlainLoginModule"
            (home / "jaas.conf").write_text(f"KafkaServer {{ {module} {login} }};\n")

    async def _format(self, members: list[Broker], executable: str, jars: Path) -> None:
        cluster, directories = _random_id(), [_random_id() for _ in members]
        voters = ",".join(
            f"{m.number}@127.0.0.1:{m.controller_port}:{i}" for m, i in zip(members, directories, strict=True)
        )
        quorum = ["--standalone"] if self.brokers == 1 else ["--initial-controllers", voters]
        command = [executable, *_QUICK_START, "-cp", f"{jars}/*", "kafka.tools.StorageTool", "format", "-t", cluster]
        await asyncio.gather(*(self._format_one(member, [*command, *quorum]) for member in members))

    async def _format_one(self, member: Broker, command: list[str]) -> None:
        shutil.rmtree(self._home(member) / "data", ignore_errors=True)  # What an interrupted start left.
        formatting = await asyncio.create_subprocess_exec(
            *command,
            "-c",
            self._configuration(member),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await formatting.communicate()
        if formatting.returncode != 0:
            raise Unavailable(f"Kafka's storage could not be formatted:\n{output.decode(errors='replace')[-2000:]}")

    def _properties(self, member: Broker, members: list[Broker]) -> dict[str, str]:
        controllers = ",".join(f"127.0.0.1:{m.controller_port}" for m in members)
        listeners = {"PLAINTEXT": member.port, "CONTROLLER": member.controller_port}
        if self.authorizer:
            listeners["SASL_PLAINTEXT"] = member.sasl_port
        urls = {name: f"{name}://127.0.0.1:{port}" for name, port in listeners.items()}
        count = str(self.brokers)
        properties = {
            "process.roles": "broker,controller",
            "node.id": str(member.number),
            "listeners": ",".join(urls.values()),
            "advertised.listeners": ",".join(url for name, url in urls.items() if name != "CONTROLLER"),
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "PLAINTEXT",
            "controller.quorum.bootstrap.servers": controllers,
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT",
            "log.dirs": str(self._home(member) / "data"),
            "num.partitions": "1",
            "default.replication.factor": count,
            "min.insync.replicas": "1" if self.brokers == 1 else "2",
            "offsets.topic.replication.factor": count,
            "offsets.topic.num.partitions": "2",
            "transaction.state.log.replication.factor": count,
            "transaction.state.log.min.isr": "1" if self.brokers == 1 else "2",
            "transaction.state.log.num.partitions": "4",
            "group.initial.rebalance.delay.ms": "0",
            "auto.create.topics.enable": "false",
            "broker.session.timeout.ms": "9000" if self.brokers == 1 else "3000",
            "broker.heartbeat.interval.ms": "1000",
            "controller.quorum.election.timeout.ms": "500",
            "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
        }
        if self.two_phase:
            properties |= {"unstable.api.versions.enable": "true", "transaction.two.phase.commit.enable": "true"}
        if self.authorizer:
            properties |= {
                "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
                "super.users": "User:ANONYMOUS;User:admin",
                "sasl.enabled.mechanisms": "PLAIN",
            }
        return properties | dict(self.settings)

    async def _answers(self) -> None:
        """Wait until every running broker listens and is a member."""
        running = [member for member in self.members if member.process is not None and member.process.alive]
        until = asyncio.get_running_loop().time() + START_WITHIN_S
        while asyncio.get_running_loop().time() < until:
            dead = [member for member in running if member.process is None or not member.process.alive]
            if dead:
                raise failed_to_start(f"Kafka broker {dead[0].number}", self.log(dead[0].number))
            if await self._members_seen() >= len(running):
                return
            await asyncio.sleep(0.1)
        raise failed_to_start("Kafka", self.log(self.members[0].number))

    async def _members_seen(self) -> int:
        try:
            for member in self.members:
                if member.process is not None and member.process.alive:
                    _, writer = await asyncio.open_connection("127.0.0.1", member.port)
                    writer.close()
        except OSError:
            return 0
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap, request_timeout_ms=3000)
        try:
            await admin.start()
            return len((await admin.describe_cluster())["brokers"])
        except (KafkaError, OSError, TimeoutError):
            return 0
        finally:
            await admin.close()


async def create_topic(bootstrap: str, name: str, *, partitions: int = 1, replication: int = 1) -> None:
    """Create a topic on any cluster and wait until every partition has a leader."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(name, partitions, replication)])
        until = asyncio.get_running_loop().time() + 30
        while asyncio.get_running_loop().time() < until:
            (topic,) = await admin.describe_topics([name])
            leaders = [partition["leader"] for partition in topic["partitions"]]
            if topic["error_code"] == 0 and len(leaders) == partitions and -1 not in leaders:
                return
            await asyncio.sleep(0.02)
    finally:
        await admin.close()
    raise Unavailable(f"topic {name} has no leader yet")


def _random_id() -> str:
    """An id as Kafka writes them; like Kafka's own, never one that begins like an option of the command line."""
    drawn = "-"
    while drawn.startswith("-"):
        drawn = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    return drawn
