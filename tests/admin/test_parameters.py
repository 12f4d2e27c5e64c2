"""Query parameters that no page has a use for: none of them ends in a server error."""

from typing import Any

import pytest
from django.contrib.admin import site
from django.contrib.admin.models import CHANGE, LogEntry
from django.db import connection, transaction
from django.test import Client
from django.urls import reverse

from base.desk.roles import OPERATOR
from base.parameters import BIGINT_MAX, ids_in, number_in
from clearing.models import Clearing, Pause
from orders.models import Quarantined
from tests.support.desk import member
from tests.support.orders import World

# "²" is a digit to `str.isdigit` and none to `int`; 30 digits fit in no column; PostgreSQL stores
# no NUL.
ODD = ("²", "9" * 30, str(2**63), "-1", "2026-13-45", "\0")
LISTS = {f"{model._meta.app_label}_{model._meta.model_name}": admin for model, admin in site._registry.items()}
IDS_PAGES = ("/admin/clearing/clearing/retry/", "/admin/orders/quarantined/replay/")


@pytest.fixture
def root(db: None, world: World) -> Client:
    """An operator with every permission, in a database with a row in each table that has a page."""
    user = member("root", OPERATOR, superuser=True)
    clearing = world.accept()
    Quarantined.objects.create(topic="t", partition=1, offset=1, message=b"x", reason="unreadable", source="kafka")
    Pause.objects.create(counterparty="fund", step=2, reason="a test", actor="root")
    LogEntry.objects.log_actions(user.pk, [clearing], CHANGE, change_message="a test")
    client = Client()
    client.force_login(user)
    return client


def parameters(admin: Any) -> set[str]:
    """The names of all parameters that a list reads: its own and those of its filters."""
    names = {"q", "p", "o"}
    for listed in admin.list_filter:
        if isinstance(listed, str):
            names |= {listed, f"{listed}__exact", f"{listed}__isnull"}
        else:
            names.add(listed.parameter_name)
    return names


class TestEveryList:
    @pytest.mark.parametrize("name", sorted(LISTS))
    def test_answers_odd_parameters_without_a_server_error(self, root: Client, name: str) -> None:
        url = reverse(f"admin:{name}_changelist")
        asked = [{parameter: value} for parameter in sorted(parameters(LISTS[name])) for value in ODD]

        failed = [query for query in asked if fails(root, url, query)]

        assert failed == []

    @pytest.mark.parametrize("term", ["t/²@1", "t/1@²", f"t/{2**31}@1", f"t/1@{2**63}", "t/٣@1"])
    def test_so_does_a_search_for_a_place_in_the_log(self, root: Client, term: str) -> None:
        assert not fails(root, "/admin/orders/quarantined/", {"q": term})


class TestLookingWritesNothing:
    """A replica that is read-only serves every page; an operator with view permission alone changes
    nothing.
    """

    def test_at_any_list(self, root: Client) -> None:
        read_only()

        failed = [name for name in sorted(LISTS) if fails(root, reverse(f"admin:{name}_changelist"))]

        assert failed == []

    def test_at_any_page_of_one(self, root: Client) -> None:
        shown = {name: admin.model._default_manager.values_list("pk", flat=True).first() for name, admin in LISTS.items()}
        assert {"clearing_counterpartystate", "clearing_clearing", "orders_quarantined"} <= {name for name, key in shown.items() if key is not None}
        read_only()

        failed = [name for name, key in shown.items() if key is not None and fails(root, reverse(f"admin:{name}_change", args=[key]))]

        assert failed == []


class TestEveryPageOfOne:
    @pytest.mark.parametrize("page", ["change", "history", "delete"])
    def test_answers_odd_keys_without_a_server_error(self, root: Client, page: str) -> None:
        addresses = [reverse(f"admin:{name}_{page}", args=[key]) for name in sorted(LISTS) for key in ODD]

        failed = [address for address in addresses if fails(root, address)]

        assert failed == []

    @pytest.mark.parametrize(
        "path",
        [
            "/admin/clearing/clearing/{}/retry-this/",
            "/admin/clearing/clearing/{}/ask/void/",
            "/admin/clearing/intervention/{}/decide/",
            "/admin/orders/quarantined/{}/replay-this/",
            "/admin/clearing/standing/{}/pause/",
            "/admin/clearing/standing/{}/pause-this/",
            "/admin/clearing/standing/{}/resume-this/",
        ],
    )
    def test_so_does_each_action_on_one(self, root: Client, path: str) -> None:
        failed = [key for key in ODD if fails(root, path.format(key))]

        assert failed == []


class TestIds:
    @pytest.mark.parametrize("page", IDS_PAGES)
    def test_what_is_no_key_is_left_out(self, root: Client, page: str) -> None:
        failed = [value for value in ODD if fails(root, page, {"ids": f"{value},x"})]

        assert failed == []
        assert root.get(page, {"ids": ",".join(ODD[:-1])}).context["chosen"] == []

    def test_the_good_ones_beside_it_are_shown(self, root: Client) -> None:
        clearing = Clearing.objects.get()

        answer = root.get(IDS_PAGES[0], {"ids": f"²,{clearing.pk},{'9' * 30}"})

        assert [row.pk for row in answer.context["chosen"]] == [clearing.pk]

    def test_no_more_than_the_limit_are_read_and_each_once(self) -> None:
        assert ids_in("3,1,3,x,2", limit=2) == [3, 1]

    @pytest.mark.parametrize(("text", "number"), [("0", 0), ("007", 7), (str(BIGINT_MAX), BIGINT_MAX), (str(BIGINT_MAX + 1), None), (" 1", None)])
    def test_a_number_is_ascii_digits_that_fit(self, text: str, number: int | None) -> None:
        assert number_in(text) == number


def read_only() -> None:
    """The rest of the test's transaction can't write."""
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")  # their checks, at the test's end, take locks
        cursor.execute("SET TRANSACTION READ ONLY")


def fails(client: Client, address: str, query: dict[str, str] | None = None) -> bool:
    """Whether a page answers with a server error. In a savepoint, so that the next one is asked in
    a transaction that still works.
    """
    try:
        with transaction.atomic():
            return client.get(address, query).status_code >= 500
    except Exception:
        return True
