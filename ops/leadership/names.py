"""What those who stand for leadership are called."""

import os
import socket
from uuid import uuid4


def new_name() -> str:
    """host:pid:number, as incarnations are named: never used twice."""
    return f"{socket.gethostname()[:40]}:{os.getpid()}:{uuid4().hex[:12]}"
