"""The name of a process among all others: `host:pid:number`, never used twice.

Incarnations and candidates for leadership are both named so, each with a number of its own: their
first two parts tell that they are the same process.
"""

import os
import socket
from uuid import uuid4

HOST_CHARACTERS_MAX = 40


def new_name() -> str:
    """A name for this process that no other has or had."""
    return f"{socket.gethostname()[:HOST_CHARACTERS_MAX]}:{os.getpid()}:{uuid4().hex[:12]}"


def process_of(name: str) -> str:
    """`host:pid` of a name; empty for an empty one."""
    return name.rpartition(":")[0]
