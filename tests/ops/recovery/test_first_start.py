"""A database that holds no order accepts none before somebody has said since when (design, rule
15).
"""

import json
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.core.management import CommandError, call_command
from django.db import IntegrityError
from django.test import Client
from kafka import KafkaConsumer, TopicPartition
from kafka.structs import OffsetAndMetadata
from pytest_django import Settings
from structlog.testing import capture_logs

from base.clock import shift_clock
from clearing.dispatch import broker
from clearing.models import Clearing, RestorePoint
from clearing.status import State
from ops import tasks, wiring
from orders.intake import first_start
from orders.intake.classify import read_row
from orders.intake.first_start import NotStarted, current_rules
from orders.models import FirstStart, Source, SyncOrder, Watermark
from orders.stream.consumer import ExitCode
from tests.orders.conftest import Topic, topic  # noqa: F401 - a fixture
from tests.orders.consumers import orders, running, stored
from tests.orders.fakes import FakeClearings, order_ids
from tests.orders.messages import RULES, interface_row, message, origin, read, row
from tests.support.counter import Counter
from tests.support.orders import World, outcomes
from tests.support.states import rewritable
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.processes]
PASSWORD = "correct horse battery staple"
HOUR = timedelta(hours=1)


@pytest.fixture(autouse=True)
def empty_database(transactional_db: None) -> Iterator[None]:
    """No order, and nobody has said anything."""
    FirstStart.objects.all().delete()
    yield
    shift_clock(0)


@pytest.fixture
def clearings() -> FakeClearings:
    return FakeClearings()


@pytest.fixture
def world() -> World:
    broker.client().flushdb()
    broker.read_generation()
    return World()


def ago(span: timedelta) -> datetime:
    return datetime.now(UTC) - span


def item(order_id: str, at: datetime | None = None) -> Any:
    columns = interface_row(order_id, user_id=order_id, created_ms=str(int((at or datetime.now(UTC)).timestamp() * 1000)))
    return read_row(columns, origin(json.dumps(columns).encode()), RULES)


def first_start_command(*arguments: str, password: str = PASSWORD, code: int = 0) -> dict[str, Any]:
    """Runs the command, with the password on its stdin; what it printed as JSON."""
    out, stdin = StringIO(), sys.stdin
    sys.stdin = StringIO(password + "\n")
    ended = 0
    try:
        call_command("first_start", *arguments, "--json", stdout=out)
    except SystemExit as stop:
        ended = int(stop.code or 0)
    finally:
        sys.stdin = stdin
    assert ended == code, out.getvalue()
    found: dict[str, Any] = json.loads(out.getvalue())
    return found


def refused(*arguments: str, password: str = PASSWORD) -> str:
    with pytest.raises(CommandError) as error:
        first_start_command(*arguments, password=password)
    assert error.value.returncode == 2 or "argument" in str(error.value)
    return str(error.value)


class TestBefore:
    @pytest.mark.parametrize("source", list(Source))
    def test_no_order_is_accepted_from_any_source(self, clearings: FakeClearings, source: Source) -> None:
        with pytest.raises(NotStarted, match=r"manage\.py first_start --since"):
            clearings.ingest([item("O1")], source)

        assert (SyncOrder.objects.count(), clearings.opened, Watermark.objects.count()) == (0, [], 0)

    def test_the_gap_pass_takes_nothing_in_and_its_job_goes_on(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked = Counter()
        asked.commit("O1", int(time.time() * 1000))
        monkeypatch.setattr(wiring, "_interface", lambda: asked)

        tasks.gap_pass()
        tasks.reconcile()
        for run in (wiring.run_gap_pass, lambda: wiring.run_reconcile(1)):
            with pytest.raises(NotStarted):
                run()

        assert (asked.asked, SyncOrder.objects.count(), Watermark.objects.count()) == ([], 0, 0)

    @pytest.mark.parametrize("command", [("compensate",), ("reconcile",), ("replay", "--quarantined")])
    def test_passes_by_hand_say_what_to_do(self, command: tuple[str, ...]) -> None:
        with pytest.raises(CommandError, match=r"manage\.py first_start --since") as error:
            call_command(*command)

        assert error.value.returncode == 2

    def test_readyz_says_why_and_with_which_command_it_ends(self, client: Client) -> None:
        answer = client.get("/readyz")

        probe = answer.json()["probes"]["first_start"]
        assert (answer.status_code, probe["status"]) == (503, "failed")
        assert "holds no order" in probe["error"]
        assert "manage.py first_start --since" in probe["fix"]

    def test_the_consumer_waits_commits_nothing_and_reads_all_of_it_then(self, topic: Topic, clearings: FakeClearings) -> None:  # noqa: F811
        topic.send(*orders(*range(10)))
        with capture_logs() as lines, running(clearings.ingest, read_rules=current_rules) as reader:
            wait_until(lambda: any(line.get("alarm") == "not_started" for line in lines))
            time.sleep(1.5)
            before = (stored(), committed(topic), reader.ended)
            first_start.start(RULES.since_ms, actor="test")
            wait_until(lambda: stored() == 10)

        assert before == (0, {}, None)

    def test_a_consumer_told_to_end_when_idle_doesn_t_wait_for_ever(self, topic: Topic, clearings: FakeClearings) -> None:  # noqa: F811
        with running(clearings.ingest, read_rules=current_rules, idle_seconds=0.5) as reader:
            wait_until(lambda: reader.ended is not None)

        assert reader.ended == ExitCode.STOPPED


def committed(of: Topic) -> dict[int, int]:
    reader = KafkaConsumer(bootstrap_servers=of.servers, group_id=of.name, metrics_enabled=False)
    try:
        found = {number: reader.committed(TopicPartition(of.name, number)) for number in range(4)}
    finally:
        reader.close(autocommit=False)
    return {number: offset for number, offset in found.items() if offset is not None}


def used_before(by: Topic) -> None:
    """The group has read the topic, into another database."""
    by.send(*orders(1), partition=0)
    reader = KafkaConsumer(bootstrap_servers=by.servers, group_id=by.name, enable_auto_commit=False, metrics_enabled=False)
    try:
        reader.assign([TopicPartition(by.name, 0)])
        reader.commit({TopicPartition(by.name, 0): OffsetAndMetadata(1, "", -1)})
    finally:
        reader.close(autocommit=False)


class TestAnotherDatabaseUnderARunningConsumer:
    def test_that_is_empty_gets_nothing_before_its_own_first_start(self, topic: Topic, clearings: FakeClearings) -> None:  # noqa: F811
        first_start.start(RULES.since_ms, actor="test")
        with running(clearings.ingest, read_rules=current_rules):
            topic.send(*orders(1), partition=0)
            wait_until(lambda: stored() == 1)
            wait_until(lambda: committed(topic) == {0: 1})
            with rewritable():
                SyncOrder.objects.all().delete()  # as when its address leads to another database
            FirstStart.objects.all().delete()
            with capture_logs() as lines:
                topic.send(*orders(2), partition=0)
                wait_until(lambda: any(line.get("alarm") == "not_started" for line in lines))
            before = (stored(), committed(topic))
            first_start.start(RULES.since_ms, actor="test")
            wait_until(lambda: stored() == 1)

        assert (before, order_ids()) == ((0, {0: 1}), ["O0002"])


class TestTheCommand:
    def test_starts_an_unused_database_for_orders_since_then(self, topic: Topic, clearings: FakeClearings) -> None:  # noqa: F811
        since = ago(HOUR)

        found = first_start_command("--since", since.isoformat())
        clearings.ingest([item("NEW")], Source.GAP)

        assert (found["state"], order_ids()) == ("started", ["NEW"])
        assert current_rules().since_ms == int(since.timestamp() * 1000)

    def test_leaves_older_orders_out_whatever_intake_since_says(self, topic: Topic, settings: Settings, clearings: FakeClearings) -> None:  # noqa: F811
        settings.INTAKE_SINCE = datetime(2020, 1, 1, tzinfo=UTC)
        first_start_command("--since", ago(HOUR).isoformat())
        older = (ago(2 * HOUR)).strftime("%Y-%m-%d %H:%M:%S.000")

        result = clearings.ingest(read(message(row("OLD", created_at=older)), rules=current_rules()))

        assert (result.filtered, order_ids()) == (1, [])

    def test_intake_since_stays_the_lower_bound(self, topic: Topic, settings: Settings) -> None:  # noqa: F811
        first_start_command("--since", ago(2 * HOUR).isoformat())
        settings.INTAKE_SINCE = ago(HOUR)

        assert current_rules().since_ms == int(settings.INTAKE_SINCE.timestamp() * 1000)

    def test_repeated_changes_nothing_and_another_time_is_refused(self, topic: Topic) -> None:  # noqa: F811
        since = ago(HOUR).isoformat()
        first_start_command("--since", since)

        again = first_start_command("--since", since)

        assert again["state"] == "already"
        assert "was started already" in refused("--since", "now")
        assert FirstStart.objects.count() == 1

    @pytest.mark.parametrize(
        ("given", "says"),
        [
            ("yesterday", "isn't a time like"),
            ("2026-01-31", "names no zone"),
            ("2026-01-31T00:00:00", "names no zone"),
            ("2096-01-31T00:00:00+00:00", "is in the future"),
            ("1999-12-31T23:59:59+00:00", "is before INTAKE_SINCE"),
        ],
    )
    def test_refuses_a_time_that_can_t_be_meant(self, topic: Topic, given: str, says: str) -> None:  # noqa: F811
        assert says in refused("--since", given)
        assert not FirstStart.objects.exists()

    def test_takes_an_offset_for_what_it_is(self, topic: Topic) -> None:  # noqa: F811
        found = first_start_command("--since", "2026-01-31T02:00:00+02:00")

        assert found["since"] == "2026-01-31T00:00:00.000+00:00"

    def test_without_kafka_does_nothing_since_nobody_knows_who_read_it(self, settings: Settings) -> None:
        settings.KAFKA_BOOTSTRAP_SERVERS = ["127.0.0.1:1"]

        assert "Kafka unavailable" in refused("--since", "now")
        assert not FirstStart.objects.exists()

    def test_for_a_sandbox_asks_nobody_and_may_be_repeated(self, topic: Topic, settings: Settings) -> None:  # noqa: F811
        used_before(topic)

        states = [first_start_command("--sandbox")["state"] for _ in range(2)]

        assert states == ["started", "already"]
        assert current_rules().since_ms == int(settings.INTAKE_SINCE.timestamp() * 1000)

    def test_for_a_sandbox_refuses_in_production_and_elsewhere(self, settings: Settings) -> None:
        settings.COUNTERPARTY_URLS = {**settings.COUNTERPARTY_URLS, "fund": "https://fund.example/v1"}
        assert "fund.example" in refused("--sandbox")
        settings.PRODUCTION = True
        with pytest.raises(CommandError, match="doesn't run in production"):
            first_start_command("--sandbox")
        assert not FirstStart.objects.exists()


class TestWhatMayHaveBeenRunBefore:
    def test_is_asked_for_before_it_is_sent_however_young(self, topic: Topic, world: World) -> None:  # noqa: F811
        first_start_command("--since", ago(HOUR).isoformat())

        before = world.accept("1", created_ms=int(ago(HOUR / 2).timestamp() * 1000))
        after = world.accept("2", created_ms=int((datetime.now(UTC) + HOUR / 2).timestamp() * 1000))

        assert (before.restored, after.restored) == (True, False)
        assert outcomes(world.run(before))[0] == (1, "?retryable", "unknown_key")
        assert Clearing.objects.get(pk=before.pk).state == State.CLEARED


class TestWhereAnotherDatabaseWasUsed:
    @pytest.fixture(autouse=True)
    def group_has_read(self, topic: Topic) -> None:  # noqa: F811
        used_before(topic)
        for name in ("anna", "ben"):
            User.objects.create_superuser(name, password=PASSWORD)

    def request(self) -> str:
        found = first_start_command("--since", ago(HOUR).isoformat(), "--user=anna", code=3)
        assert (found["state"], found["partitions"]) == ("requested", 1)
        return str(found["code"])

    def test_the_command_asks_for_who_it_is(self) -> None:
        assert "--user" in refused("--since", "now")
        assert not FirstStart.objects.exists()

    def test_one_person_only_requests_it(self, clearings: FakeClearings) -> None:
        self.request()

        with pytest.raises(NotStarted):
            clearings.ingest([item("O1")], Source.GAP)

    def test_a_second_one_confirms_it_and_both_are_told_outside(self, clearings: FakeClearings) -> None:
        with capture_logs() as lines:
            code = self.request()
            found = first_start_command("--confirm", code, "--user=ben")
        clearings.ingest([item("O1")], Source.GAP)

        assert (found["state"], order_ids(), RestorePoint.objects.count()) == ("started", ["O1"], 1)
        told = [(line["told"], line["actor"]) for line in lines if "told" in line]
        assert told == [("first_start_requested", "anna"), ("first_start_done", "anna, ben")]

    def test_nobody_confirms_their_own(self) -> None:
        code = self.request()
        User.objects.filter(username="ben").update(username="ANNA")

        assert "second person" in refused("--confirm", code, "--user=anna")
        assert "second person" in refused("--confirm", code, "--user=ANNA")
        assert first_start.since_ms() is None

    def test_nor_does_the_database_let_them(self) -> None:
        self.request()
        row_of_it = FirstStart.objects.get()

        with pytest.raises(IntegrityError, match="first_start_needs_two_people"):
            FirstStart.objects.filter(pk=row_of_it.pk).update(started_at=datetime.now(UTC), confirmed_by_id=row_of_it.requested_by_id)

    @pytest.mark.parametrize("password", ["", "wrong"])
    def test_it_takes_the_password_of_an_account(self, password: str) -> None:
        code = self.request()

        assert "no account 'ben'" in refused("--confirm", code, "--user=ben", password=password)
        assert "no account 'carl'" in refused("--confirm", code, "--user=carl")
        assert "--user" in refused("--confirm", code)

    def test_and_the_permission(self) -> None:
        code = self.request()
        dora = User.objects.create_user("dora", password=PASSWORD, is_staff=True)
        assert "lacks the permission" in refused("--confirm", code, "--user=dora")
        dora.user_permissions.add(Permission.objects.get(codename="change_firststart"))

        assert first_start_command("--confirm", code, "--user=dora")["state"] == "started"

    def test_a_code_that_is_unknown_or_too_old_confirms_nothing(self, settings: Settings) -> None:
        code = self.request()
        shift_clock(settings.INTERVENTION_HOURS * 3600 + 60)

        assert "older than INTERVENTION_HOURS" in refused("--confirm", code, "--user=ben")
        assert "no request" in refused("--confirm", "0123456789abcdef", "--user=ben")
        assert first_start.since_ms() is None


class TestTheMigration:
    @pytest.fixture(autouse=True)
    def release_before(self) -> Iterator[None]:
        yield
        call_command("migrate", verbosity=0, interactive=False)  # what depends on it is taken back with it

    @pytest.mark.parametrize("orders_exist", [True, False])
    def test_starts_a_database_that_holds_orders_and_no_other(self, settings: Settings, orders_exist: bool) -> None:
        if orders_exist:
            first_start.start(RULES.since_ms, actor="test")
            FakeClearings().ingest([item("O1")])
        call_command("migrate", "orders", "0003", verbosity=0, interactive=False)

        call_command("migrate", verbosity=0, interactive=False)  # what depends on it is taken back with it

        since = int(settings.INTAKE_SINCE.timestamp() * 1000)
        assert list(FirstStart.objects.values_list("since_ms", flat=True)) == ([since] if orders_exist else [])
        assert first_start.since_ms() == (since if orders_exist else None)

    def test_an_order_that_the_release_before_accepted_is_enough(self) -> None:
        first_start.start(RULES.since_ms, actor="test")
        FakeClearings().ingest([item("O1")])
        FirstStart.objects.all().delete()

        FakeClearings().ingest([item("O2")])

        assert order_ids() == ["O1", "O2"]
