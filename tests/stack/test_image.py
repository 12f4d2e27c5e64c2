"""What goes into an image, and into git: no file of secrets, and nothing that isn't named."""

import re
import subprocess
from collections.abc import Iterator

import pytest

from stack.rundir import CHECKOUT

SECRETS = [".env", ".env.production", "base/.env", "ops/audit/.env.local", "base/tls.key", "acceptance_site/authority.pem", "sandbox.env"]


def ignored(path: str) -> bool:
    """Whether .dockerignore keeps it out: the last pattern that matches it, or a folder above it,
    decides.
    """
    out = False
    for line in (CHECKOUT / ".dockerignore").read_text().splitlines():
        if line and not line.startswith("#") and _pattern(line.removeprefix("!")).fullmatch(path):
            out = not line.startswith("!")
    return out


def _pattern(line: str) -> re.Pattern[str]:
    text = re.escape(line).replace(r"\*\*/", "(.*/)?").replace(r"\*", "[^/]*")
    return re.compile(f"{text}(/.*)?")


def copied() -> Iterator[str]:
    """The sources of the Dockerfile's COPY lines."""
    for line in (CHECKOUT / "Dockerfile").read_text().splitlines():
        if line.startswith(("COPY", "ADD")):
            yield from line.split()[1:-1]


class TestImage:
    @pytest.mark.parametrize("secret", SECRETS)
    def test_holds_no_secret(self, secret: str) -> None:
        assert ignored(secret)

    def test_is_copied_by_name_from_what_git_knows(self) -> None:
        known = subprocess.run(["git", "ls-files"], cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout.splitlines()
        sources = list(copied())

        assert len(sources) > 5
        for source in sources:
            assert re.fullmatch(r"[\w.-]+/?", source), source
            assert source.strip("./"), source
            assert source in known if not source.endswith("/") else any(path.startswith(source) for path in known), source
            assert not ignored(source.rstrip("/")), source

    @pytest.mark.parametrize(
        "path", ["tests/conftest.py", "docs/design.md", ".git/config", ".run/stack.env", ".venv/bin/python", "base/__pycache__/a"]
    )
    def test_holds_nothing_else(self, path: str) -> None:
        assert ignored(path)

    def test_of_the_service_has_every_room_and_no_toy(self) -> None:
        service = (CHECKOUT / "Dockerfile").read_text().split("FROM service")[0]
        rooms = {path.parent.name for path in CHECKOUT.glob("*/__init__.py")} - {"sandbox", "stack", "tests", "benchmarks", "findings"}

        assert {line.split()[1].rstrip("/") for line in service.splitlines() if line.startswith("COPY") and "/ " in line} == rooms
        assert "ENV ENVIRONMENT=production" in service


class TestGit:
    @pytest.mark.parametrize("secret", [path for path in SECRETS if path != "sandbox.env"])
    def test_takes_no_secret(self, secret: str) -> None:
        ended = subprocess.run(["git", "check-ignore", "--quiet", "--no-index", secret], cwd=CHECKOUT, check=False)

        assert ended.returncode == 0

    def test_takes_the_sandboxs_addresses_which_hold_none(self) -> None:
        text = (CHECKOUT / "sandbox.env").read_text()

        assert subprocess.run(["git", "check-ignore", "--quiet", "--no-index", "sandbox.env"], cwd=CHECKOUT, check=False).returncode == 1
        assert not re.search("^[A-Z_]*(KEY|PASSWORD|SECRET)", text, re.MULTILINE)
