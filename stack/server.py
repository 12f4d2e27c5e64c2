"""What the launcher needs to know of a server; `postgres.py`, `valkey.py` and `kafka.py` say it of
each.
"""

import signal
from pathlib import Path
from typing import Protocol


class Server(Protocol):
    """One embedded server. `folder` is its own below the run folder; its command line names
    `marker`, by which it is recognised.
    """

    name: str
    variable: str  # of the environment, which names another server to use instead
    stop_signal: signal.Signals
    folder: Path
    port: int

    @property
    def url(self) -> str: ...

    @property
    def binary(self) -> str: ...

    @property
    def marker(self) -> str: ...

    @property
    def user(self) -> str | None: ...

    def prepare(self) -> None:
        """Makes the data ready for a start. No process of this server runs."""

    def command(self) -> list[str]: ...

    def answers(self) -> bool:
        """Whether it serves: checked by its own protocol."""

    def settle(self) -> None:
        """Creates what it must hold once it serves: the database, the topic. Repeatable."""

    def clean_up(self) -> None:
        """After it was stopped: leaves nothing outside the run folder."""
