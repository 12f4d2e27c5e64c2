"""Pins the images of Dockerfile and docker-compose.yml to what their tags mean today:
`python -m stack.digests [--dry-run]`, or `make digests`.

A tag is moved by whoever owns it; a digest names bytes. Docker asks the registries; nothing is
invented where it isn't there. An image that is pinned already is asked for by its tag again.

exit code: 0 pinned; 1 a registry doesn't know an image; 3 there is no docker to ask with
"""

import argparse
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from stack.rundir import CHECKOUT

EXIT_UNKNOWN: Final = 1
EXIT_NO_DOCKER: Final = 3
FILES: Final = ("Dockerfile", "docker-compose.yml")
OURS: Final = ("acceptance-", "service")  # built here: a stage, or an image of ours
IMAGE: Final = re.compile(r"(?P<before>^FROM |^ +image: )(?P<name>[\w./-]+(:[\w.-]+)?)(@sha256:[0-9a-f]{64})?", re.MULTILINE)
DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
SECONDS_MAX: Final = 60


class UnknownImageError(Exception):
    """A registry gave no digest; the text says of what, and why."""


def pinned(text: str, docker: str) -> str:
    """The text of a file with each image's digest behind its tag. Raises UnknownImageError."""

    def pin(found: re.Match[str]) -> str:
        name = found["name"]
        return found[0] if name.startswith(OURS) else f"{found['before']}{name}@{digest(name, docker)}"

    return IMAGE.sub(pin, text)


def digest(name: str, docker: str) -> str:
    """What the registry says that a tag is. Raises UnknownImageError."""
    command = [docker, "buildx", "imagetools", "inspect", name, "--format", "{{.Manifest.Digest}}"]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS_MAX)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnknownImageError(f"{name}: {error}") from error
    said = ended.stdout.strip()
    if ended.returncode or not DIGEST.fullmatch(said):
        raise UnknownImageError(f"{name}: {(ended.stderr.strip() or said or 'docker said nothing').splitlines()[0]}")
    return said


def main(arguments: list[str], folder: Path = CHECKOUT) -> int:
    parser = argparse.ArgumentParser(prog="python -m stack.digests", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true", help="print the lines, change nothing")
    dry = parser.parse_args(arguments).dry_run
    docker = shutil.which("docker")
    if docker is None:
        print("digests: there is no docker here, and only a registry knows them: run it where docker is", file=sys.stderr)  # noqa: T201
        return EXIT_NO_DOCKER
    try:
        texts = {folder / name: pinned((folder / name).read_text(), docker) for name in FILES}
    except UnknownImageError as error:
        print(f"digests: {error}; nothing was changed", file=sys.stderr)  # noqa: T201
        return EXIT_UNKNOWN
    for path, text in texts.items():
        for found in IMAGE.finditer(text):
            print(f"{path.name}: {found[0].strip()}")  # noqa: T201
        if not dry:
            path.write_text(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
