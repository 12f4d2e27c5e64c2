"""The Procfile: the one list of the service's processes and their command lines."""

import re
from pathlib import Path

from stack.errors import StackError

LINE = re.compile(r"(?P<name>[a-z][a-z0-9-]*):\s*(?P<command>\S.*)")


def read_procfile(path: Path) -> dict[str, str]:
    """Names and command lines, in the file's order. Raises StackError for a line that is neither, nor empty, nor a comment."""
    processes: dict[str, str] = {}
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        found = LINE.fullmatch(line.strip())
        if not found:
            raise StackError(f"{path.name}, line {number}: expected `name: command`")
        processes[found["name"]] = found["command"]
    return processes
