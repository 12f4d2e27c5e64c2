"""Keeps secrets out of the log, whoever writes the line and in whatever format: by the name of a
field, by the value of each configured secret, and by the place of a password in an address.
"""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from structlog.typing import EventDict, WrappedLogger

REDACTED: Final = "[redacted]"
CHARACTERS_MIN: Final = 8  # a shorter secret would blank out ordinary words; production has none
# `key` alone is an idempotency key, which operators look for.
_NAMES: Final = re.compile(r"password|passwd|secret|authorization|token|cookie|.[_-]key(_file)?$", re.IGNORECASE)
_IN_ADDRESS: Final = r"(?<=://)[^/\s@\"']*:[^/\s@\"']+(?=@)"


class Redaction:
    """What to take out of lines. `secrets`: the values of the secrets that this process holds."""

    def __init__(self, secrets: Iterable[str]) -> None:
        forms = {form for secret in secrets if len(secret) >= CHARACTERS_MIN for form in (secret, json.dumps(secret)[1:-1], repr(secret)[1:-1])}
        self._text = re.compile("|".join([*map(re.escape, sorted(forms, key=len, reverse=True)), _IN_ADDRESS]))

    def by_name(self, _logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        """A processor of structlog's: blanks fields with a secret's name, inside objects too."""
        return {name: REDACTED if _NAMES.search(name) and value else _inside(value) for name, value in event.items()}

    def by_value(self, _logger: WrappedLogger, _method: str, line: Any) -> str:
        """A processor for behind the renderer, where tracebacks are text."""
        return self._text.sub(REDACTED, str(line))


def _inside(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: REDACTED if _NAMES.search(str(name)) and part else _inside(part) for name, part in value.items()}
    return value
