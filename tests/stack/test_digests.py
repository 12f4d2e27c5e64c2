"""`make digests` pins images to what a registry says, and to nothing else."""

import shutil
from pathlib import Path

import pytest

from stack.digests import FILES, IMAGE, main
from stack.rundir import CHECKOUT

DIGEST = "sha256:" + "0123456789abcdef" * 4


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in FILES:
        shutil.copy(CHECKOUT / name, tmp_path)
    return tmp_path


def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    (tmp_path / "bin").mkdir()
    path = tmp_path / "bin" / "docker"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}:/usr/bin:/bin")


class TestDigests:
    def test_each_image_that_is_not_ours_is_pinned_behind_its_tag_also_again(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        docker(folder, monkeypatch, f"echo {DIGEST}")

        assert main([], folder) == 0
        once = {name: (folder / name).read_text() for name in FILES}
        assert main([], folder) == 0

        assert once == {name: (folder / name).read_text() for name in FILES}
        images = [found[0].split()[-1] for text in once.values() for found in IMAGE.finditer(text)]
        assert {image.partition("@")[0] for image in images if "@" in image} == {
            *("python:3.11-slim", "postgres:18", "valkey/valkey:9-alpine", "apache/kafka:4.1.0", "zookeeper:3.9")
        }
        assert {image.partition("@")[2] for image in images if "@" in image} == {DIGEST}
        assert {image for image in images if "@" not in image} == {"acceptance-service", "service"}

    def test_a_dry_run_changes_nothing(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        docker(folder, monkeypatch, f"echo {DIGEST}")

        assert main(["--dry-run"], folder) == 0
        assert (folder / "Dockerfile").read_text() == (CHECKOUT / "Dockerfile").read_text()

    @pytest.mark.parametrize("script", ["echo no such image >&2; exit 1", "echo latest", "true"])
    def test_what_no_registry_knows_is_not_invented(self, folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
        docker(folder, monkeypatch, script)

        assert main([], folder) == 1
        assert (folder / "docker-compose.yml").read_text() == (CHECKOUT / "docker-compose.yml").read_text()

    def test_without_docker_nobody_is_asked(self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        monkeypatch.setenv("PATH", str(folder))

        assert main([], folder) == 3
        assert "no docker here" in capsys.readouterr().err
