"""A real Apache Kafka (KRaft, one node) on private ports: without Docker, from Maven Central's
jars.

Three listeners: without security; SASL_PLAINTEXT with PLAIN and SCRAM; SASL_SSL with the same.
`python -m tests.kafka.broker` fetches the jars.
"""

import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from stack.kafka import Kafka
from stack.ports import LOOPBACK, find_free
from stack.rundir import CHECKOUT
from tests.support.waiting import wait_until

VERSION: Final = "4.4.0"
JARS: Final = CHECKOUT / ".run" / f"kafka-{VERSION}"
USER, PASSWORD = "acceptance", "right"
START_SECONDS_MAX: Final = 180.0  # on a loaded machine; some seconds on a quiet one
FETCH_SECONDS_MAX: Final = 300.0
POM: Final = """<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>tests</groupId><artifactId>kafka</artifactId><version>1</version><dependencies>
<dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{version}</version></dependency>
<dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version></dependency>
</dependencies></project>
"""
# Sessions as short as the consumer's own, and a broker that was killed takes its place again at
# once (16 s by default).
PROPERTIES: Final = """
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{host}:{controller}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listeners=PLAINTEXT://{host}:{plain},SASL_PLAINTEXT://{host}:{sasl},SASL_SSL://{host}:{tls},CONTROLLER://{host}:{controller}
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT,SASL_SSL:SASL_SSL
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512
ssl.keystore.type=PEM
ssl.keystore.location={keystore}
log.dirs={data}
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
auto.create.topics.enable=false
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
log.retention.check.interval.ms=1000
log.segment.delete.delay.ms=0
"""
LOGIN: Final = "listener.name.{listener}.{mechanism}.sasl.jaas.config=org.apache.kafka.common.security.{module} required{users};\n"
MODULES: Final = {"plain": "plain.PlainLoginModule", "scram-sha-256": "scram.ScramLoginModule", "scram-sha-512": "scram.ScramLoginModule"}


def missing() -> str | None:
    """Why no Kafka can run here, and what to do; None when one can."""
    if shutil.which("java") is None:
        return "no java: apt install default-jre-headless"
    return None if any(JARS.glob("kafka_2.13-*.jar")) else "no jars of Kafka: make test-kafka fetches them"


def fetch() -> str | None:
    """Fetches the jars where they are missing. Returns why that can't be done."""
    if any(JARS.glob("kafka_2.13-*.jar")):
        return missing()
    if shutil.which("mvn") is None:
        return "no mvn: apt install maven"
    JARS.mkdir(parents=True, exist_ok=True)
    (JARS / "pom.xml").write_text(POM.format(version=VERSION))
    command = ["mvn", "--quiet", "--batch-mode", "dependency:copy-dependencies", f"-DoutputDirectory={JARS}"]
    ended = subprocess.run(command, cwd=JARS, stdout=sys.stderr, timeout=FETCH_SECONDS_MAX, check=False)
    return missing() if ended.returncode == 0 else f"mvn ended with {ended.returncode}"


@dataclass
class Broker:
    """One node; `start`, `kill` and `stop` keep its ports and its data."""

    folder: Path
    certificate: Path
    key: Path
    ports: dict[str, int] = field(default_factory=dict)
    process: "subprocess.Popen[bytes] | None" = None

    def address(self, listener: str = "plain") -> str:
        """host:port of a listener: plain, sasl or tls."""
        return f"{LOOPBACK}:{self.ports[listener]}"

    def prepare(self) -> None:
        """Writes its configuration and formats its data, with the accounts."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for listener in ("plain", "sasl", "tls", "controller"):
            self.ports[listener] = find_free(set(self.ports.values()))
        keystore = self.folder / "broker.pem"
        keystore.write_text(self.key.read_text() + self.certificate.read_text())
        text = PROPERTIES.format(host=LOOPBACK, keystore=keystore, data=self.folder / "data", **self.ports)
        for listener in ("sasl_plaintext", "sasl_ssl"):
            for mechanism, module in MODULES.items():
                users = f' user_{USER}="{PASSWORD}"' if mechanism == "plain" else ""
                text += LOGIN.format(listener=listener, mechanism=mechanism, module=module, users=users)
        (self.folder / "server.properties").write_text(text)
        accounts = [f"--add-scram={name}=[name={USER},password={PASSWORD}]" for name in ("SCRAM-SHA-256", "SCRAM-SHA-512")]
        self._java("kafka.tools.StorageTool", "format", "--cluster-id=MkU3OEVBNTcwNTJENDM2Qk", "--config", "server.properties", *accounts).wait(
            START_SECONDS_MAX
        )

    def start(self) -> None:
        self.process = self._java("kafka.Kafka", "server.properties")
        wait_until(Kafka(self.folder, self.ports["plain"]).answers, seconds=START_SECONDS_MAX, pause_seconds=0.1)

    def kill(self) -> None:
        """SIGKILL, as a machine would lose it."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def log(self) -> str:
        return (self.folder / "broker.log").read_text()

    def _java(self, *arguments: str) -> "subprocess.Popen[bytes]":
        command = ["java", "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", f"{JARS}/*", *arguments]
        with (self.folder / "broker.log").open("ab") as log:
            return subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=subprocess.STDOUT)


if __name__ == "__main__":
    if reason := fetch():
        sys.exit(f"a real Kafka can't run here: {reason}")
