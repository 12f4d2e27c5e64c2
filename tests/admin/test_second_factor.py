"""The second factor, the throttle and the end of a session."""

import json
import time
from io import StringIO
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.test import Client
from django.utils import timezone
from django_otp.oath import TOTP
from django_otp.plugins.otp_totp.models import TOTPDevice

from base.desk import second_factor
from base.desk.rights import why_not_approve
from base.desk.roles import APPROVER, VIEWER
from base.desk.sessions import SIGNED_IN_AT
from base.models import DeskAccount, DeskEvent, Grant
from clearing.models import Clearing, Intervention
from clearing.store import claims
from tests.clearing.people import K, asked
from tests.support.desk import ann_and_ben, member, settle
from tests.support.orders import World
from tests.support.states import rewritable

PASSWORD = "a long password of the test"
PAGE = "/admin/second-factor/"


@pytest.fixture
def required(settings: Any) -> None:
    settings.SECOND_FACTOR = True


@pytest.fixture
def mia(db: None) -> User:
    return member("mia", VIEWER, password=PASSWORD)


def by_password(user: User) -> Client:
    client = Client()
    answer = client.post("/admin/login/", {"username": user.username, "password": PASSWORD, "next": "/admin/"})
    assert answer.status_code == 302
    return client


def code(device: TOTPDevice, ahead: int = 0) -> str:
    totp = TOTP(device.bin_key, device.step, device.t0, device.digits, device.drift)
    totp.time = time.time() + ahead * device.step
    return f"{totp.token():06d}"


def set_up(user: User) -> TOTPDevice:
    return TOTPDevice.objects.create(user=user, name="phone", confirmed=True)


@pytest.mark.usefixtures("required")
class TestRequired:
    @pytest.mark.parametrize("page", ["/admin/", "/admin/clearing/clearing/", "/admin/password_change/"])
    def test_a_password_alone_opens_nothing(self, mia: User, page: str) -> None:
        answer = by_password(mia).get(page)

        assert answer.status_code == 302
        assert answer["Location"].startswith(PAGE)

    def test_the_first_time_it_is_set_up(self, mia: User) -> None:
        client = by_password(mia)
        assert "data:image/svg+xml" in client.get(PAGE).content.decode()
        device = TOTPDevice.objects.get()

        assert "used already" in client.post(PAGE, {"code": "000000"}).content.decode()
        assert client.get("/admin/").status_code == 302
        TOTPDevice.objects.update(throttling_failure_timestamp=None, throttling_failure_count=0)
        assert client.post(f"{PAGE}?next=/admin/clearing/clearing/", {"code": code(device)})["Location"] == "/admin/clearing/clearing/"

        assert client.get("/admin/clearing/clearing/").status_code == 200

    def test_from_then_on_each_sign_in_takes_a_code_and_shows_no_secret(self, mia: User) -> None:
        device, client = set_up(mia), by_password(mia)
        page = client.get(PAGE).content.decode()
        assert "data:image" not in page
        assert device.key not in page

        client.post(PAGE, {"code": code(device)})

        assert client.get("/admin/clearing/clearing/").status_code == 200

    def test_a_code_counts_once(self, mia: User) -> None:
        device = set_up(mia)
        given = code(device)
        by_password(mia).post(PAGE, {"code": given})
        client = by_password(mia)

        client.post(PAGE, {"code": given})

        assert client.get("/admin/").status_code == 302

    def test_it_leads_to_no_other_site(self, mia: User) -> None:
        device, client = set_up(mia), by_password(mia)

        assert client.post(f"{PAGE}?next=https://elsewhere.example/", {"code": code(device)})["Location"] == "/admin/"

    def test_setting_one_up_unsettles_an_approver(self, db: None) -> None:
        """Whoever guessed a password and sets up a device of his own can't approve today."""
        ben = member("ben", APPROVER, password=PASSWORD)
        client = by_password(ben)
        client.get(PAGE)
        client.post(PAGE, {"code": code(TOTPDevice.objects.get())})

        assert (timezone.now() - DeskAccount.objects.get(user_id=ben.pk).credentials_at).total_seconds() < 60

    def test_but_not_one_from_before_roles_existed(self, db: None) -> None:
        ben = member("ben", APPROVER, password=PASSWORD)
        with rewritable():
            Grant.objects.update(source=Grant.Source.UPGRADE, since=timezone.now())
        client = by_password(ben)
        client.get(PAGE)
        client.post(PAGE, {"code": code(TOTPDevice.objects.get())})

        assert (timezone.now() - DeskAccount.objects.get(user_id=ben.pk).credentials_at).days > 365


@pytest.mark.usefixtures("required")
class TestTheSecret:
    """Who made an account knows its first password: the second factor has to be its owner's."""

    def test_that_another_one_saw_before_is_not_the_owners(self, mia: User) -> None:
        """He looks at the page before she does, sets nothing up, and waits until she has."""
        by_password(mia).get(PAGE)
        seen = TOTPDevice.objects.get().key
        hers = by_password(mia)
        hers.get(PAGE)
        device = TOTPDevice.objects.get()

        hers.post(PAGE, {"code": code(device)})

        assert TOTPDevice.objects.get(confirmed=True).key != seen
        assert hers.get("/admin/").status_code == 200

    def test_that_is_set_up_ends_every_other_one(self, mia: User) -> None:
        """She has the page open, he opens his: hers counts no more, and she gets a new one."""
        hers, his = by_password(mia), by_password(mia)
        hers.get(PAGE)
        replaced = TOTPDevice.objects.get()
        his.get(PAGE)

        page = hers.post(PAGE, {"code": code(replaced)}).content.decode()

        assert "data:image" in page
        device = TOTPDevice.objects.get()
        assert device.key != replaced.key
        assert hers.post(PAGE, {"code": code(device)}).status_code == 302
        assert his.post(PAGE, {"code": code(replaced)}).status_code == 200
        assert his.get("/admin/").status_code == 302

    def test_stays_the_same_while_its_owner_tries_again(self, mia: User) -> None:
        client = by_password(mia)
        client.get(PAGE)
        device = TOTPDevice.objects.get()
        client.get(PAGE)
        client.post(PAGE, {"code": "000000"})

        assert TOTPDevice.objects.get().key == device.key

    def test_is_set_up_once(self, mia: User) -> None:
        """A second device beside the owner's would be somebody else's."""
        client = by_password(mia)
        client.get(PAGE)
        device = TOTPDevice.objects.get()
        request = client.get(PAGE).wsgi_request
        set_up(mia)

        assert not second_factor.confirm(request, code(device))
        assert TOTPDevice.objects.filter(confirmed=True).count() == 1


class TestApproving:
    def test_takes_the_code_where_one_is_set_up_and_the_password_not(self, world: World) -> None:
        ann_and_ben()
        clearing = world.accept()
        claims.hold(clearing.order.order_id, "contents_differ", actor="test", generation="")
        asked(Clearing.objects.get(pk=clearing.pk), K.RELEASE_HOLD)
        dora = member("dora", APPROVER, password=PASSWORD)
        device, client = set_up(dora), Client()
        settle(dora)
        client.force_login(dora)
        address = f"/admin/clearing/intervention/{Intervention.objects.get().pk}/decide/"

        client.post(address, {"decision": "approve", "password": PASSWORD})
        assert Intervention.objects.get().state == "requested"
        TOTPDevice.objects.update(throttling_failure_timestamp=None, throttling_failure_count=0)
        client.post(address, {"decision": "approve", "password": code(device)})

        assert Intervention.objects.get().state == "executed"


class TestDevices:
    def test_are_no_page_of_the_admin(self, db: None) -> None:
        root = Client()
        root.force_login(member("root", superuser=True))

        assert root.get("/admin/otp_totp/totpdevice/").status_code == 404

    def test_are_removed_on_the_host(self, mia: User) -> None:
        set_up(mia)
        out = StringIO()

        call_command("remove_second_factor", "mia", "--json", stdout=out)

        assert json.loads(out.getvalue()) == {"user": "mia", "removed": 1}
        assert not TOTPDevice.objects.exists()
        assert DeskEvent.objects.get(kind="second_factor_removed").username.startswith("host: ")

    def test_and_whoever_then_sets_one_up_can_not_approve_the_same_day(self, db: None) -> None:
        ben = member("ben", APPROVER)
        set_up(ben)
        settle(ben)
        assert why_not_approve(ben.pk)[0] == ""

        call_command("remove_second_factor", "ben", stdout=StringIO())

        assert why_not_approve(ben.pk)[0] == "not_settled"

    def test_of_nobody_is_an_error(self, db: None) -> None:
        with pytest.raises(CommandError, match="no user"):
            call_command("remove_second_factor", "nobody")


class TestThrottle:
    def test_after_some_wrong_passwords_the_right_one_isn_t_looked_at(self, mia: User, settings: Any) -> None:
        settings.AXES_FAILURE_LIMIT = 3
        client = Client()
        answers = [client.post("/admin/login/", {"username": "mia", "password": "wrong"}).status_code for _ in range(3)]

        assert answers == [200, 200, 429]
        assert client.post("/admin/login/", {"username": "mia", "password": PASSWORD}).status_code == 429
        assert DeskEvent.objects.filter(kind="sign_in_locked").count() == 1

    def test_a_flood_fills_no_table(self, mia: User, settings: Any) -> None:
        settings.AXES_FAILURE_LIMIT = 3
        client = Client()
        for _ in range(10):
            client.post("/admin/login/", {"username": "mia", "password": "wrong"})

        assert DeskEvent.objects.filter(kind="sign_in_failed").count() <= 3

    def test_a_sign_in_of_ones_own_in_between_frees_no_further_guesses(self, mia: User, settings: Any) -> None:
        """An insider who guesses another one's password."""
        settings.AXES_FAILURE_LIMIT = 3
        member("tom", VIEWER, password=PASSWORD)
        client = Client()
        for name, password in (("mia", "a"), ("mia", "b"), ("tom", PASSWORD), ("mia", "c")):
            answer = client.post("/admin/login/", {"username": name, "password": password})

        assert answer.status_code == 429

    def test_an_address_is_locked_for_every_name(self, mia: User, settings: Any) -> None:
        """A password that many use, tried with one name after another."""
        settings.AXES_FAILURE_LIMIT = 3
        client = Client()
        for number in range(3):
            client.post("/admin/login/", {"username": f"user{number}", "password": "wrong"})

        assert client.post("/admin/login/", {"username": "mia", "password": PASSWORD}).status_code == 429


class TestSession:
    def test_ends_after_a_working_day_however_busy(self, viewer: Client, settings: Any) -> None:
        assert viewer.get("/admin/").status_code == 200
        session = viewer.session
        session[SIGNED_IN_AT] = time.time() - settings.SESSION_COOKIE_AGE - 1
        session.save()

        assert "/login/" in viewer.get("/admin/clearing/clearing/")["Location"]

    def test_ends_with_the_browser_and_after_eight_hours(self, mia: User, settings: Any) -> None:
        client = by_password(mia)

        assert client.cookies["sessionid"]["max-age"] == ""
        assert settings.SESSION_COOKIE_AGE == 8 * 3600
