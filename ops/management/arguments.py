"""Types of command-line arguments that several commands share. Each raises argparse's own error for
what it can't read.
"""

import argparse
from datetime import UTC, datetime


def whole(text: str) -> int:
    """A whole number from 0 on."""
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} isn't a whole number")
    return int(text)


def moment(text: str) -> datetime:
    """A time in ISO 8601; UTC where it names no offset."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} isn't a time like 2026-01-02T03:04:05 or 2026-01-02T03:04:05+08:00") from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def milliseconds(at: datetime) -> int:
    """Since the epoch."""
    return int(at.timestamp() * 1000)
