"""Migration 0007 gives two models new names: what is stored under the old ones stays usable, by
this release and by the one before.
"""

from collections.abc import Iterator

import pytest
from django.apps import apps
from django.contrib.auth.models import Group, Permission, User
from django.contrib.contenttypes.models import ContentType
from django.core.management import call_command
from django.db import connection

from clearing.models import CounterpartyState

BEFORE, AFTER, NEWEST = ("0006",), ("0007",), ()
CODENAMES = {f"{action}_{model}" for action in ("add", "change", "delete", "view") for model in ("standing", "standingchange")}
pytestmark = pytest.mark.django_db(transaction=True)


def migrate(name: tuple[str, ...]) -> None:
    call_command("migrate", "clearing", *name, verbosity=0, interactive=False)
    ContentType.objects.clear_cache()


@pytest.fixture
def release_before() -> Iterator[None]:
    """The schema of the release before, with a group that may pause counterparties."""
    migrate(BEFORE)
    group = Group.objects.create(name="desk")
    group.permissions.set(Permission.objects.filter(codename__in=["view_standing", "change_standing"]))
    User.objects.create(username="ann").groups.add(group)
    yield
    migrate(NEWEST)


def content_types() -> set[str]:
    return set(ContentType.objects.filter(app_label="clearing").values_list("model", flat=True))


@pytest.mark.usefixtures("release_before")
def test_groups_keep_their_permissions_and_no_others_are_made() -> None:
    before = set(Permission.objects.filter(codename__in=CODENAMES).values_list("pk", flat=True))
    assert len(before) == len(CODENAMES)

    migrate(AFTER)

    assert User.objects.get(username="ann").has_perms(["clearing.view_standing", "clearing.change_standing"])
    assert set(Permission.objects.filter(codename__in=CODENAMES).values_list("pk", flat=True)) == before
    assert not Permission.objects.filter(codename__contains="counterpartystate").exists()
    assert {"counterpartystate", "counterpartystatechange"} <= content_types()
    assert not {"standing", "standingchange"} & content_types()


@pytest.mark.usefixtures("release_before")
def test_tables_keep_their_names_and_all_three_counterparties_have_rows() -> None:
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM clearing_standing")
        cursor.execute("INSERT INTO clearing_standing (name, breaker) VALUES ('fund', 'open')")

    migrate(AFTER)

    assert dict(CounterpartyState.objects.values_list("name", "breaker")) == {"counter": "closed", "fund": "open", "trading": "closed"}
    assert {model._meta.db_table for model in apps.get_app_config("clearing").get_models() if "Counterparty" in model.__name__} == {
        "clearing_standing",
        "clearing_standingchange",
    }


@pytest.mark.usefixtures("release_before")
def test_the_way_back_is_open_though_the_release_before_made_its_content_type_again() -> None:
    migrate(AFTER)
    ContentType.objects.create(app_label="clearing", model="standing")  # as its audit log does

    migrate(BEFORE)

    assert "standing" in content_types()
    assert User.objects.get(username="ann").has_perm("clearing.change_standing")
