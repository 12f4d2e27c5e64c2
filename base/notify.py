"""Tells whoever started this process that it can do its work, as systemd's `Type=notify` wants to
hear it.
"""

import os
import socket

import structlog

log = structlog.get_logger(__name__)


def ready() -> None:
    """Sends `READY=1` to NOTIFY_SOCKET; nothing where there is none. A supervisor that doesn't
    listen is logged, never a reason to fail.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as outbox:
            outbox.connect(f"\0{address[1:]}" if address.startswith("@") else address)
            outbox.sendall(b"READY=1")
    except OSError as error:
        log.warning("nobody heard that we are ready", error=str(error), socket=address)
