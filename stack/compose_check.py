"""Holds docker-compose.yml against the compose schema and against the project: `python -m
stack.compose_check [FILE]`.

The schema (PyPI's `compose-spec`) doesn't check names in `depends_on` and `volumes`. Nor does it
check that the service's processes get only variables that settings.py reads, that no secret has a
default, that every service has a health check and bounds, and that ours can write nowhere but to
memory. Prints one line a finding; exit code 1 if there is one.
"""

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from compose_spec import PyCompose

from stack.rundir import CHECKOUT

SECRET = re.compile(r"SECRET|PASSWORD|_KEY$")
INTERPOLATION = re.compile(r"\$\{(?P<name>\w+)(?P<rest>[^}]*)\}")
OF_EACH = ("mem_limit", "pids_limit", "networks")  # without them one container can take all, and reach all
RUNS_ONCE = "service_completed_successfully"


def findings(text: str, known_variables: set[str]) -> Iterator[str]:
    """What is wrong with a compose file, a sentence each; `known_variables` is what our own
    processes may be given.
    """
    document = yaml.safe_load(text)
    try:
        PyCompose.from_yaml(yaml.safe_dump(document))  # it knows no merge keys (<<), as compose does
    except ValueError as error:
        yield f"the schema refuses it: {error}"
        return
    services = document["services"]
    yield from _secrets_with_defaults(text)
    for name, service in services.items():
        yield from _dangling_names(name, service, document)
        if "healthcheck" not in service and name not in _one_shots(services):
            yield f"{name} has no healthcheck"
        yield from _loose(name, service)
        if _is_ours(service):
            yield from (f"{name} is given {variable}, which settings.py doesn't read" for variable in sorted(_variables(service) - known_variables))


def _is_ours(service: dict[str, Any]) -> bool:
    return "build" in service or service.get("image") == "acceptance-service"


def _loose(name: str, service: dict[str, Any]) -> Iterator[str]:
    """What a container could do that it doesn't need to."""
    yield from (f"{name} has no {bound}" for bound in OF_EACH if bound not in service)
    if service.get("cap_drop") != ["ALL"]:
        yield f"{name} keeps capabilities: write cap_drop: [ALL]"
    if "no-new-privileges:true" not in service.get("security_opt", []):
        yield f'{name} may gain privileges: write security_opt: ["no-new-privileges:true"]'
    if _is_ours(service) and not service.get("read_only"):
        yield f"{name} may change its own files: write read_only: true"
    if _is_ours(service) and service.get("cap_add"):
        yield f"{name} is given capabilities, which none of ours needs: leave cap_add out"


def _variables(service: dict[str, Any]) -> set[str]:
    """The names that a service's processes are given: its environment's, and those that its command
    sets with `env`.
    """
    command = service.get("command") or []
    return {*service.get("environment", {}), *(word.split("=")[0] for word in command if command[0] == "env" and re.match(r"[A-Z_]+=", word))}


def _dangling_names(name: str, service: dict[str, Any], document: dict[str, Any]) -> Iterator[str]:
    for other in service.get("depends_on", {}):
        if other not in document["services"]:
            yield f"{name} depends on {other}, which is no service"
    for mount in service.get("volumes", []):
        source = mount.split(":")[0]
        if source[0] not in "./~" and source not in document.get("volumes", {}):
            yield f"{name} mounts {source}, which is no volume"


def _one_shots(services: dict[str, Any]) -> set[str]:
    waits = [service.get("depends_on", {}) for service in services.values()]
    return {name for wait in waits if isinstance(wait, dict) for name, how in wait.items() if how.get("condition") == RUNS_ONCE}


def _secrets_with_defaults(text: str) -> Iterator[str]:
    for found in INTERPOLATION.finditer(text):
        if SECRET.search(found["name"]) and not found["rest"].startswith(":?"):
            yield f"the secret {found['name']} isn't required: write ${{{found['name']}:?what to set}}"


def known_variables() -> set[str]:
    """Every variable that settings.py reads."""
    from acceptance_site import settings  # noqa: PLC0415 - reads the environment; a check of another file needs none of it

    return set(settings.env.dump())


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m stack.compose_check", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", type=Path, default=CHECKOUT / "docker-compose.yml", help="default: the checkout's")
    file: Path = parser.parse_args(arguments).file
    wrong = list(findings(file.read_text(), known_variables()))
    for finding in wrong:
        print(f"{file.name}: {finding}", file=sys.stderr)  # noqa: T201 - a command's output
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
