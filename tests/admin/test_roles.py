"""Who may approve: a settled approver who asks for nothing and administers nobody, in the database
under the locks of the approval.
"""

from datetime import timedelta

import pytest
from django.contrib.auth.models import Group, Permission, User
from django.core.management import call_command
from django.db import connection
from django.utils import timezone

from base.desk.rights import may, why_not_approve
from base.desk.roles import ADMINISTRATOR, APPROVER, NAMES, OPERATOR, PERMISSIONS
from base.models import DeskAccount, Grant
from clearing.interventions.requests import approve
from clearing.models import Intervention
from clearing.status import InterventionState
from clearing.store.interventions import NotPossible, Operator
from tests.clearing.people import K, asked, held
from tests.support.desk import ann_and_ben, member
from tests.support.orders import World
from tests.support.states import rewritable

HOURS = 24


@pytest.fixture
def waiting(world: World) -> int:
    """An intervention that Ann asked for."""
    ann_and_ben()
    return asked(held(world), K.RELEASE_HOLD)


def tries(pk: int, user: User) -> str:
    """The code under which the approval is refused; empty: it was executed."""
    try:
        approve(pk, operator=Operator(user.username, user.pk))
    except NotPossible as refusal:
        assert Intervention.objects.get(pk=pk).state == InterventionState.REQUESTED
        return refusal.code
    return ""


class TestRoles:
    def test_migrate_makes_them_with_exactly_their_permissions(self, db: None) -> None:
        held_by = {
            group.name: {f"{one.content_type.app_label}.{one.codename}" for one in group.permissions.select_related("content_type")}
            for group in Group.objects.filter(name__in=NAMES)
        }

        assert held_by == {name: set(permissions) for name, permissions in PERMISSIONS.items()}

    def test_migrate_takes_away_what_was_added_to_one(self, db: None) -> None:
        operator = Group.objects.get(name=OPERATOR)
        operator.permissions.add(Permission.objects.get(codename="approve_intervention"))

        call_command("migrate", verbosity=0)

        assert not operator.permissions.filter(codename="approve_intervention").exists()

    def test_a_superuser_can_not_ask_without_being_an_operator(self, db: None) -> None:
        assert not may(member("root", superuser=True), "clearing.add_intervention")
        assert may(member("both", OPERATOR, superuser=True), "clearing.add_intervention")


class TestApprover:
    def test_a_settled_one_approves(self, waiting: int) -> None:
        assert tries(waiting, User.objects.get(username="ben")) == ""

    def test_a_superuser_without_the_role_can_not(self, waiting: int) -> None:
        assert tries(waiting, member("root", superuser=True)) == "not_approver"

    def test_nor_who_has_the_permission_alone(self, waiting: int) -> None:
        user = member("eve")
        user.user_permissions.add(Permission.objects.get(codename="approve_intervention"))

        assert tries(waiting, user) == "not_approver"

    def test_nor_who_is_in_the_group_without_a_grant_by_two_administrators(self, waiting: int) -> None:
        user = member("eve")
        user.groups.add(Group.objects.get(name=APPROVER))

        assert tries(waiting, user) == "not_approver"

    def test_nor_who_asks_too(self, waiting: int) -> None:
        assert tries(waiting, member("eve", APPROVER, OPERATOR)) == "asks_too"

    def test_not_even_by_a_permission_of_another_group(self, waiting: int) -> None:
        user = member("eve", APPROVER)
        group = Group.objects.create(name="night shift")
        group.permissions.add(Permission.objects.get(codename="change_clearing"))
        user.groups.add(group)

        assert tries(waiting, user) == "asks_too"

    @pytest.mark.parametrize("by", ["role", "superuser"])
    def test_nor_who_administers_and_could_ask_by_an_account_of_his_making(self, waiting: int, by: str) -> None:
        user = member("eve", APPROVER, *([ADMINISTRATOR] if by == "role" else []), superuser=by == "superuser")

        assert tries(waiting, user) == "administers_too"

    def test_nor_who_is_no_longer_active(self, waiting: int) -> None:
        ben = User.objects.get(username="ben")
        User.objects.filter(pk=ben.pk).update(is_active=False)

        assert tries(waiting, ben) == "not_approver"

    def test_nor_who_left_the_group_and_came_back_by_himself(self, waiting: int) -> None:
        ben = User.objects.get(username="ben")
        ben.groups.clear()
        ben.groups.add(Group.objects.get(name=APPROVER))

        assert tries(waiting, ben) == "not_approver"

    def test_nobody_without_an_account(self, waiting: int) -> None:
        with pytest.raises(NotPossible, match="approver"):
            approve(waiting, operator=Operator("ben"))


class TestSettled:
    def test_a_fresh_grant_can_not_approve_for_a_day(self, waiting: int) -> None:
        with rewritable():
            Grant.objects.filter(username="ben").update(since=timezone.now() - timedelta(hours=HOURS - 0.1))
        ben = User.objects.get(username="ben")
        assert tries(waiting, ben) == "not_settled"

        with rewritable():
            Grant.objects.filter(username="ben").update(since=timezone.now() - timedelta(hours=HOURS + 0.1))

        assert tries(waiting, ben) == ""

    def test_nor_a_fresh_account(self, waiting: int) -> None:
        user = member("eve", APPROVER)
        DeskAccount.objects.filter(user_id=user.pk).update(account_at=timezone.now())

        assert tries(waiting, user) == "not_settled"

    def test_nor_who_got_a_new_password_by_whatever_way(self, waiting: int) -> None:
        ben = User.objects.get(username="ben")
        User.objects.filter(pk=ben.pk).update(password="straight into the table")

        assert tries(waiting, ben) == "not_settled"
        assert "you can approve from" in why_not_approve(ben.pk)[1]

    def test_nor_who_was_made_active_again(self, waiting: int) -> None:
        ben = User.objects.get(username="ben")
        User.objects.filter(pk=ben.pk).update(is_active=False)
        User.objects.filter(pk=ben.pk).update(is_active=True)

        assert tries(waiting, ben) == "not_settled"

    def test_signing_in_and_another_address_unsettle_nobody(self, waiting: int) -> None:
        User.objects.filter(username="ben").update(last_login=timezone.now(), email="ben@example.com")

        assert tries(waiting, User.objects.get(username="ben")) == ""

    def test_a_password_that_is_hashed_anew_at_a_sign_in_is_no_new_one(self, waiting: int, settings: pytest.FixtureRequest) -> None:
        """Of a release of Django with more iterations."""
        from base.desk.hashing import KeptHash

        ben = User.objects.get(username="ben")
        ben.password = KeptHash().encode("the same password as ever", "salt" * 6, iterations=1000)
        ben.save()
        DeskAccount.objects.filter(user_id=ben.pk).update(credentials_at=timezone.now() - timedelta(days=2))

        assert ben.check_password("the same password as ever")

        assert tries(waiting, ben) == ""

    def test_no_session_chooses_its_own_hours(self, waiting: int) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT base_settled_hours()")
            assert cursor.fetchone() == (float(HOURS),)


class TestHeldBeforeRolesExisted:
    """The migration's grants: who asked and approved before goes on for 30 days."""

    @pytest.fixture
    def both(self, db: None) -> User:
        user = member("old", OPERATOR, APPROVER, superuser=True)
        with rewritable():
            Grant.objects.filter(user_id=user.pk).update(source=Grant.Source.UPGRADE, since=timezone.now())
        return user

    def test_approves_at_once(self, waiting: int, both: User) -> None:
        assert tries(waiting, both) == ""

    def test_for_thirty_days(self, waiting: int, both: User) -> None:
        with rewritable():
            Grant.objects.filter(user_id=both.pk).update(since=timezone.now() - timedelta(days=31))

        assert tries(waiting, both) == "asks_too"
