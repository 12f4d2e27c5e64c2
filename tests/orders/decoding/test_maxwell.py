import json
from typing import Any

import pytest

from orders.decoding.decode import RowChange, UnreadableMessage, decode


def event(kind: str = "insert", data: Any = None, **changes: Any) -> bytes:
    found = {"database": "counter", "table": "sync_order", "type": kind, "ts": 1_767_323_045, "xid": 7, "commit": True, "data": data, **changes}
    return json.dumps(found).encode()


def one(raw: bytes) -> RowChange:
    (change,) = decode(raw)
    return change


class TestEvents:
    @pytest.mark.parametrize(
        ("kind", "operation", "before", "after"),
        [
            ("insert", "insert", None, {"id": "7"}),
            ("bootstrap-insert", "insert", None, {"id": "7"}),
            ("update", "update", None, {"id": "7"}),
            ("delete", "delete", {"id": "7"}, None),
        ],
    )
    def test_are_row_changes(self, kind: str, operation: Any, before: Any, after: Any) -> None:
        change = one(event(kind, {"id": 7}, primary_key_columns=["id"]))

        assert change == RowChange("maxwell", "counter", "sync_order", operation, before, after, ("id",), 1_767_323_045_000)

    def test_the_old_row_is_the_new_one_with_old_laid_over_it(self) -> None:
        change = one(event("update", {"id": 7, "status": "DONE", "note": None}, old={"status": "NEW", "note": "n"}))

        assert change.before == {"id": "7", "status": "NEW", "note": "n"}
        assert change.after == {"id": "7", "status": "DONE", "note": None}

    def test_an_update_of_nothing_has_the_same_row_twice(self) -> None:
        change = one(event("update", {"id": 7}, old={}))

        assert change.before == change.after

    @pytest.mark.parametrize("kind", ["table-create", "table-alter", "table-drop", "database-create", "database-alter", "database-drop"])
    def test_ddl_has_no_rows_and_milliseconds(self, kind: str) -> None:
        change = one(event(kind, sql="…", ts=1_767_323_045_678, **{"def": {"columns": []}}))

        assert change == RowChange("maxwell", "counter", "sync_order", "ddl", None, None, (), 1_767_323_045_678)

    @pytest.mark.parametrize("kind", ["bootstrap-start", "bootstrap-complete"])
    def test_what_is_about_no_row_gives_none(self, kind: str) -> None:
        assert decode(event(kind, {})) == []


class TestValues:
    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            (18446744073709551615, "18446744073709551615"),
            (1.5, "1.5"),
            ("2026-01-02 03:04:05.678", "2026-01-02 03:04:05.678"),
            (["vip", "api"], "vip,api"),
            ([], ""),
            ({"a": [1, 2.5]}, '{"a":[1,2.5]}'),
            (False, "0"),
            (None, None),
        ],
    )
    def test_are_mysqls_text(self, value: Any, expected: str | None) -> None:
        assert one(event(data={"c": value})).after == {"c": expected}


class TestUnreadableEvents:
    @pytest.mark.parametrize(
        ("raw", "field"),
        [
            (event("upsert", {"id": 7}), "type"),
            (event(), "data"),
            (event(data=[7]), "data"),
            (event(data={}), "data"),
            (event("update", {"id": 7}, old=7), "old"),
            (event(data={"id": 7}, table=7), "table"),
            (event(data={"id": 7}, primary_key_columns="id"), "primary_key_columns"),
            (event(data={"id": 7}, primary_key_columns=[7]), "primary_key_columns"),
        ],
    )
    def test_say_what_and_where(self, raw: bytes, field: str) -> None:
        with pytest.raises(UnreadableMessage) as caught:
            decode(raw)

        assert (caught.value.source_format, caught.value.field) == ("maxwell", field)
