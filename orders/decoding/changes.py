"""The result of decoding a change message of any format: row changes, or UnreadableMessage."""

from typing import Final, Literal

import msgspec

from orders.decoding.mysql_types import Value

RowValues = dict[str, Value]
Operation = Literal["insert", "update", "delete", "ddl"]

SHOWN_CHARACTERS_MAX: Final = 80


class UnreadableMessage(ValueError):  # noqa: N818 - named by what it reports
    """The message can't be read: its format, where in it the problem is, and the value found there,
    shortened.
    """

    def __init__(self, source_format: str, field: str, problem: str, value: object = None) -> None:
        self.source_format = source_format
        self.field = field
        self.problem = problem
        self.value = shortened(value)
        super().__init__(f"{source_format}: {field}: {problem}" + (f", found {self.value}" if value is not None else ""))


class RowChange(msgspec.Struct, frozen=True, gc=False):
    """One row's change. Values are MySQL's text for them, whatever the source, or bytes;
    `source_time` is in ms since the epoch.

    In `before` and `after` None is null and absent is absent; `ddl` has neither. An update's
    `before` is the old row as far as the source states it.
    """

    source_format: str
    database: str
    table: str
    operation: Operation
    before: RowValues | None
    after: RowValues | None
    primary_key: tuple[str, ...]
    source_time: int | None


def shortened(value: object) -> str:
    """The value as a short text for error messages; never raises."""
    text = value if isinstance(value, str) else f"{value!r}" if not isinstance(value, int | list | dict) else f"a {type(value).__name__}"
    return repr(text[:SHOWN_CHARACTERS_MAX]) + ("…" if len(text) > SHOWN_CHARACTERS_MAX else "")


def error_location(error: str) -> str:
    """Where the error is, as msgspec names it at its end: "… - at `$.data[0][...]`"."""
    _, at, path = error.rpartition(" - at `$")
    return path.strip("`.") or "message" if at else "message"
