"""Asks for known weaknesses of what the service is built on: `python -m stack.advisories [--json]`,
or `make advisories`.

pip-audit (in `.venv/audit`) asks for every pinned package, and for one whose weaknesses have been
public for years. Where that one isn't known either, or a package was left out, nobody can say that
there is nothing: pip-audit itself would, with exit code 0, behind any mirror that serves packages
without their advisories.

exit code: 0 asked for each, and nothing is known; 1 something is known; 3 no source of advisories
answered, or not for each package
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from stack.rundir import CHECKOUT

EXIT_FOUND: Final = 1
EXIT_NO_SOURCE: Final = 3
PIP_AUDIT: Final = CHECKOUT / ".venv" / "audit" / "bin" / "pip-audit"
PINS: Final = ("requirements.txt", "requirements-dev.txt")
KNOWN_WEAK: Final = ("pyyaml", "5.3")  # CVE-2020-14343 and others
SECONDS_MAX: Final = 600
SHOWN_MAX: Final = 5


class NoSourceError(Exception):
    """Nobody can say whether anything is known; the text says why."""


@dataclass(frozen=True)
class Found:
    """A weakness of a pinned package; `fixed_in` may be empty."""

    package: str
    version: str
    id: str
    fixed_in: tuple[str, ...]


def ask(pip_audit: Sequence[str], folder: Path) -> list[Found]:
    """What is known of the pins of a folder. Raises NoSourceError."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as weak:
        weak.write(f"{'=='.join(KNOWN_WEAK)}\n")
        weak.flush()
        _trust(_audited(pip_audit, "--no-deps", "-r", weak.name))
    packages = _audited(pip_audit, "--require-hashes", *(word for name in PINS for word in ("-r", str(folder / name))))
    left_out = [package["name"] for package in packages if "skip_reason" in package]
    if left_out or not packages:
        raise NoSourceError(f"the source doesn't know {_some(left_out) if left_out else 'any package'}")
    weaknesses = [(package, weakness) for package in packages for weakness in package["vulns"]]
    found = [Found(package["name"], package["version"], weakness["id"], tuple(weakness.get("fix_versions", ()))) for package, weakness in weaknesses]
    return list(dict.fromkeys(found))  # both files pin most packages


def _audited(pip_audit: Sequence[str], *options: str) -> list[dict[str, Any]]:
    command = [*pip_audit, "--disable-pip", "--format", "json", "--progress-spinner", "off", *options]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS_MAX)
        packages: list[dict[str, Any]] = json.loads(ended.stdout)["dependencies"]
    except OSError as error:
        raise NoSourceError(f"pip-audit can't be started: {error}") from error
    except subprocess.TimeoutExpired as error:
        raise NoSourceError(f"no answer within {SECONDS_MAX} s") from error
    except (ValueError, KeyError, TypeError) as error:
        lines = ended.stderr.strip().splitlines() or [f"pip-audit ended with {ended.returncode} and said nothing"]
        raise NoSourceError(lines[-1]) from error
    return packages


def _trust(packages: list[dict[str, Any]]) -> None:
    if not any(package.get("vulns") for package in packages):
        raise NoSourceError(f"the source knows nothing of {' '.join(KNOWN_WEAK)}, whose weaknesses are public: it serves no advisories")


def _some(names: list[str]) -> str:
    return f"{', '.join(names[:SHOWN_MAX])}{f' and {len(names) - SHOWN_MAX} more' if len(names) > SHOWN_MAX else ''}"


def main(arguments: list[str], pip_audit: Sequence[str] = (str(PIP_AUDIT),)) -> int:
    parser = argparse.ArgumentParser(prog="python -m stack.advisories", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print what is known as JSON")
    as_json = parser.parse_args(arguments).json
    try:
        found = ask(pip_audit, CHECKOUT)
    except NoSourceError as error:
        print(f"advisories: nobody can say, for {error}", file=sys.stderr)  # noqa: T201 - a command's output
        return EXIT_NO_SOURCE
    if as_json:
        print(json.dumps([asdict(each) for each in found]))  # noqa: T201
    else:
        for each in found:
            print(f"{each.package} {each.version}: {each.id}, fixed in {', '.join(each.fixed_in) or 'no release yet'}")  # noqa: T201
        print(f"{len(found)} known weaknesses")  # noqa: T201
    return EXIT_FOUND if found else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
