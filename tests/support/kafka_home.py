"""Find the jars of an Apache Kafka to test against, or bring them: `python kafka_home.py` (`make kafka`). Standard library only.

The order: `KAFKA_BOOTSTRAP` (a broker that runs already), `KAFKA_HOME`, `../shared/kafka`, `.kafka` (what `make kafka` brought), a
Docker image.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
IMAGE = "apache/kafka:4.3.1"


def find_home() -> Path | None:
    """A folder with `libs/*.jar`, or None. Raises FileNotFoundError when KAFKA_HOME is set and has no broker in it."""
    if named := os.environ.get("KAFKA_HOME"):
        if not has_broker(Path(named)):
            raise FileNotFoundError(f"KAFKA_HOME={named}: no libs/kafka_*.jar in it")
        return Path(named)
    return next((home for home in (ROOT.parent / "shared" / "kafka", ROOT / ".kafka") if has_broker(home)), None)


def has_broker(home: Path) -> bool:
    """Whether the folder holds the jars of a broker."""
    return any((home / "libs").glob("kafka_*.jar"))


def docker_image() -> bool:
    """Whether Docker answers and has, or can bring, Kafka's image."""
    if shutil.which("docker") is None:
        return False
    if subprocess.run(["docker", "image", "inspect", IMAGE], capture_output=True, timeout=20, check=False).returncode == 0:
        return True
    return subprocess.run(["docker", "pull", "-q", IMAGE], capture_output=True, timeout=300, check=False).returncode == 0


def absent() -> str | None:
    """Why there is no Kafka to test against, or None when there is one."""
    if os.environ.get("KAFKA_BOOTSTRAP"):
        return None
    if find_home() is not None:
        return None if shutil.which("java") else "Kafka's jars are there, Java (17 or newer) is not"
    try:
        return (
            None if docker_image() else "no KAFKA_BOOTSTRAP, no KAFKA_HOME, no ../shared/kafka, no .kafka (`make kafka`), no Docker image"
        )
    except subprocess.TimeoutExpired:
        return "Docker does not answer"


def bring() -> str:
    """Let Maven copy the jars into `.kafka/libs`, unless a home is there. Returns what happened; a failed try is left at that."""
    if os.environ.get("KAFKA_BOOTSTRAP"):
        return "Kafka: KAFKA_BOOTSTRAP names a broker"
    if (home := find_home()) is not None:
        return f"Kafka: {home}"
    tried = ROOT / ".kafka" / "tried"
    if shutil.which("mvn") is None or tried.exists():
        return "Kafka: no home found, Maven is not there or could not bring it before; tests that need Kafka will skip"
    target = ROOT / ".kafka" / "libs"
    target.mkdir(parents=True, exist_ok=True)
    command = [
        "mvn",
        "-q",
        "-B",
        "-f",
        str(Path(__file__).with_name("pom.xml")),
        "dependency:copy-dependencies",
        f"-DoutputDirectory={target}",
    ]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=600)
    if done.returncode == 0 and has_broker(target.parent):
        return f"Kafka: Maven brought it into {target.parent}"
    tried.write_text(done.stdout[-2000:])
    return f"Kafka: Maven could not bring it (see {tried}; remove that file to try again); tests that need Kafka will skip"


if __name__ == "__main__":
    print(bring())
