"""A real Apache Kafka on loopback for the tests: KRaft, one node, started with the machine's Java from any Kafka home."""

from __future__ import annotations

import base64
import os
import socket
import subprocess
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kafka import KafkaAdminClient
from kafka.admin import NewTopic

from tests.support.kafka_home import IMAGE, find_home

USERS = {"telltale": "telltale-secret", "other": "other-secret"}
STORE_PASSWORD = "changeit"
START_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Cluster:
    """Where a broker listens. `secure`: options for a client of the SASL_SSL listener (SCRAM-SHA-512), when there is one."""

    bootstrap: str
    secure_bootstrap: str | None = None
    secure: dict[str, Any] | None = None

    def topic(self, partitions: int = 1, name: str = "t", **config: str) -> str:
        """Create a topic that no other test has; returns its name."""
        topic = f"{name}-{uuid.uuid4().hex[:12]}"
        admin = KafkaAdminClient(bootstrap_servers=self.bootstrap)
        try:
            admin.create_topics([NewTopic(topic, num_partitions=partitions, replication_factor=1, topic_configs=config)])
        finally:
            admin.close()
        return topic


def unique_group() -> str:
    """A consumer group that no other test has."""
    return f"g-{uuid.uuid4().hex[:12]}"


class Broker:
    """One broker process of our own: `start`, `kill` (-9, a crash), `start` again with the same ports and data, `stop`.

    `advertised`: ports of proxies; for each the broker has one more listener, on the port of the same place in `behind`, and clients
    that come through it are told the proxy's port.
    """

    def __init__(
        self,
        directory: Path,
        secure: bool = False,
        heap: str = "384m",
        settings: dict[str, str] | None = None,
        advertised: Sequence[int] = (),
    ):
        home = find_home()
        if home is None:
            raise FileNotFoundError("no Kafka home")
        self.libs, self.directory, self.heap = home / "libs", directory, heap
        self.process: subprocess.Popen[bytes] | None = None
        plain, self.control, tls, *self.behind = free_ports(3 + len(advertised))
        self.cluster = Cluster(f"127.0.0.1:{plain}")
        self.port = plain
        directory.mkdir(parents=True, exist_ok=True)
        listeners = [f"PLAINTEXT://127.0.0.1:{plain}", f"CONTROLLER://127.0.0.1:{self.control}"]
        properties = PROPERTIES | {
            "controller.quorum.bootstrap.servers": f"127.0.0.1:{self.control}",
            "log.dirs": str(directory / "data"),
        }
        if secure:
            listeners.append(f"SASL_SSL://127.0.0.1:{tls}")
            properties |= secure_properties(make_certificates(directory / "tls"))
            options = {
                "security_protocol": "SASL_SSL", "sasl_mechanism": "SCRAM-SHA-512", "sasl_plain_username": "telltale",
                "sasl_plain_password": USERS["telltale"], "ssl_cafile": str(directory / "tls" / "ca.pem"),
            }  # fmt: skip
            self.cluster = Cluster(self.cluster.bootstrap, f"127.0.0.1:{tls}", options)
        told = [x for x in listeners if not x.startswith("CONTROLLER")]
        listeners += [f"PROXY{i}://127.0.0.1:{port}" for i, port in enumerate(self.behind)]
        told += [f"PROXY{i}://127.0.0.1:{port}" for i, port in enumerate(advertised)]
        protocols = "".join(f",PROXY{i}:PLAINTEXT" for i in range(len(advertised)))
        properties |= {
            "listeners": ",".join(listeners),
            "advertised.listeners": ",".join(told),
            "listener.security.protocol.map": PROPERTIES["listener.security.protocol.map"] + protocols,
        }
        self.properties = directory / "server.properties"
        self.properties.write_text("".join(f"{k}={v}\n" for k, v in (properties | (settings or {})).items()))
        self._format(secure)

    def start(self) -> Cluster:
        """Start, or start again after `kill` or `stop`; returns when it answers. Raises RuntimeError with the end of its log."""
        log = self.directory / "log.txt"
        command = self._java(self.heap, "kafka.Kafka", str(self.properties))
        with log.open("ab") as out:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        deadline = time.monotonic() + START_TIMEOUT_S
        while not answers(self.port):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the broker did not start:\n" + "\n".join(log.read_text(errors="replace").splitlines()[-15:]))
            time.sleep(0.05)
        return self.cluster

    def kill(self) -> None:
        """SIGKILL: a crash."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    stop = kill
    """Nothing in a test's data is worth a clean shutdown."""

    def _java(self, heap: str, main: str, *args: str) -> list[str]:
        return [
            "java", f"-Xmx{heap}", "-XX:+UseG1GC", "-XX:+ExitOnOutOfMemoryError", "-Djava.awt.headless=true",
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", f"{self.libs}/*", main, *args,
        ]  # fmt: skip

    def _format(self, secure: bool) -> None:
        scram = [x for u, p in USERS.items() for x in ("--add-scram", f"SCRAM-SHA-512=[name={u},password={p}]")] if secure else []
        voters = f"1@127.0.0.1:{self.control}:{kafka_uuid()}"
        command = ["format", "--cluster-id", kafka_uuid(), "--initial-controllers", voters, "--config", str(self.properties), *scram]
        subprocess.run(self._java("256m", "kafka.tools.StorageTool", *command), check=True, capture_output=True)


class DockerBroker:
    """The same from Docker's image; it can't be crashed and restarted with its port, so tests of that skip."""

    def __init__(self) -> None:
        (self.port,) = free_ports(1)
        self.cluster = Cluster(f"127.0.0.1:{self.port}")
        self.container = ""

    def start(self) -> Cluster:
        """Run the image and wait until the broker answers."""
        listeners = "PLAINTEXT://:9092,CONTROLLER://:9093"
        settings = PROPERTIES | {"listeners": listeners, "advertised.listeners": f"PLAINTEXT://127.0.0.1:{self.port}"}
        settings |= {"controller.quorum.voters": "1@localhost:9093"}
        variables = [x for k, v in settings.items() for x in ("-e", f"KAFKA_{k.upper().replace('.', '_')}={v}")]
        command = ["docker", "run", "-d", "--rm", "-p", f"127.0.0.1:{self.port}:9092", *variables, IMAGE]
        self.container = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
        deadline = time.monotonic() + START_TIMEOUT_S
        while not answers(self.port):
            if time.monotonic() > deadline:
                raise RuntimeError("the broker in Docker did not start")
            time.sleep(0.2)
        return self.cluster

    def stop(self) -> None:
        """Remove the container."""
        subprocess.run(["docker", "rm", "-f", self.container], check=False, capture_output=True)


PROPERTIES = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "PLAINTEXT",
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_SSL:SASL_SSL",
    "auto.create.topics.enable": "false",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "group.initial.rebalance.delay.ms": "0",
    "broker.session.timeout.ms": "3000",  # a restart after a crash waits this long
    "broker.heartbeat.interval.ms": "500",
    "log.retention.hours": "-1",
}


def secure_properties(tls: Path) -> dict[str, str]:
    """Settings of the SASL_SSL listener: SCRAM-SHA-512 and PLAIN users, client certificates welcome."""
    login = "org.apache.kafka.common.security"
    users = " ".join(f'user_{u}="{p}"' for u, p in USERS.items())
    return {
        "sasl.enabled.mechanisms": "SCRAM-SHA-512,PLAIN",
        "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config": f"{login}.scram.ScramLoginModule required;",
        "listener.name.sasl_ssl.plain.sasl.jaas.config": f"{login}.plain.PlainLoginModule required {users};",
        "ssl.keystore.type": "PKCS12",
        "ssl.keystore.location": str(tls / "broker.p12"),
        "ssl.keystore.password": STORE_PASSWORD,
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(tls / "ca.pem"),
        "ssl.client.auth": "requested",
    }


def make_certificates(where: Path) -> Path:
    """A CA, a broker certificate for localhost and 127.0.0.1, and a client certificate, as PEM files, by openssl."""
    where.mkdir(exist_ok=True)

    def openssl(*args: str) -> None:
        subprocess.run(["openssl", *args], cwd=where, check=True, capture_output=True)

    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "3650", "-subj", "/CN=test-ca", "-keyout", "ca.key", "-out", "ca.pem")
    (where / "san").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    for name in ("broker", "client"):
        openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        signed = ["-req", "-days", "3650", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "san"]
        openssl("x509", *signed, "-out", f"{name}.pem")
    bundle = ["-export", "-in", "broker.pem", "-inkey", "broker.key", "-certfile", "ca.pem", "-out", "broker.p12"]
    openssl("pkcs12", *bundle, "-passout", f"pass:{STORE_PASSWORD}")
    return where


def connect(directory: Path) -> tuple[Cluster, Broker | DockerBroker | None]:
    """The broker to test against, in the order of `kafka_home`; the second is what must be stopped afterwards."""
    if named := os.environ.get("KAFKA_BOOTSTRAP"):
        return Cluster(named), None
    broker = Broker(directory) if find_home() is not None else DockerBroker()
    return broker.start(), broker


def free_ports(count: int) -> Sequence[int]:
    """TCP ports of 127.0.0.1 that nobody listens on now."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in held]
    for s in held:
        s.close()
    return ports


def kafka_uuid() -> str:
    """A random id as Kafka writes it (it must not begin with a dash)."""
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=").replace("-", "a")


def answers(port: int) -> bool:
    """Whether the broker answers an ApiVersions request (a listening port alone is not readiness)."""
    body = b"\x00\x12\x00\x00\x00\x00\x00\x01\xff\xff"  # ApiVersions v0, correlation id 1, no client id
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as s:
            s.sendall(len(body).to_bytes(4, "big") + body)
            return len(s.recv(10)) >= 8
    except OSError:
        return False
