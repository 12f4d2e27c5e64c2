"""Users and their rights: nobody edits their own, a guarded role takes two administrators, nobody
takes another one's place, and everything is told outside.
"""

from typing import Any

import pytest
from django.contrib.auth.models import Group, Permission, User
from django.db import transaction
from django.test import Client
from django.utils import timezone
from django_otp.plugins.otp_totp.models import TOTPDevice
from pytest_django import DjangoCaptureOnCommitCallbacks

from base.desk import journal, proposals
from base.desk.actor import Actor
from base.desk.proposals import NotDecided
from base.desk.rights import why_not_approve
from base.desk.roles import ADMINISTRATOR, APPROVER, OPERATOR, VIEWER
from base.models import DeskEvent, Grant, Proposal
from tests.admin.conftest import signed_in
from tests.support.desk import LONG_AGO, member
from tests.support.states import rewritable

PASSWORD = "a long new password 4711"


@pytest.fixture
def root(db: None) -> User:
    return member("root", superuser=True)


@pytest.fixture
def second(db: None) -> User:
    return member("second", ADMINISTRATOR)


def page(user: User) -> str:
    return f"/admin/auth/user/{user.pk}/change/"


def save(by: User, user: User, *groups: str, **fields: Any) -> Any:
    """Saves a user's page with these groups."""
    keys = list(Group.objects.filter(name__in=groups).values_list("pk", flat=True))
    joined = {"date_joined_0": "2020-01-01", "date_joined_1": "00:00:00"}
    values = {"username": user.username, "is_active": "on", "is_staff": "on", "groups": keys, **joined, **fields}
    return signed_in(by).post(page(user), values, follow=True)


def roles(user: User) -> set[str]:
    return set(User.objects.get(pk=user.pk).groups.values_list("name", flat=True))


def decide(by: User, decision: str = "approve") -> Any:
    proposal = Proposal.objects.latest("pk")
    return signed_in(by).post(f"/admin/base/proposal/{proposal.pk}/decide/", {"decision": decision, "reason": "not this one"}, follow=True)


class TestOwnRights:
    @pytest.mark.parametrize("who", ["root", "second"])
    def test_are_not_edited_by_oneself(self, request: pytest.FixtureRequest, who: str) -> None:
        user: User = request.getfixturevalue(who)
        before = roles(user)

        save(user, user, OPERATOR, APPROVER, is_superuser="on")

        user.refresh_from_db()
        assert (roles(user), user.is_superuser) == (before, who == "root")

    def test_who_may_change_users_alone_gives_no_rights(self, db: None) -> None:
        """As was found: they ticked *superuser*, their own or another one's."""
        clerk, other = member("clerk"), member("other", VIEWER)
        clerk.user_permissions.set(Permission.objects.filter(codename__in=["view_user", "change_user", "add_user"]))

        save(clerk, clerk, OPERATOR, is_superuser="on")
        save(clerk, other, OPERATOR, is_superuser="on")

        assert (roles(clerk), roles(other)) == (set(), {VIEWER})
        assert not User.objects.filter(is_superuser=True).exists()
        assert signed_in(clerk).get("/admin/auth/user/add/").status_code == 403

    def test_nor_by_way_of_a_group_of_ones_own(self, second: User, db: None) -> None:
        group = Group.objects.create(name="night shift")
        second.groups.add(group)
        client, page = signed_in(second), f"/admin/auth/group/{group.pk}"
        values = {"name": "night shift", "permissions": [Permission.objects.get(codename="add_intervention").pk]}

        assert client.post(f"{page}/change/", values).status_code == 403
        assert client.post(f"{page}/delete/", {"post": "yes"}).status_code == 403
        client.post("/admin/auth/group/", {"action": "delete_selected", "_selected_action": [group.pk], "post": "yes"})

        assert list(Group.objects.get(name="night shift").permissions.all()) == []

    def test_but_of_a_group_of_others(self, second: User) -> None:
        group, permission = Group.objects.create(name="night shift"), Permission.objects.get(codename="add_intervention")

        signed_in(second).post(f"/admin/auth/group/{group.pk}/change/", {"name": "night shift", "permissions": [permission.pk]})

        assert list(group.permissions.all()) == [permission]

    def test_a_superuser_is_made_on_the_host_alone(self, root: User) -> None:
        other = member("other")

        save(root, other, VIEWER, is_superuser="on")

        assert not User.objects.get(pk=other.pk).is_superuser


class TestPasswords:
    def change(self, by: User, user: User) -> int:
        values = {"password1": PASSWORD, "password2": PASSWORD, "usable_password": "true"}
        return int(signed_in(by).post(f"/admin/auth/user/{user.pk}/password/", values).status_code)

    def test_of_an_operator_an_administrator_sets(self, second: User) -> None:
        other = member("other", OPERATOR)

        assert self.change(second, other) == 302
        assert User.objects.get(pk=other.pk).check_password(PASSWORD)

    def test_who_may_change_users_alone_can_not(self, db: None) -> None:
        clerk, other = member("clerk"), member("other", OPERATOR)
        clerk.user_permissions.set(Permission.objects.filter(codename__in=["view_user", "change_user"]))

        assert self.change(clerk, other) == 403

    @pytest.mark.parametrize("role", [APPROVER, ADMINISTRATOR, "superuser"])
    def test_of_who_approves_or_administers_nobody_sets(self, root: User, role: str) -> None:
        """An administrator would be the second person, too."""
        other = member("other", *([] if role == "superuser" else [role]), superuser=role == "superuser")

        assert self.change(root, other) == 403
        assert not User.objects.get(pk=other.pk).has_usable_password()

    def test_nor_by_taking_the_role_away_for_a_moment(self, root: User, second: User) -> None:
        """The password can be set then. Whoever knows it can't approve the same day, although two
        administrators give the role back.
        """
        ben = member("ben", APPROVER)
        save(root, ben, VIEWER)
        assert self.change(root, ben) == 302
        save(root, ben, APPROVER)
        decide(second)
        assert roles(ben) == {APPROVER}

        with rewritable():
            Grant.objects.filter(user_id=ben.pk).update(since=LONG_AGO)  # the password alone, whenever the role was given
        assert why_not_approve(ben.pk)[0] == "not_settled"


class TestGuardedRoles:
    @pytest.mark.parametrize("role", [APPROVER, ADMINISTRATOR])
    def test_wait_for_a_second_administrator(self, root: User, second: User, role: str) -> None:
        other = member("other", VIEWER)

        answer = save(root, other, VIEWER, role)

        assert roles(other) == {VIEWER}
        assert "waits for a second administrator" in answer.content.decode()
        decide(second)
        assert roles(other) == {VIEWER, role}
        grant = Grant.objects.get(user_id=other.pk, role=role)
        assert (grant.granted_by, grant.confirmed_by) == ("root", "second")

    @pytest.mark.parametrize("role", [APPROVER, ADMINISTRATOR])
    def test_only_to_who_has_a_second_factor_where_one_is_required(self, root: User, second: User, role: str, settings: Any) -> None:
        """Whoever made the account knows its password, and would set up the factor himself."""
        other = member("other")
        save(root, other, role)
        settings.SECOND_FACTOR = True
        proposal, person = Proposal.objects.get(), Actor("second", second.pk)

        @transaction.atomic
        def approve() -> None:
            proposals.decide(proposal, approve=True, person=person)
            proposals.execute_grant(proposal, person)

        with pytest.raises(NotDecided, match="second factor"):
            approve()
        TOTPDevice.objects.create(user=other, name="phone", confirmed=False)
        with pytest.raises(NotDecided, match="second factor"):
            approve()
        assert (roles(other), Proposal.objects.get().state) == (set(), Proposal.State.REQUESTED)
        TOTPDevice.objects.update(confirmed=True)
        approve()

        assert roles(other) == {role}

    def test_who_proposed_it_can_not_confirm_it(self, root: User) -> None:
        other = member("other")
        save(root, other, APPROVER)

        answer = decide(root)

        assert roles(other) == set()
        assert "can't approve" in answer.content.decode() or "can&#x27;t approve" in answer.content.decode()
        assert DeskEvent.objects.get(kind="approval_refused").detail["refused"] == "same_person"

    def test_nor_the_one_whom_it_is_about(self, root: User, second: User) -> None:
        save(root, second, ADMINISTRATOR, APPROVER)

        decide(second)

        assert roles(second) == {ADMINISTRATOR}
        assert DeskEvent.objects.get(kind="approval_refused").detail["refused"] == "own_rights"

    def test_nor_a_second_account_that_he_made_an_administrator(self, root: User) -> None:
        """One insider who makes himself a second person: that takes a second one, too."""
        puppet, other = member("puppet"), member("other")
        save(root, puppet, ADMINISTRATOR)
        puppet.user_permissions.add(*Permission.objects.filter(codename__in=["view_proposal", "change_user", "view_user"]))
        save(root, other, APPROVER)

        decide(puppet)

        assert (roles(puppet), roles(other)) == (set(), set())

    def test_an_approver_decides_no_grants(self, root: User) -> None:
        approver, other = member("ben", APPROVER), member("other")
        save(root, other, APPROVER)

        decide(approver)

        assert roles(other) == set()

    def test_one_that_nobody_decided_in_time_is_expired_and_not_given(self, root: User, second: User) -> None:
        other = member("other")
        save(root, other, APPROVER)
        Proposal.objects.update(expires_at=timezone.now())

        decide(second)

        assert (roles(other), Proposal.objects.get().state) == (set(), Proposal.State.EXPIRED)

    def test_is_refused_with_a_reason(self, root: User, second: User) -> None:
        other = member("other")
        save(root, other, APPROVER)

        decide(second, "refuse")

        assert (roles(other), Proposal.objects.get().state) == (set(), Proposal.State.REFUSED)

    def test_taking_one_away_takes_one(self, root: User) -> None:
        other = member("other", APPROVER)

        save(root, other, VIEWER)

        assert roles(other) == {VIEWER}
        assert Grant.objects.get(user_id=other.pk).ended_at is not None

    def test_needs_a_fresh_password(self, root: User) -> None:
        second = member("second", ADMINISTRATOR, password=PASSWORD)
        other = member("other")
        save(root, other, APPROVER)
        stale = Client()
        stale.force_login(second)
        address = f"/admin/base/proposal/{Proposal.objects.get().pk}/decide/"

        stale.post(address, {"decision": "approve"})
        stale.post(address, {"decision": "approve", "password": "a wrong one"})
        assert roles(other) == set()
        stale.post(address, {"decision": "approve", "password": PASSWORD})

        assert roles(other) == {APPROVER}


class TestRolesThemselves:
    def test_are_edited_by_nobody(self, root: User) -> None:
        approver = Group.objects.get(name=APPROVER)
        client = signed_in(root)

        client.post(f"/admin/auth/group/{approver.pk}/change/", {"name": "approver", "permissions": []})
        client.post(f"/admin/auth/group/{approver.pk}/delete/", {"post": "yes"})

        assert Group.objects.get(name=APPROVER).permissions.filter(codename="approve_intervention").exists()


class TestNewAccounts:
    @pytest.mark.parametrize(("name", "made"), [("anna", True), ("аnna", False)])  # noqa: RUF001 - that is the point
    def test_have_latin_names(self, root: User, name: str, made: bool) -> None:
        values = {"username": name, "password1": PASSWORD, "password2": PASSWORD, "usable_password": "true"}
        signed_in(root).post("/admin/auth/user/add/", values)

        assert User.objects.filter(username=name).exists() == made

    def test_have_passwords_unlike_their_names(self, root: User) -> None:
        values = {"username": "anna.maria.schmidt", "password1": "anna.maria.schmidt", "password2": "anna.maria.schmidt", "usable_password": "true"}
        signed_in(root).post("/admin/auth/user/add/", values)

        assert not User.objects.filter(username="anna.maria.schmidt").exists()


class TestTold:
    @pytest.fixture
    def told(self, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
        heard: list[tuple[str, dict[str, Any]]] = []
        monkeypatch.setattr(journal, "notify", lambda code, _message, **context: heard.append((code, context)))
        return heard

    def test_new_groups_with_before_and_after_by_whom_and_from_where(
        self, root: User, told: list[Any], django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks
    ) -> None:
        other = member("other", VIEWER)

        with django_capture_on_commit_callbacks(execute=True):
            save(root, other, VIEWER, OPERATOR)

        [context] = [context for code, context in told if code == "rights_changed"]
        assert (context["before"], context["after"], context["user"]) == (["viewer"], ["operator", "viewer"], "other")
        assert (context["by"], context["address"]) == ("root", "127.0.0.1")
        line = DeskEvent.objects.filter(kind="rights_changed", username="root").get()
        assert line.detail["after"] == ["operator", "viewer"]

    def test_a_permission_of_a_group(self, told: list[Any], db: None, django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks) -> None:
        group = Group.objects.create(name="night shift")

        with django_capture_on_commit_callbacks(execute=True):
            group.permissions.add(Permission.objects.get(codename="change_clearing"))

        [context] = [context for code, context in told if code == "rights_changed"]
        assert (context["group"], context["before"], context["after"]) == ("night shift", [], ["change_clearing"])
        assert context["by"].startswith("host: ")

    def test_from_the_groups_side_too(self, told: list[Any], db: None, django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks) -> None:
        other = member("other")

        with django_capture_on_commit_callbacks(execute=True):
            Group.objects.get(name=OPERATOR).user_set.add(other)

        [context] = [context for code, context in told if code == "rights_changed"]
        assert (context["user"], context["after"]) == ("other", ["operator"])

    def test_an_account_and_its_password_never_the_password(
        self, told: list[Any], db: None, django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks
    ) -> None:
        other = member("other")

        with django_capture_on_commit_callbacks(execute=True):
            other.is_staff, other.is_superuser = True, True
            other.set_password(PASSWORD)
            other.save()

        assert [code for code, _ in told] == ["account_changed", "password_set"]
        assert (told[0][1]["before"], told[0][1]["after"]) == ({"is_superuser": False}, {"is_superuser": True})
        assert PASSWORD not in str(told)
        assert other.password not in str(told)


class TestDeskEvents:
    def test_signing_in_failing_and_out(self, db: None) -> None:
        user, client = member("mia", VIEWER, password=PASSWORD), Client()
        for password in ("wrong", PASSWORD):
            client.post("/admin/login/", {"username": "mia", "password": password, "next": "/admin/"})
        client.post("/admin/logout/")

        kinds = list(DeskEvent.objects.filter(username="mia").order_by("pk").values_list("kind", "user_id", "address"))
        assert kinds == [("sign_in_failed", None, "127.0.0.1"), ("signed_in", user.pk, "127.0.0.1"), ("signed_out", user.pk, "127.0.0.1")]

    def test_what_a_client_writes_into_the_header_is_not_believed(self, db: None, settings: Any) -> None:
        def address(header: str) -> str:
            Client().post("/admin/login/", {"username": "mia", "password": "wrong"}, headers={"x-forwarded-for": header})
            return DeskEvent.objects.latest("pk").address

        assert address("6.6.6.6") == "127.0.0.1"
        settings.PROXY_COUNT = 1
        assert address("6.6.6.6, 10.1.2.3") == "10.1.2.3"

    def test_are_found_by_user_and_by_order(self, db: None) -> None:
        journal.note("looked", username="mia", order_id="O1")
        journal.note("looked", username="tom", order_id="O2")
        auditor = signed_in(member("aud", "auditor"))

        for term, found in (("mia", "mia"), ("O2", "tom")):
            rows = auditor.get("/admin/base/deskevent/", {"q": term}).context["cl"].result_list
            assert [row.username for row in rows] == [found]
