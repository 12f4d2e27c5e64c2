"""Every page of the admin opens, whatever the tables hold that they can hold: the longest texts,
the largest and smallest numbers and times, bytes that nobody can read.

Rows are made from the models' fields, so that a new field or a new list is met here by itself.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.admin.utils import quote
from django.contrib.auth.models import Permission, User
from django.contrib.contenttypes.models import ContentType
from django.db import connection, models
from django.test import Client
from django.urls import URLResolver, get_resolver, reverse

from base.models import Grant, LeaderTerm, Proposal
from clearing.models import Attempt, Clearing, Intervention, Operation, Pause, StatusChange
from clearing.status import InterventionKind, State
from orders.admin import utc_text
from orders.models import Quarantined, QuarantinedMessage, SyncOrder, Watermark
from tests.support.orders import World

ODD_TEXTS = (
    "\"><script>alert(1)</script>'&<!--",
    "{{ x }}{% y %}%s%(a)s%d{0}\\\r\n\t",
    "\u202e\u200b\ufeff\U0001f4a3é̴̸\u2028",
    "!#$%&'()*+,-./:;<=>?@[\\]^`{|}~",
    "../../%2e%2e/?a=1&b=2#c",
)
ODD_BYTES = (
    b"[" * 100_000,
    b'{"a": "\\ud800", "b": "\\u0000", "c": NaN}',
    b'{"a": ' + b"9" * 5_000 + b"}",
    b"\x00\xff" * 50_000,
    b"",
)
REQUEST = b'{"key":"O1:2","order_id":"O1","asset":"USDT","amount":"1","source":"system","destination":"fund"}'
TIMES = (datetime.max.replace(tzinfo=UTC), datetime(1, 1, 2, tzinfo=UTC), datetime(1970, 1, 1, tzinfo=UTC))
BIG = (2**63 - 1, 253_402_351_199_000, -(2**63), 0, 1)
VARIANTS = range(len(State))
LONG_TEXT = 200_000
ROWS_MAX = 8  # of a page
REFUSED_TO_ALL = ("_add", "_delete", ":autocomplete", ":logout", ":view_on_site")  # nobody may, or not without parameters
BY_POST = ("_this", "_decide")
NO_PAGE = ("incarnation_change", "incarnation_history")  # a node has none of its own
OURS = ("base", "orders", "clearing", "ops")
MADE_ALONGSIDE = (Operation, Attempt, StatusChange, Pause, QuarantinedMessage)  # they are shown on others' pages


def odd_text(variant: int, length: int) -> str:
    return (f"{variant}{ODD_TEXTS[variant % len(ODD_TEXTS)]}" * length)[:length]


def odd_amounts(field: Any) -> tuple[Decimal, ...]:
    return Decimal(10 ** (field.max_digits - field.decimal_places) - 1), Decimal(1).scaleb(-field.decimal_places), Decimal(1)


# By kind of field, the more special ones first: its extreme values; each variant takes another.
EXTREMES: tuple[tuple[type[Any], Callable[[Any], Sequence[Any]]], ...] = (
    (models.TextField, lambda _: [odd_text(variant, LONG_TEXT) for variant in VARIANTS]),
    (models.CharField, lambda field: [odd_text(variant, field.max_length or 1) for variant in range(200)]),
    (models.BinaryField, lambda _: ODD_BYTES),
    (models.DecimalField, odd_amounts),
    (models.FloatField, lambda _: (1e308, -1e308, 0.0)),
    (models.BooleanField, lambda _: (True, False)),
    (models.DateTimeField, lambda _: TIMES),
    (models.SmallIntegerField, lambda _: (2**15 - 1, 0, 1)),
    (models.BigIntegerField, lambda _: BIG),
    (models.IntegerField, lambda _: (2**31 - 1, 0, 1)),
    (models.JSONField, lambda field: [{odd_text(0, 40): [odd_text(1, 64)] * 200} if field.default is dict else []]),
)


def odd_value(field: Any, variant: int) -> Any:
    """An extreme value that the field's column can hold; a field of a new kind has to be added to
    EXTREMES.
    """
    choices = list(dict(field.flatchoices))
    makes: list[Callable[[Any], Sequence[Any]]] = [make for kind, make in EXTREMES if isinstance(field, kind)]
    values: Sequence[Any] = choices or makes[0](field)
    return values[variant % len(values)]


def odd_row(model: Any, variant: int, **given: Any) -> Any:
    """A row of the model, unless it is there already."""
    values = dict(given)
    for field in model._meta.concrete_fields:
        if field.name in values or isinstance(field, models.AutoField):
            continue
        if isinstance(field, models.ForeignKey):
            related = field.related_model
            values[field.name] = related._default_manager.order_by("pk")[variant % max(related._default_manager.count(), 1)]
        else:
            values[field.name] = odd_value(field, variant)
    return model._default_manager.create(**values)


@pytest.fixture
def hostile(db: None) -> Client:
    """An operator who may do all, and tables full of odd rows. Triggers, which would refuse states
    that no order came to by itself, are off meanwhile.
    """
    assert get_resolver().url_patterns  # pages register theirs when they are first imported
    World()
    client = Client()
    User.objects.create_user("somebody")
    root = User.objects.create_superuser("root")
    root.user_permissions.set(Permission.objects.all())  # being a superuser moves nothing
    client.force_login(root)
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL transaction_timeout = 0")  # of the test: some hundred pages
        cursor.execute("SET session_replication_role = replica")
        _fill()
        cursor.execute("SET session_replication_role = origin")
    return client


def _fill() -> None:
    for variant, state in enumerate(State):
        positive = {"quantity": odd_value(SyncOrder._meta.get_field("quantity"), variant), "direction": ("OPEN", "CLOSE")[variant % 2]}
        order = odd_row(SyncOrder, variant, **positive, partition=2**31 - 1, offset=2**63 - 1)
        at, error = TIMES[variant % len(TIMES)], odd_value(Clearing._meta.get_field("error_code"), variant)
        clearing = odd_row(
            Clearing, variant, order=order, state=state, step=variant % 4 + 1, flow=1, lane=0, error_code=error, due_at=at, claimed_until=at
        )
        written = {"counterparty": "fund", "action": "transfer", "request": REQUEST}  # by us: nobody else makes a request
        operation = odd_row(Operation, variant, clearing=clearing, step=clearing.step, part=1, **written)
        odd_row(Attempt, variant, operation=operation)
        odd_row(StatusChange, variant, clearing=clearing)
        decided = {"asked_by": "mia", "decided_by": f"tom{variant}"}
        odd_row(
            Intervention, variant, clearing=clearing, operation=operation, kind=list(InterventionKind)[variant % len(InterventionKind)], **decided
        )
    LeaderTerm.objects.update_or_create(pk=1, defaults={"term": 2**63 - 1, "leader": ODD_TEXTS[0], "reason": ODD_TEXTS[1], "since": TIMES[0]})
    models_made: list[Any] = [*admin.site._registry, *MADE_ALONGSIDE]
    for model in models_made:
        if model in {SyncOrder, Clearing, Operation, Attempt, StatusChange, Intervention, User}:
            continue
        if model._meta.pk.choices:  # each of them may be there already
            model._default_manager.all().delete()
        for variant in range(_rows_of(model._meta.pk)):
            odd_row(model, variant, **_given(model, variant))
    for variant, message in enumerate((None, *ODD_BYTES)):
        odd_row(Quarantined, 100 + variant, message=message)


def _given(model: Any, variant: int) -> dict[str, Any]:
    """What the database itself asks of a row: steps that differ, two people."""
    if model is Proposal:
        return {"asked_by": "mia", "asked_by_id": 1, "decided_by": f"tom{variant}", "decided_by_id": 2}
    if model is Grant:
        return {
            "user_id": 3 + variant,
            "granted_by": "mia",
            "granted_by_id": 1,
            "confirmed_by": f"tom{variant}",
            "confirmed_by_id": 2,
            "ended_at": TIMES[variant % len(TIMES)],
        }
    return {"step": variant} if model is Pause else {}


def _rows_of(pk: Any) -> int:
    """As many as there are odd primary keys."""
    if isinstance(pk, models.AutoField):
        return len(VARIANTS)
    return len(pk.flatchoices) or (3 if isinstance(pk, models.IntegerField) else len(VARIANTS))


def opened(client: Client, url: str) -> Any:
    answer = client.get(url, follow=True)
    assert answer.status_code == 200, f"{url}: {answer.status_code}"
    assert "<script>alert(1)" not in answer.content.decode(), f"{url}: a text became a script"
    return answer


def lists() -> Iterator[tuple[Any, str]]:
    for model in list(admin.site._registry):  # pages register theirs when they are first imported
        yield model, reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist")


def test_every_list_opens_with_every_filter_and_sorting(hostile: Client) -> None:
    for _, url in lists():
        answer = opened(hostile, url)
        changelist = answer.context.get("cl")
        if changelist is None:
            continue  # a page of its own, as the nodes': it has neither filters nor columns
        asked = {
            choice["query_string"]
            for spec in changelist.filter_specs
            for choice in itertools.islice(spec.choices(changelist), 8)
            if "query_string" in choice
        }
        sorted_by = [f"?o={number}" for number in range(1, len(changelist.list_display))]
        for query in (*sorted(asked), *sorted_by, f"?q={'%22%3E' * 40}", "?q=a/b@c", "?p=999999", "?e=1"):
            opened(hostile, url + query)


def test_every_other_page_opens(hostile: Client) -> None:
    clearings = list(Clearing.objects.values_list("pk", flat=True))
    quarantined = list(Quarantined.objects.values_list("pk", flat=True))
    ids, kinds = ",".join(map(str, clearings)), [kind.value for kind in InterventionKind]
    pages = [
        "/admin/",
        "/admin/password_change/",
        f"{reverse('admin:clearing_clearing_retry')}?ids={ids}",
        *(f"{reverse('admin:orders_quarantined_replay')}?ids={pk}" for pk in quarantined),
        f"{reverse('admin:orders_quarantined_replay')}?ids={','.join(map(str, quarantined))}",
        *(reverse("admin:clearing_clearing_ask", args=[pk, kind]) for pk, kind in itertools.product(clearings, kinds)),
    ]
    for page in pages:
        answer = hostile.get(page, follow=True)
        assert answer.status_code in {200, 404}, f"{page}: {answer.status_code}"


def patterns(resolver: Any, namespace: str = "") -> Iterator[tuple[str, Any]]:
    """Every address of the web process that has a name, the admin's and others."""
    for pattern in resolver.url_patterns:
        if isinstance(pattern, URLResolver):
            yield from patterns(pattern, f"{pattern.namespace}:" if pattern.namespace else namespace)
        elif pattern.name:
            yield f"{namespace}{pattern.name}", pattern


def addresses(name: str, pattern: Any) -> Iterator[str]:
    """Of a page, for each row that it may be about. An argument of a new name has to be added."""
    fitting = [model for model in admin.site._registry if name.startswith(f"admin:{model._meta.app_label}_{model._meta.model_name}_")]
    rows = [quote(pk) for pk in fitting[0]._default_manager.values_list("pk", flat=True)[:ROWS_MAX]] if fitting else [1]
    values: dict[str, Sequence[Any]] = {
        **dict.fromkeys(("object_id", "pk", "id", "name"), rows),
        "kind": [kind.value for kind in InterventionKind],
        "content_type_id": list(ContentType.objects.values_list("pk", flat=True)),
        "app_label": sorted({model._meta.app_label for model in admin.site._registry}),
    }
    arguments = list(pattern.pattern.converters) or list(pattern.pattern.regex.groupindex)
    for chosen in itertools.product(*(values[argument] for argument in arguments)):
        yield reverse(name, kwargs=dict(zip(arguments, chosen, strict=True)))


def test_no_address_that_the_web_process_has_ends_in_an_error(hostile: Client) -> None:
    """They are found in the URLs' patterns, so that a new page is met here by itself."""
    unopened: set[str] = set()
    for name, pattern in patterns(get_resolver()):
        answers = [hostile.get(address, follow=True) for address in addresses(name, pattern)]
        codes = {answer.status_code for answer in answers}
        assert codes <= {200, 400, 403, 404, 405}, f"{name}: {codes}"
        assert not [answer for answer in answers if b"<script>alert(1)" in answer.content], f"{name}: a text became a script"
        if 200 not in codes:
            unopened.add(name)

    assert {name for name in unopened if not name.endswith((*REFUSED_TO_ALL, *BY_POST, *NO_PAGE))} == set(), "pages that opened for no row"


@pytest.mark.parametrize("milliseconds", [253_402_351_199_000, 2**63 - 1, -(2**63), -1, 10**17])
def test_a_moment_that_no_calendar_has_is_shown_as_it_is(milliseconds: int) -> None:
    assert utc_text(milliseconds).startswith(("1969-12-31", f"{milliseconds} ms"))


def test_watermarks_ahead_of_all_time_are_shown(hostile: Client) -> None:
    Watermark.objects.create(shard=77, newest_ms=2**63 - 1, scanned_through_ms=253_402_351_199_000)

    opened(hostile, "/admin/")
    opened(hostile, reverse("admin:orders_watermark_changelist"))
