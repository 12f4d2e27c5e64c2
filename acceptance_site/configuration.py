"""Reads settings from the environment and collects everything that is wrong with them, so that a
process that can't start says all of it at once.

Each reader returns the variable's value, or its default after noting the problem; `at_least` and
`at_most` hold two settings against each other. `finish` prints one line for each problem and ends
the process with exit code 78, whichever way it was started. A new setting needs one call of a
reader; a new contradiction one call in acceptance_site/contradictions.py; what production alone
refuses, one in acceptance_site/production.py. Values of secrets and addresses, which may hold a
password, are never shown. A secret may lie in a file, which `NAME_FILE` names.
"""

import hashlib
import json
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import unquote
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import dj_database_url
from environs import Env, EnvError, validate

from acceptance_site.addresses import is_postgresql, split

EXIT_CONFIGURATION: Final = 78  # EX_CONFIG: supervisors don't start the process again
SHOWN_CHARACTERS_MAX: Final = 60
TRUE_OR_FALSE: Final = "true or false"
MOMENT: Final = "a moment as in 2026-01-31T00:00:00+00:00"
# What may lie in a file. tests/base/test_secret_files.py finds a setting that was forgotten here.
SECRETS: Final = frozenset(
    {
        *("SECRET_KEY", "DATABASE_URL", "BROKER_URL", "COUNTER_KEY", "FUND_KEY", "TRADING_KEY"),
        *("KAFKA_SASL_PASSWORD", "KAFKA_SSL_KEY_PASSWORD", "ZOOKEEPER_PASSWORD", "ZOOKEEPER_SSL_KEY_PASSWORD"),
        *("ALARM_WEBHOOK_URL", "ALARM_WEBHOOK_KEY", "MONITORING_TOKEN", "INTAKE_KEYS", "SEAL_KEY"),
    }
)
CHECKOUT_MARKS: Final = (".git", ".run")
Number = TypeVar("Number", int, float, Decimal)
Made = TypeVar("Made")


class Configuration:
    """The environment's variables, and the problems with them.

    An empty value counts as not set. `former` is a variable's name in the release before: it is
    still read, with a notice.
    """

    def __init__(self) -> None:
        self.env = Env()
        self.production = False  # as soon as ENVIRONMENT was read
        self.problems: list[str] = []
        self.notices: list[str] = []
        self.secrets_read: set[str] = set()  # their values, which no log may show
        self._wrong: set[str] = set()

    # --- what is wrong ----------------------------------------------------------------------------
    def problem(self, name: str, text: str) -> None:
        """Notes what is wrong with a variable. Contradictions that it is part of aren't looked
        for.
        """
        self._wrong.add(name)
        self.problems.append(text)

    def refuse(self, name: str, text: str, *others: str) -> None:
        """Notes that a value which can be read is refused, unless it or one of the variables
        `others` is wrong by itself.
        """
        if not self._wrong & {name, *others}:
            self.problem(name, text)

    def at_least(self, name: str, value: float, least: float, why: str, *others: str) -> None:
        """Notes a contradiction with the variables `others` if the value is smaller."""
        if value < least and not self._wrong & {name, *others}:
            self.problem(name, f"{name} is {_plain(value)}: set it to {_plain(least)} or more ({why})")

    def at_most(self, name: str, value: float, most: float, why: str, *others: str) -> None:
        """Notes a contradiction with the variables `others` if the value is greater."""
        if value > most and not self._wrong & {name, *others}:
            self.problem(name, f"{name} is {_plain(value)}: set it to {_plain(most)} or less ({why})")

    def finish(self) -> None:
        """Prints notices; and the problems, if there are any: then raises SystemExit(78)."""
        for notice in self.notices:
            sys.stderr.write(f"configuration: {notice}\n")
        if self.problems:
            count = f"{len(self.problems)} problem{'s' * (len(self.problems) > 1)}"
            lines = [f"configuration: {count}, nothing is started (docs/configuration.md explains each variable)", *self.problems]
            sys.stderr.write("\n".join(lines) + "\n")
            sys.stderr.flush()
            raise SystemExit(EXIT_CONFIGURATION)

    # --- where we are -----------------------------------------------------------------------------
    def environment(self, folder: Path) -> str:
        """Development or production. Only a checkout may leave it unset: elsewhere nobody meant
        development, with its secrets that everybody can work out.
        """
        if not self._set("ENVIRONMENT") and not any((folder / mark).exists() for mark in CHECKOUT_MARKS):
            self.problem("ENVIRONMENT", "ENVIRONMENT is not set, and this is no checkout: set it to production, or to development beside a sandbox")
            return "production"
        return self.one_of("ENVIRONMENT", "development", "production", other="production")  # a misspelt one must not start as development

    def refuse_without_assertions(self) -> None:
        """`python -O` leaves every assert out, and with them checks of this service's and of its
        libraries'.
        """
        if sys.flags.optimize:
            self.problem("PYTHONOPTIMIZE", "PYTHONOPTIMIZE is set, or python was started with -O: unset it, since it switches checks off")

    def is_set(self, name: str) -> bool:
        """Whether somebody has named a value, be it the default's."""
        return bool(self._set(name))

    # --- readers ----------------------------------------------------------------------------------
    def _set(self, name: str) -> str:
        """The variable's text, or that of the file which NAME_FILE names; empty if it isn't set."""
        value = self._read(name)
        if name in SECRETS and value:
            self.secrets_read |= set(_secret_parts(name, value))
        return value

    def _read(self, name: str) -> str:
        value: str = self.env.str(name, "")
        file: str = self.env.str(f"{name}_FILE", "") if name in SECRETS else ""
        if not file:
            return value
        if value:
            self.refuse(name, f"{name} and {name}_FILE are both set: unset one of them")
            return value
        try:
            return Path(file).read_text(encoding="utf-8").removesuffix("\n").removesuffix("\r")
        except (OSError, UnicodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it isn't UTF-8"
            self.refuse(name, f"{name}_FILE can't be read ({why}): set it to a file that holds {name} alone")
            return ""

    def text(self, name: str, default: str = "", *, pattern: str = "", form: str = "") -> str:
        """A text; with `pattern`, one that matches it as a whole. `form` says in words what to
        set.
        """
        value: str = self._set(name) or default
        if pattern and value != default and not re.fullmatch(pattern, value):
            self.problem(name, f"{name} is {_quoted(value)}: set it to {form}")
            return default
        return value

    def regular_expression(self, name: str, default: str) -> re.Pattern[str]:
        """A pattern that a text must match as a whole."""
        value: str = self._set(name) or default
        try:
            return re.compile(value, re.ASCII)
        except (re.error, OverflowError, RecursionError):
            self.problem(name, f"{name} is {_quoted(value)}: set it to a regular expression")
            return re.compile(default, re.ASCII)

    def folder(self, name: str, default: str = "") -> str:
        """A folder that exists, or can be made; empty where neither a value nor a default is
        given.
        """
        value: str = self.env.str(name, "") or default
        reason = _why_no_folder(Path(value)) if value else ""
        if reason:
            self.problem(name, f"{name} is {_quoted(value)}: set it to a folder ({reason})")
            return default
        return value

    def required(self, name: str, development: str, *, fits: Callable[[str], bool] = bool, form: str = "its value") -> str:
        """A text that production must set; elsewhere `development` is its default. The value, which
        may be secret, isn't shown.
        """
        value: str = self._set(name)
        if not value:
            if self.production:
                self.refuse(name, f"{name} is not set: production needs it; set it to {form}")
            return development
        if not fits(value):
            self.problem(name, f"{name} can't be used as it is: set it to {form}")
            return development
        return value

    def development_secret(self, name: str, folder: Path) -> str:
        """A secret for development alone: differs from checkout to checkout, stays the same over
        restarts.
        """
        return hashlib.sha256(f"{name}:{folder}".encode()).hexdigest()

    def optional(self, name: str, *, fits: Callable[[str], bool], form: str) -> str:
        """A text that may be empty; its value, which may be secret, isn't shown."""
        value: str = self._set(name)
        if value and not fits(value):
            self.problem(name, f"{name} can't be used as it is: set it to {form}")
            return ""
        return value

    def keys(self, name: str) -> dict[str, str]:
        """Keys by their ids, as in `2026a:SECRET,2026b:SECRET`; their texts aren't shown."""
        value = self._set(name)
        pairs = [(key_id.strip(), key.strip()) for key_id, _, key in (pair.partition(":") for pair in value.split(","))] if value else []
        if not all(re.fullmatch(r"[0-9A-Za-z._-]{1,64}", key_id) and re.fullmatch(r"[!-+\--~]{16,500}", key) for key_id, key in pairs):
            self.problem(
                name, f"{name} can't be used as it is: set it to ID:KEY, or to two of them with a comma between; a key has 16 characters or more"
            )
            return {}
        if len({key_id for key_id, _ in pairs}) < len(pairs):
            self.problem(name, f"{name} gives two keys the same id: set each under an id of its own")
            return {}
        self.secrets_read |= {key for _, key in pairs}
        return dict(pairs)

    def checked(self, make: Callable[..., Made], default: Made, wrong: type[ValueError], /, **variables: Any) -> Made:
        """What `make` makes of several variables. It raises `wrong` with one message for each
        problem.
        """
        try:
            return make(**variables)
        except wrong as error:
            for text in error.args:
                self.problem(text.partition(" ")[0], text)
            return default

    def one_of(self, name: str, *choices: str, upper: bool = False, other: str = "") -> str:
        """One of the choices; the first is the default. Anything else counts as `other`."""
        value: str = self._set(name) or choices[0]
        value = value.upper() if upper else value
        if value not in choices:
            self.problem(name, f"{name} is {_quoted(value)}: set it to one of {', '.join(choices)}")
            return other or choices[0]
        return value

    def boolean(self, name: str, default: bool, *, former: str = "") -> bool:
        """A truth value as environs reads it: true, false, 1, 0, yes, no, on, off."""
        source, value = self._source(name, former)
        if not value:
            return default
        try:
            return bool(self.env.bool(source))
        except EnvError:
            self.problem(name, f"{source} is {_quoted(value)}: set {'it' if source == name else name} to {TRUE_OR_FALSE}")
            return default

    def whole(self, name: str, default: int, *, least: int, most: int, former: str = "") -> int:
        """A whole number within its limits."""
        return self._number(self.env.int, "a whole number", name, default, (least, most), former)

    def number(self, name: str, default: float, *, least: float, most: float, former: str = "") -> float:
        """A number within its limits."""
        return self._number(self.env.float, "a number", name, default, (least, most), former)

    def decimal(self, name: str, default: Decimal, *, least: Decimal, most: Decimal) -> Decimal:
        """An exact number within its limits."""
        return self._number(self.env.decimal, "a number", name, default, (least, most))

    def words(self, name: str, default: list[str], *, pattern: str = ".+", form: str = "") -> list[str]:
        """A list, separated by commas, of words that match the pattern."""
        value: str = self._set(name)
        if not value:
            return default
        words = [word.strip() for word in value.split(",") if word.strip()]
        if not words or not all(re.fullmatch(pattern, word) for word in words):
            self.problem(name, f"{name} is {_quoted(value)}: set it to {form}")
            return default
        return words

    def moment(self, name: str, development: str) -> datetime:
        """A moment that production must set; UTC where it names no zone."""
        return self._moment(name, self.required(name, development, form=MOMENT), development)

    def moment_or_none(self, name: str) -> datetime | None:
        """A moment, UTC where it names no zone; None where it isn't set."""
        value = self._set(name)
        return self._moment(name, value, "1970-01-01") if value else None

    def _moment(self, name: str, value: str, otherwise: str) -> datetime:
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            self.problem(name, f"{name} is {_quoted(value)}: set it to {MOMENT}")
            moment = datetime.fromisoformat(otherwise)
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)

    def zone(self, name: str) -> ZoneInfo:
        """A time zone by its IANA name; UTC by default."""
        value: str = self._set(name) or "UTC"
        try:
            return ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            self.problem(name, f"{name} is {_quoted(value)}: set it to a time zone's name, as Asia/Shanghai")
            return ZoneInfo("UTC")

    def columns(self, name: str, ours: set[str]) -> dict[str, str]:
        """A JSON object of our column names and the table's."""
        value: str = self._set(name) or "{}"
        form = f'JSON as in {{"created_at": "gmt_create"}}, with keys of {", ".join(sorted(ours))}'
        try:
            names = json.loads(value)
        except ValueError:
            names = None
        if not isinstance(names, dict) or names.keys() - ours or not all(isinstance(theirs, str) and theirs for theirs in names.values()):
            self.problem(name, f"{name} is {_quoted(value)}: set it to {form}")
            return {}
        if len(set({**{column: column for column in ours}, **names}.values())) < len(ours):
            self.problem(name, f"{name} is {_quoted(value)}: two of our columns get the same one of theirs; set each to one of its own")
            return {}
        return names

    def database(self, name: str, development: str) -> tuple[str, dict[str, Any]]:
        """PostgreSQL's address, and Django's settings of it."""
        form = "postgresql://user:password@host:5432/name"
        value = self.required(name, development, fits=is_postgresql, form=form)
        return value, dict(dj_database_url.parse(value))

    def _source(self, name: str, former: str) -> tuple[str, str]:
        """The name under which the variable is set, and its text. Notes the use of its former
        name.
        """
        value: str = self._set(name)
        old: str = self.env.str(former, "") if former else ""
        if not old:
            return name, value
        if value and value != old:
            self.problem(name, f"{name} and {former}, its former name, are set to different values: unset {former}")
            return name, ""
        self.notices.append(f"{former} is now called {name}: set that instead; the next release doesn't read {former} any more")
        return (name, value) if value else (former, old)

    def _number(self, parse: Callable[..., Number], kind: str, name: str, default: Number, limits: tuple[Number, Number], former: str = "") -> Number:
        source, value = self._source(name, former)
        if not value:
            return default
        try:
            return parse(source, validate=validate.Range(*limits))
        except EnvError:
            shown = value if re.fullmatch(r"[-+]?[\d.]+", value) else _quoted(value)
            form = f"{kind} from {_plain(limits[0])} to {_plain(limits[1])}"
            self.problem(name, f"{source} is {shown}: set {'it' if source == name else name} to {form}")
            return default


def _why_no_folder(path: Path) -> str:
    """Why it neither is a folder nor can become one; empty where it can."""
    try:
        nearest = next((one for one in (path, *path.parents) if one.exists()), None)
        return f"{nearest} is a file" if nearest and not nearest.is_dir() else ""
    except OSError as error:
        return str(error)


def _secret_parts(name: str, value: str) -> list[str]:
    """What no log may show of it. A server's address without a password may be shown; a webhook's
    may not, since it is a password itself. A key in PEM is hidden line by line, as a log writes it.
    """
    if "PRIVATE KEY" in value:
        return [line for line in value.splitlines() if line and not line.startswith("-")]
    parts = split(value) if "://" in value else None
    if parts is None or name == "ALARM_WEBHOOK_URL":
        return [value]
    return [value, unquote(parts.password)] if parts.password else []


def _quoted(value: str) -> str:
    return repr(value if len(value) <= SHOWN_CHARACTERS_MAX else value[:SHOWN_CHARACTERS_MAX] + "…")


def _plain(value: float | Decimal) -> str:
    """A limit as one writes it: 0.5, 3600, 518400. Also of a float, which base.decimals.plain
    isn't for.
    """
    return f"{value:.10f}".rstrip("0").rstrip(".")
