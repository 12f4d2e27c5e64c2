"""The Procfile: the one list of the service's processes and their command lines."""

import re
from pathlib import Path

from stack.errors import StackError, WrongVariable

LINE = re.compile(r"(?P<name>[a-z][a-z0-9-]*):\s*(?P<command>\S.*)")


INSTANCE = re.compile(r"(?P<base>[a-z][a-z0-9-]*)(\.(?P<number>[1-9][0-9]*))?")
COUNT = re.compile(r"(?P<base>[a-z][a-z0-9-]*)=(?P<count>[0-9]{1,2})")


def instance_of(name: str) -> tuple[str, int]:
    """(Procfile's name, number) of a service: `worker` is its first instance, `worker.2` the
    second. Raises StackError.
    """
    found = INSTANCE.fullmatch(name)
    if not found:
        raise StackError(f"{name!r} is no service: write worker, or worker.2 for a second one")
    return found["base"], int(found["number"] or 1)


def instance_name(base: str, number: int) -> str:
    """The name of an instance."""
    return base if number == 1 else f"{base}.{number}"


def read_counts(text: str) -> dict[str, int]:
    """How many of each are to run, from "worker=2 consumer=2". Raises WrongVariable."""
    counts = {}
    for word in text.split():
        found = COUNT.fullmatch(word)
        if not found:
            raise WrongVariable(f"PROCESSES names {word!r}: write as in PROCESSES='worker=2 consumer=2', at most 99 of each")
        counts[found["base"]] = int(found["count"])
    return counts


def read_procfile(path: Path) -> dict[str, str]:
    """Names and command lines, in the file's order. Raises StackError for a line that is neither,
    nor empty, nor a comment.
    """
    processes: dict[str, str] = {}
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        found = LINE.fullmatch(line.strip())
        if not found:
            raise StackError(f"{path.name}, line {number}: expected `name: command`")
        processes[found["name"]] = found["command"]
    return processes
