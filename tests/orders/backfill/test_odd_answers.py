"""The counter's interface answers one shard with whatever there is; the other shard is read all the
same, and what became of each is kept.
"""

import itertools
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from base.http import HttpAnswer
from orders.backfill import counter_api, gap_pass, reconcile
from orders.backfill.counter_api import HttpSyncOrderInterface, InterfaceFailed, readable_row
from orders.backfill.gap_pass import GapPass
from orders.backfill.reconcile import Reconcile
from orders.intake.classify import read_row
from orders.models import ReconcileRun, SyncOrder, Watermark
from tests.orders.fakes import FakeClearings
from tests.orders.messages import CREATED_MS, RULES, interface_row
from tests.support.counter import OVERLAP, Counter
from tests.support.states import rewritable

pytestmark = pytest.mark.django_db(transaction=True)

NOW = CREATED_MS + 600_000
MINUTE = CREATED_MS // 60_000 * 60_000
HOSTILE, GOOD = 0, 1

# JSON texts of values that a column, a number or a list may be answered as.
ODD = (
    "null", "true", "[]", "{}", "-1", "-0", "1e999", "NaN", "0.5", '""', '"x"', '"EXCHANGE"', "9" * 5_000, '"' + "9" * 5_000 + '"',
    str(2**31), str(2**63), str(10**19 - 1), '"\\u0000"', '"\\ud800"', '"²"', '"' + "é" * 300 + '"', "[" * 975 + "]" * 975,
    '{"a":' * 500 + "1" + "}" * 500, "[" * 20_000, '"unfinished', '{"EXCHANGE": 99999999999}', '["EXCHANGE"]',
)  # fmt: skip
odd_values = st.sampled_from(ODD) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=80),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
).map(json.dumps)
odd_bodies = st.one_of(
    st.binary(max_size=40),
    st.sampled_from([b"", b"\x00", b"<html>\x00</html>", b"\xff\xfe", b"[]", b"{}", b"null"]),
    odd_values.map(str.encode),
)
Asked = dict[str, int]


def encoded(columns: dict[str, str]) -> str:
    """An object of JSON whose values are JSON texts already."""
    return "{" + ", ".join(f"{json.dumps(name)}: {value}" for name, value in columns.items()) + "}"


def a_row(number: int, changes: dict[str, str]) -> str:
    columns = interface_row(f"O{number}", id=str(number), user_id=f"{number}", shard=0, created_ms=CREATED_MS)
    return encoded({name: json.dumps(value) for name, value in columns.items()} | changes)


def counted(asked: Asked, minute: dict[str, str]) -> str:
    """The counts of a table with rows in one minute."""
    return f"[{encoded(minute)}]" if asked["from_ms"] <= CREATED_MS < asked["to_ms"] else "[]"


def proper(path: str, asked: Asked, rows: str, following: str = "null") -> HttpAnswer:
    """A proper answer: one row in one minute."""
    minute = {"minute_ms": str(MINUTE), "kinds": '{"EXCHANGE": 1}'}
    whole = {"minutes": counted(asked, minute)} if path.endswith("/counts") else {"now_ms": str(NOW), "rows": f"[{rows}]", "next": following}
    return HttpAnswer(200, "application/json", None, encoded(whole).encode())


@st.composite
def answers(draw: st.DrawFn, path: str, asked: Asked) -> HttpAnswer:
    """An answer to this request that is proper but for one part of it, or not at all."""
    part = draw(st.sampled_from(["body", "status", "field", "row", "next"]))
    if part == "body":
        return HttpAnswer(200, "application/json", None, draw(odd_bodies))
    if part == "status":
        return HttpAnswer(draw(st.sampled_from([204, 404, 502])), "text/html", None, draw(odd_bodies))
    if path.endswith("/counts"):
        minute = {"minute_ms": str(MINUTE), "kinds": '{"EXCHANGE": 7}'} | draw(st.dictionaries(st.sampled_from(["minute_ms", "kinds"]), odd_values))
        whole = {"minutes": counted(asked, minute)}
    else:
        names = st.sampled_from([*interface_row(), "\x00", "another"])
        rows = [a_row(number, draw(st.dictionaries(names, odd_values, max_size=3))) for number in range(2)]
        following = draw(odd_values) if part == "next" else "null"
        whole = {"now_ms": str(NOW), "rows": f"[{', '.join(rows)}]", "next": following}
    if part == "field":
        whole[draw(st.sampled_from(list(whole)))] = draw(odd_values)
    return HttpAnswer(200, "application/json", None, encoded(whole).encode())


@dataclass
class Answers:
    """A counter by HTTP, without the HTTP: the good shard has one order."""

    hostile: Callable[[str, Asked], HttpAnswer]
    listed: bytes = field(default=encoded({"shards": "[0, 1]", "now_ms": str(NOW)}).encode())

    def request(self, _method: str, path: str, **_: object) -> HttpAnswer:
        found = urlsplit(path)
        if found.path == "/v1/shards":
            return HttpAnswer(200, "application/json", None, self.listed)
        asked = {name: int(values[0]) for name, values in parse_qs(found.query).items()}
        if asked["shard"] != GOOD:
            return self.hostile(found.path, asked)
        rows = a_row(99, {"shard": "1"}) if asked.get("after_ms", 0) < CREATED_MS else ""
        return proper(found.path, asked, rows)


def interface(client: Answers) -> HttpSyncOrderInterface:
    counter: Any = client
    return HttpSyncOrderInterface(counter, deadline_ms=1_000, now_ms=lambda: NOW)


def both_passes(changes: dict[str, str]) -> tuple[list[str], dict[str, str]]:
    """What reconcile and the gap pass say of each shard when the hostile one has this row."""
    client = Answers(lambda path, asked: proper(path, asked, a_row(1, changes)))
    runs = Reconcile(interface(client), FakeClearings().ingest_from_gap, RULES, page_rows=3, settle_ms=0).run(1)
    result = GapPass(interface(client), FakeClearings().ingest_from_gap, RULES, 30_000, page_rows=3).run()
    return [run.error for run in runs], result.failed


FUZZED = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


class TestWhateverOneShardIsAnswered:
    @FUZZED
    @given(st.data())
    def test_reconcile_compares_the_other_and_keeps_a_run_of_both(self, data: st.DataObject) -> None:
        tables = interface(Answers(lambda path, asked: data.draw(answers(path, asked))))
        with rewritable():
            SyncOrder.objects.all().delete()

        runs = Reconcile(tables, FakeClearings().ingest_from_gap, RULES, page_rows=3, settle_ms=0).run(1)

        assert [(run.shard, run.pk is not None) for run in runs] == [(HOSTILE, True), (GOOD, True)]
        assert (runs[1].error, runs[1].missing, runs[1].fetched) == ("", 1, 1)
        assert not runs[0].error.startswith("internal error"), runs[0].error

    @FUZZED
    @given(st.data())
    def test_the_gap_pass_reads_the_other(self, data: st.DataObject) -> None:
        counter = interface(Answers(lambda path, asked: data.draw(answers(path, asked))))
        with rewritable():
            SyncOrder.objects.all().delete()
        Watermark.objects.all().delete()

        with capture_logs() as lines:
            result = GapPass(counter, FakeClearings().ingest_from_gap, RULES, 30_000, page_rows=3).run()

        assert set(result.failed) <= {str(HOSTILE)}
        assert SyncOrder.objects.filter(order_id="O99").exists()
        assert Watermark.objects.get(shard=GOOD).scanned_through_ms == NOW - 30_000
        assert [line for line in lines if line.get("alarm") == "gap_pass_failed"] == []

    @FUZZED
    @given(st.data())
    def test_a_list_of_shards_is_read_or_not(self, data: st.DataObject) -> None:
        names = st.sampled_from(["shards", "now_ms"])
        changes = data.draw(st.dictionaries(names, odd_values))
        body = data.draw(odd_bodies | st.just(encoded({"shards": "[0, 1]", "now_ms": str(NOW)} | changes).encode()))
        tables = interface(Answers(lambda path, asked: data.draw(answers(path, asked)), listed=body))

        with suppress(InterfaceFailed):
            runs = Reconcile(tables, FakeClearings().ingest_from_gap, RULES, page_rows=3, settle_ms=0).run(1)
            assert all(run.pk for run in runs)


class TestReviewedCases:
    """Each of them ended the pass, and left no run."""

    @pytest.mark.parametrize(
        "changes",
        [{"kind": '["EXCHANGE"]'}, {"created_ms": "9" * 5_000}, {"id": '"\\u0000"', "order_id": "null"}],
        ids=["kind is a list", "5,000 digits", "a NUL in an id"],
    )
    def test_of_a_row(self, changes: dict[str, str]) -> None:
        assert both_passes(changes) == (["", ""], {})

    def test_of_a_value_nested_as_deep_as_can_be_read(self) -> None:
        def can_be_read(depth: int) -> bool:
            try:
                return bool(json.loads("[" * depth + "]" * depth) or depth == 1)
            except RecursionError:
                return False

        deepest = next(depth for depth in range(990, 0, -1) if can_be_read(depth))

        for depth in range(deepest - 60, deepest, 2):
            errors, failed = both_passes({"instrument": "[" * depth + "]" * depth})
            assert [error for error in (*errors, *failed.values()) if "isn't JSON" not in error and error] == []

    def test_of_a_page_with_a_nul(self) -> None:
        client = Answers(lambda *_: HttpAnswer(502, "text/html", None, b"<html>\x00"))

        runs = Reconcile(interface(client), FakeClearings().ingest_from_gap, RULES, page_rows=3, settle_ms=0).run(1)

        assert "502" in ReconcileRun.objects.get(pk=runs[0].pk).error


class TestInternalError:
    """Of ours, with one shard's rows: the other shard has nothing to do with it."""

    @pytest.fixture(autouse=True)
    def _fails(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def read(row: Any, origin: Any, rules: Any) -> Any:
            if origin.partition == HOSTILE:
                raise ZeroDivisionError("a mistake\x00")
            return real(row, origin, rules)

        real = read_row
        monkeypatch.setattr(gap_pass, "read_row", read)
        monkeypatch.setattr(reconcile, "read_row", read)

    @staticmethod
    def _answers(path: str, asked: Asked) -> HttpAnswer:
        return proper(path, asked, a_row(1, {}))

    def test_is_kept_as_a_failed_run_and_the_third_raises_an_alarm(self) -> None:
        compare = Reconcile(interface(Answers(self._answers)), FakeClearings().ingest_from_gap, RULES, page_rows=3, settle_ms=0)

        alarms = []
        for _ in range(3):
            with capture_logs() as lines:
                runs = compare.run(1)
            alarms.append([line["shard"] for line in lines if line.get("alarm") == "reconcile_failed"])

        assert "ZeroDivisionError" in ReconcileRun.objects.get(pk=runs[0].pk).error
        assert (runs[1].error, alarms) == ("", [[], [], [HOSTILE]])

    def test_raises_an_alarm_of_the_gap_pass(self) -> None:
        with capture_logs() as lines:
            result = GapPass(interface(Answers(self._answers)), FakeClearings().ingest_from_gap, RULES, 30_000, page_rows=3).run()

        assert ("ZeroDivisionError" in str(lines), set(result.failed), SyncOrder.objects.get().order_id) == (True, {"0"}, "O99")
        assert [line["shard"] for line in lines if line.get("alarm") == "gap_pass_failed"] == [HOSTILE]


class TestACounterThatAlwaysNamesANextPage:
    @pytest.fixture(autouse=True)
    def few(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(gap_pass, "PAGES_MAX", 5)
        monkeypatch.setattr(reconcile, "PAGES_MAX", 5)

    @staticmethod
    def _endless(at_ms: int, number: int = 0) -> Callable[[str, Asked], HttpAnswer]:
        numbers = itertools.count(number + 1)
        return lambda path, asked: proper(path, asked, "", encoded({"ms": str(at_ms), "id": str(next(numbers))}))

    def test_keeps_the_gap_pass_from_no_other_shard(self) -> None:
        result = GapPass(interface(Answers(self._endless(RULES.since_ms))), FakeClearings().ingest_from_gap, RULES, 30_000, page_rows=3).run()

        assert (result.failed, SyncOrder.objects.get().order_id) == ({}, "O99")
        assert dict(Watermark.objects.values_list("shard", "scanned_through_ms")) == {HOSTILE: RULES.since_ms, GOOD: NOW - 30_000}

    def test_keeps_reconcile_from_no_other_shard(self) -> None:
        runs = Reconcile(interface(Answers(self._endless(MINUTE, 10**18))), FakeClearings().ingest_from_gap, RULES, page_rows=3, settle_ms=0).run(1)

        assert ("more than 5 pages" in runs[0].error, runs[1].error) == (True, "")


def test_a_pass_that_was_broken_off_goes_on_where_it_came_to(monkeypatch: pytest.MonkeyPatch, clearings: FakeClearings) -> None:
    monkeypatch.setattr(gap_pass, "PAGES_MAX", 2)
    counter = Counter()
    for number in range(10):
        counter.commit(f"O{number}", RULES.since_ms + number)
    reads = GapPass(counter, clearings.ingest_from_gap, RULES, OVERLAP, page_rows=3)

    brought = [reads.run().ingested.accepted for _ in range(3)]

    assert brought == [6, 4, 0]
    assert Watermark.objects.get().scanned_through_ms == counter.now_ms - OVERLAP


def test_a_row_is_flat_whatever_came() -> None:
    found = readable_row({"a": "1", "b": None, "c": True, "d": [[1]], "e": "9" * 5_000, "f" * 5_000: {}})

    assert list(map(type, found.values())) == [str, type(None), bool, str, str, str]
    assert max(map(len, (*found, *(str(value) for value in found.values())))) == counter_api.VALUE_CHARACTERS_MAX
