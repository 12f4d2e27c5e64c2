"""Whoever rewrites history past the triggers is found, and who does nothing wrong is not."""

from dataclasses import replace
from typing import Any

import pytest
from django.db import connection
from pytest_django import Settings

from base.fence import no_fence
from base.models import Seal
from base.seal_key import name_of, private_key
from clearing.models import StatusChange
from ops.history import HISTORY
from ops.seals.chain import newest, read_contents
from ops.seals.rows import SOURCES, snapshot
from ops.seals.sealing import Moment, draft, make_seal, signed
from ops.seals.verify import Report, verify
from tests.clearing.people import BEN, K, asked, held
from tests.ops.seals.conftest import by_superuser, new_key, seal
from tests.support.orders import World

pytestmark = pytest.mark.django_db(transaction=True)
TABLES = sorted(set(HISTORY) - {"base_seal"})
CHANGED = {
    "clearing_attempt": "detail = 'all is well'",
    "clearing_statuschange": "actor = 'somebody else'",
    "clearing_standingchange": "actor = 'somebody else'",
    "clearing_intervention": "decided_by = 'eve'",
    "orders_syncorder": "quoted_usdt = quoted_usdt + 1",
    "django_admin_log": "change_message = ''",
    "base_deskevent": "username = 'eve'",
    "base_grant": "role = 'viewer'",
}


def checked(key: str, root: tuple[int, str] | None = None) -> Report:
    public = private_key(key).public_key()
    return verify({name_of(public): public}, root=root)


def found(report: Report) -> set[tuple[str, str]]:
    return {(finding.what, finding.table.partition(":")[0]) for finding in report.findings}


class TestIntact:
    def test_is_what_nobody_touched(self, world: World, key: str) -> None:
        seal()
        world.run(world.accept())
        last = seal()

        report = checked(key)

        assert (report.findings, report.seals, report.not_covered) == ([], 2, {})
        assert report.root == f"{last.number}:{last.root}"
        assert report.rows == sum(read_contents(one.text).rows for one in Seal.objects.all())

    def test_every_table_of_history_is_sealed(self, world: World) -> None:
        sealed = read_contents(seal().text).sources

        assert set(sealed) == {*TABLES, "clearing_intervention:decided", "base_grant:decided"} == {source.name for source in SOURCES}
        assert all(one.ids for one in sealed.values())

    def test_newer_rows_are_not_covered_yet(self, world: World, key: str) -> None:
        seal()
        world.run(world.accept())

        report = checked(key)

        assert not report.tampered
        assert report.not_covered == {"clearing_attempt": 4, "clearing_statuschange": 7, "orders_syncorder": 1}

    def test_nothing_new_needs_no_seal(self, world: World) -> None:
        before = seal()

        assert make_seal(no_fence, before) is None

    def test_of_two_who_seal_at_once_one_does(self, world: World, key: str) -> None:
        assert make_seal(no_fence, None) is not None
        assert make_seal(no_fence, None) is None
        assert not checked(key).tampered

    def test_what_may_change_may(self, world: World, key: str) -> None:
        waiting = asked(held(world), K.RELEASE_HOLD)
        seal()
        by_superuser("UPDATE orders_syncorder SET late = true")
        with connection.cursor() as cursor:
            cursor.execute("UPDATE clearing_intervention SET state = 'refused', decided_by = %s WHERE id = %s", [BEN.name, waiting])
        seal()

        assert checked(key).findings == []

    def test_a_decision_is_sealed_as_well(self, world: World, key: str) -> None:
        waiting = asked(held(world), K.RELEASE_HOLD)
        seal()
        with connection.cursor() as cursor:
            cursor.execute("UPDATE clearing_intervention SET state = 'refused', decided_by = %s WHERE id = %s", [BEN.name, waiting])
        seal()
        by_superuser("UPDATE clearing_intervention SET state = 'executed' WHERE id = %s", waiting)

        assert found(checked(key)) == {("changed", "clearing_intervention")}

    def test_a_column_that_a_migration_adds_changes_nothing(self, world: World, key: str) -> None:
        seal()
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE clearing_attempt ADD COLUMN later text DEFAULT 'x'")
            try:
                assert checked(key).findings == []
            finally:
                cursor.execute("ALTER TABLE clearing_attempt DROP COLUMN later")

    def test_a_sessions_settings_change_nothing(self, world: World, key: str) -> None:
        seal()
        with connection.cursor() as cursor:
            cursor.execute("SET TimeZone = 'Asia/Tokyo'; SET bytea_output = 'escape'")
            try:
                assert checked(key).findings == []
            finally:
                cursor.execute("RESET TimeZone; RESET bytea_output")


class TestALateCommit:
    """A row with a smaller id may become visible after one with a larger."""

    ADD = (
        "INSERT INTO clearing_statuschange (clearing_id, from_state, to_state, step, epoch, actor)"
        " SELECT min(id), 'running', 'running', 2, 1, 'slow' FROM clearing_clearing RETURNING id"
    )

    def test_is_sealed_by_the_next_seal(self, world: World, key: str, other: Any) -> None:
        other.execute(self.ADD)
        late = other.fetchone()[0]
        world.run(world.accept())
        assert StatusChange.objects.latest("id").pk > late
        first = seal()
        assert not checked(key).tampered
        other.connection.commit()

        assert checked(key).not_covered == {"clearing_statuschange": 1}
        second = seal()

        report = checked(key)
        assert (report.findings, report.not_covered) == ([], {})
        assert late in read_contents(first.text).sources["clearing_statuschange"].may_come
        assert read_contents(second.text).sources["clearing_statuschange"].ids == f"{late}+1"

    def test_is_waited_for_however_long_its_transaction_takes(self, world: World, key: str, other: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        other.execute(self.ADD)
        late = other.fetchone()[0]
        world.run(world.accept())
        seal()
        monkeypatch.setattr("ops.seals.sealing.Moment", hour_later)
        world.run(world.accept())
        seal()
        other.connection.commit()
        seal()

        report = checked(key)
        assert (report.findings, report.not_covered) == ([], {})
        assert late in set(StatusChange.objects.values_list("id", flat=True))

    def test_an_id_that_was_rolled_back_is_given_up(self, world: World, key: str, other: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        other.execute(self.ADD)
        gone = other.fetchone()[0]
        world.run(world.accept())
        seal()
        other.connection.rollback()
        monkeypatch.setattr("ops.seals.sealing.Moment", hour_later)
        world.run(world.accept())
        last = seal()
        assert gone not in read_contents(last.text).sources["clearing_statuschange"].may_come

        with_id(gone)

        report = checked(key)
        assert [(f.what, f.table, f.ids) for f in report.findings] == [("inserted", "clearing_statuschange", (gone,))]

    def test_a_young_gap_is_kept_open_though_no_transaction_runs(self, world: World, other: Any) -> None:
        """Whoever drew the id may not have its transaction's number yet."""
        other.execute(self.ADD)
        drawn = other.fetchone()[0]
        other.connection.rollback()
        world.run(world.accept())
        seal()
        world.run(world.accept())

        assert drawn in read_contents(seal().text).sources["clearing_statuschange"].may_come


def hour_later(*values: Any) -> Moment:
    moment = Moment(*values)
    return replace(moment, at_ms=moment.at_ms + 3_600_000)


def with_id(pk: int) -> None:
    by_superuser(
        "INSERT INTO clearing_statuschange (id, clearing_id, from_state, to_state, step, epoch, actor)"
        " SELECT %s, min(id), 'running', 'running', 2, 1, 'eve' FROM clearing_clearing",
        pk,
    )


class TestTampered:
    @pytest.mark.parametrize("table", TABLES)
    def test_a_changed_row(self, world: World, key: str, table: str) -> None:
        seal()
        assert by_superuser(f"UPDATE {table} SET {CHANGED[table]} WHERE id = (SELECT max(id) FROM {table})")  # noqa: S608 - of the test

        assert found(checked(key)) == {("changed", table)}

    @pytest.mark.parametrize("table", TABLES)
    def test_a_removed_row_is_named(self, world: World, key: str, table: str) -> None:
        seal()
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT max(id) FROM {table}")  # noqa: S608 - of the test
            gone = cursor.fetchone()[0]
        by_superuser(f"DELETE FROM {table} WHERE id = %s", gone)  # noqa: S608 - of the test

        report = checked(key)

        assert found(report) == {("missing", table)}
        assert {finding.ids for finding in report.findings} == {(gone,)}

    def test_of_many_rows_the_block_is_named(self, world: World, key: str) -> None:
        for _ in range(60):
            world.run(world.accept())
        seal()
        victim = StatusChange.objects.order_by("id")[250].pk
        by_superuser("UPDATE clearing_statuschange SET actor = 'eve' WHERE id = %s", victim)

        [finding] = checked(key).findings

        first, last = finding.ids
        assert first <= victim <= last < first + 200

    def test_a_row_that_was_put_there_with_an_old_id(self, world: World, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
        seal()
        free = StatusChange.objects.earliest("id").pk - 1
        monkeypatch.setattr("ops.seals.sealing.Moment", hour_later)
        world.run(world.accept())
        seal()
        with_id(free)

        assert found(checked(key)) == {("inserted", "clearing_statuschange")}

    def test_swapped_seals(self, world: World, key: str) -> None:
        seal()
        world.run(world.accept())
        seal()
        by_superuser("UPDATE base_seal SET number = 3 - number + 100; UPDATE base_seal SET number = number - 100")

        assert found(checked(key)) == {("chain", "")}

    def test_a_removed_seal(self, world: World, key: str) -> None:
        for _ in range(3):
            world.run(world.accept())
            seal()
        by_superuser("DELETE FROM base_seal WHERE number = 2")

        assert ("chain", "") in found(checked(key))

    def test_a_seals_text(self, world: World, key: str) -> None:
        seal()
        by_superuser('UPDATE base_seal SET text = replace(text, \'"before":""\', \'"before": ""\')')

        assert found(checked(key)) == {("chain", "")}

    def test_a_seal_made_anew_though_with_our_own_key(self, world: World, key: str) -> None:
        first = seal()
        world.run(world.accept())
        seal()
        by_superuser("UPDATE clearing_attempt SET detail = 'well' WHERE id = (SELECT min(id) FROM clearing_attempt)")
        with snapshot() as cursor:
            ours = read_contents(first.text)
            anew = signed(replace(ours, sources={**ours.sources, "clearing_attempt": draft(cursor, None).sources["clearing_attempt"]}))
        by_superuser("UPDATE base_seal SET text = %s, root = %s, signature = %s WHERE number = 1", anew.text, anew.root, anew.signature)

        assert "it isn't made upon the seal before it" in {finding.detail for finding in checked(key).findings}

    def test_a_chain_made_anew_with_another_key(self, world: World, key: str, settings: Settings) -> None:
        seal()
        told = newest()
        assert told is not None
        by_superuser("UPDATE clearing_attempt SET detail = 'all is well'; DELETE FROM base_seal")
        settings.SEAL_KEY = new_key()
        seal()

        assert found(checked(key)) == {("signature", "")}
        assert ("chain", "") in found(checked(settings.SEAL_KEY, (told.number, told.root)))

    def test_a_chain_made_anew_without_a_key_over_a_signed_one(self, world: World, key: str, settings: Settings) -> None:
        seal()
        settings.SEAL_KEY = ""
        world.run(world.accept())
        seal()

        assert found(checked(key)) == {("signature", "")}

    def test_a_signature_of_another_root(self, world: World, key: str) -> None:
        seal()
        world.run(world.accept())
        seal()
        by_superuser("UPDATE base_seal SET signature = (SELECT signature FROM base_seal WHERE number = 1)")

        report = checked(key)

        assert [(finding.what, finding.seal) for finding in report.findings] == [("signature", 2)]


class TestRestoredFromABackup:
    def test_is_told_from_tampered(self, world: World, key: str) -> None:
        seal()
        world.run(world.accept())
        told = seal()
        by_superuser("DELETE FROM base_seal WHERE number = 2")

        report = checked(key, (told.number, told.root))

        assert (report.is_shorter, report.tampered) == (True, False)

    def test_the_chain_goes_on_in_another_database(self, world: World, key: str, monkeypatch: pytest.MonkeyPatch, other: Any) -> None:
        """What was in flight in the one before never comes; ids that a rollback left are given
        up.
        """
        other.execute(TestALateCommit.ADD)
        drawn = other.fetchone()[0]
        other.connection.rollback()
        world.run(world.accept())
        seal()
        monkeypatch.setattr("ops.seals.sealing.Moment", lambda *values: replace(Moment(*values), database="another"))
        world.run(world.accept())
        last = seal()

        assert drawn not in read_contents(last.text).sources["clearing_statuschange"].may_come
        assert checked(key).findings == []

    def test_an_empty_chain_is_shorter_than_any(self, world: World, key: str) -> None:
        assert checked(key).is_shorter


class TestKeys:
    def test_seals_from_before_the_key_are_counted(self, world: World, key: str, settings: Settings) -> None:
        settings.SEAL_KEY = ""
        seal()
        settings.SEAL_KEY = key
        world.run(world.accept())
        seal()

        report = checked(key)

        assert (report.findings, report.unsigned) == ([], 1)

    def test_without_any_signatures_are_not_looked_at(self, world: World) -> None:
        seal()

        assert not verify({}).tampered

    def test_what_is_signed_is_the_root_under_a_purpose(self, world: World, key: str) -> None:
        contents = read_contents(seal().text)

        made = signed(contents)

        private_key(key).public_key().verify(bytes(made.signature or b""), b"acceptance seal\n" + made.root.encode())
