"""The first start of a database: who says since when it accepts orders, and what is in doubt then
(design, rule 15; docs/decisions/0017).

Where the consumer group has committed offsets in Kafka, another database was used before this one.
Then it takes two people, with an account each, and both acts are told outside the database.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from django.conf import settings
from django.contrib.auth import get_user_model
from django.db import transaction

from base.alarms import notify
from base.clock import ServiceNow
from base.db import call
from clearing.store import recovery
from orders.intake import first_start
from orders.intake.mapping import milliseconds
from orders.models import FirstStart
from orders.stream.topic_reader import committed_offsets

LOCK: Final = 0x66697273745F7374  # "first_st": of two commands at once
REQUESTED, STARTED = "first_start_requested", "first_start_done"


class NotDone(Exception):  # noqa: N818 - named by what it reports
    """Nothing was changed: why, and what to do."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """`state`: started, requested (waits for the second person, who needs `code`), or already."""

    state: str
    since: datetime
    code: str = ""
    committed: int = 0  # partitions in which our group has committed offsets


def checked_since(since: datetime | None) -> int:
    """The time in milliseconds; None is now. Raises NotDone for one that can't be meant."""
    now_ms = _now_ms()
    since_ms = now_ms if since is None else milliseconds(since)
    if since_ms > now_ms:
        raise NotDone(f"{_shown(since_ms)} is in the future: orders until then would be left out; it is {_shown(now_ms)} at the database")
    if since_ms < milliseconds(settings.INTAKE_SINCE):
        lower = settings.INTAKE_SINCE.isoformat()
        raise NotDone(f"{_shown(since_ms)} is before INTAKE_SINCE ({lower}), which is the lower bound: name a later time, or lower INTAKE_SINCE")
    return since_ms


def begin(since_ms: int, *, actor: str, user: Any = None) -> Outcome:
    """Starts the database, or requests it where another one was used before. Raises NotDone,
    LogNotReadable.
    """
    if (already := _already(since_ms)) is not None:
        return already
    committed = committed_offsets(settings.KAFKA_BOOTSTRAP_SERVERS, settings.KAFKA_TOPIC, settings.KAFKA_GROUP)
    if not committed:
        return start(since_ms, actor=actor if user is None else user.get_username())
    told = {"since": _shown(since_ms), "group": settings.KAFKA_GROUP, "partitions": len(committed)}
    if user is None:
        raise NotDone(
            f"the consumer group {settings.KAFKA_GROUP!r} has committed offsets in {len(committed)} partitions: another database was used before this"
            " one. If DATABASE_URL names the right one, two people start it: repeat with --user and your account of the admin"
        )
    made = first_start.request(since_ms, actor=user.get_username(), actor_id=user.pk)
    notify(REQUESTED, "an empty database is to accept orders: a second person has to confirm it", **told, actor=user.get_username())
    return Outcome("requested", _moment(since_ms), made.code, len(committed))


def start(since_ms: int, *, actor: str, ahead_ms: int | None = None) -> Outcome:
    """Starts the database, if it isn't started already. Raises NotDone.

    Whoever had the orders before it may have run those that exist by now: they are reconciled
    before anything is sent. `ahead_ms`: how far the counter's clock may be ahead of the database's.
    """
    with transaction.atomic():
        call("SELECT pg_advisory_xact_lock(%s)", [LOCK])
        if (already := _already(since_ms)) is not None:
            return already
        first_start.start(since_ms, actor=actor)
        _reconcile_before(actor, int(settings.CLOCK_SKEW_SECONDS_MAX * 1000) if ahead_ms is None else ahead_ms)
    notify(STARTED, "an empty database accepts orders from now on", since=_shown(since_ms), actor=actor)
    return Outcome("started", _moment(since_ms))


def confirm(code: str, user: Any) -> Outcome:
    """The second person's word. Raises NotDone."""
    with transaction.atomic():
        call("SELECT pg_advisory_xact_lock(%s)", [LOCK])
        row = FirstStart.objects.filter(code=code, needs_two=True).first()
        if row is None:
            raise NotDone(f"there is no request {code!r}")
        if (already := _already(row.since_ms)) is not None:
            return already
        if not FirstStart.objects.filter(pk=row.pk, requested_at__gt=ServiceNow() - timedelta(hours=settings.INTERVENTION_HOURS)).exists():
            raise NotDone(f"the request of {row.requested_by} is older than INTERVENTION_HOURS: request it again")
        if user.pk == row.requested_by_id or user.get_username().casefold() == row.requested_by.casefold():
            raise NotDone("who requested it can't confirm it: it takes a second person with an account of their own")
        row.confirmed_by, row.confirmed_by_id, row.started_at = user.get_username(), user.pk, ServiceNow()
        row.save()
        _reconcile_before(f"{row.requested_by}, {row.confirmed_by}", int(settings.CLOCK_SKEW_SECONDS_MAX * 1000))
    notify(STARTED, "an empty database accepts orders from now on", since=_shown(row.since_ms), actor=f"{row.requested_by}, {row.confirmed_by}")
    return Outcome("started", _moment(row.since_ms))


def account(name: str, password: str, permission: str) -> Any:
    """The account of the admin, whose password was typed. Raises NotDone."""
    user = get_user_model().objects.filter(username=name).first()
    if user is None or not user.is_active or not user.is_staff or not user.check_password(password):
        raise NotDone(f"no account {name!r} of the admin has this password (manage.py createsuperuser makes one)")
    if not user.has_perm(permission):
        raise NotDone(f"{name} lacks the permission {permission}")
    return user


def as_it_is() -> Outcome | None:
    """What was said of this database before; None if nothing was."""
    found = first_start.since_ms()
    return None if found is None else Outcome("already", _moment(found))


def _reconcile_before(actor: str, ahead_ms: int) -> None:
    recovery.mark_restored(_now_ms() + ahead_ms, reason="first start: orders of before may have been run", actor=actor)


def _already(since_ms: int) -> Outcome | None:
    """The outcome where the database is started. Raises NotDone if it was for another time."""
    already = as_it_is()
    if already is not None and already.since != _moment(since_ms):
        raise NotDone(f"this database was started already: it accepts orders since {already.since.isoformat()}; nothing was changed")
    return already


def _now_ms() -> int:
    return int(call("SELECT clearing_ms(service_now())", [])[0][0])


def _moment(since_ms: int) -> datetime:
    return datetime.fromtimestamp(since_ms / 1000, tz=UTC)


def _shown(since_ms: int) -> str:
    return _moment(since_ms).isoformat(timespec="milliseconds")
