from dataclasses import replace
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest

from orders.decoding.decode import decode
from orders.intake.mapping import Filtered, FilterReason, NewOrder, RefusalCode, Refused, canonical_hash, from_binlog, from_interface
from tests.orders.messages import CREATED_MS, RULES, interface_row, message, row


def mapped(**changes: Any) -> NewOrder | Filtered:
    """What a binlog row with these changes becomes."""
    (change,) = decode(message(row(**changes)))
    assert change.after is not None
    return from_binlog(change.after, RULES)


def order(**changes: Any) -> NewOrder:
    found = mapped(**changes)
    assert isinstance(found, NewOrder)
    return found


class TestAcceptedRows:
    def test_every_field_arrives(self) -> None:
        assert order() == NewOrder(
            order_id="O1",
            user_id="1001",
            shard=2,
            sequence=55,
            contract_id="C1",
            direction="OPEN",
            asset="BTC",
            quantity=Decimal("0.05"),
            quoted_usdt=Decimal("3050.12"),
            instrument="BTC-20260327-60000-C",
            created_ms=CREATED_MS,
            kind="EXCHANGE",
        )

    def test_both_shapes_of_a_row_are_one_order(self) -> None:
        from_counter = from_interface(interface_row(), RULES)

        assert from_counter == order()

    @pytest.mark.parametrize(
        ("text", "created_ms"),
        [
            ("2026-01-02 03:04:05", 1_767_323_045_000),
            ("2026-01-02 03:04:05.6", 1_767_323_045_600),
            ("2026-01-02 03:04:05.678999", 1_767_323_045_678),
            ("2024-02-29 23:59:59.999", 1_709_251_199_999),
            ("2026-01-02T03:04:05.678Z", CREATED_MS),
            ("2026-01-02T05:04:05.678123456+02:00", CREATED_MS),
            ("1767323045678", CREATED_MS),
            ("1767323045678999", CREATED_MS),
            ("1767323045678999999", CREATED_MS),
        ],
    )
    def test_a_time_is_utc_unless_it_names_its_zone(self, text: str, created_ms: int) -> None:
        assert order(created_at=text).created_ms == created_ms

    def test_a_user_beyond_the_signed_range_is_the_same_however_the_source_prints_it(self) -> None:
        assert order(user_id="-1").user_id == order(user_id="18446744073709551615").user_id == "18446744073709551615"

    def test_amounts_keep_every_digit(self) -> None:
        assert order(quantity="123456789012345678.12345678").quantity == Decimal("123456789012345678.12345678")


class TestFilteredRows:
    def test_other_kinds_are_none_of_our_business_whatever_they_lack(self) -> None:
        assert mapped(kind="DEPOSIT", direction=None, asset=None, created_at=None) == Filtered(FilterReason.KIND)

    def test_orders_from_before_the_start_are_left_alone(self) -> None:
        late_start = replace(RULES, since_ms=CREATED_MS + 1)

        assert from_interface(interface_row(), late_start) == Filtered(FilterReason.OLD)
        assert isinstance(from_interface(interface_row(), replace(RULES, since_ms=CREATED_MS)), NewOrder)


class TestRefusedRows:
    @pytest.mark.parametrize(
        ("changes", "code"),
        [
            ({"order_id": None}, RefusalCode.MISSING_FIELD),
            ({"quantity": "absent"}, RefusalCode.MISSING_FIELD),
            ({"kind": None}, RefusalCode.MISSING_FIELD),
            ({"order_id": ""}, RefusalCode.BAD_TEXT),
            ({"order_id": "O" * 65}, RefusalCode.BAD_TEXT),
            ({"order_id": "O 1"}, RefusalCode.BAD_TEXT),
            ({"order_id": "O1\n"}, RefusalCode.BAD_TEXT),
            *[({"order_id": f"O{reserved}1"}, RefusalCode.BAD_TEXT) for reserved in "/%?#:+&=@"],  # they would need an encoding in an address
            ({"user_id": "ü"}, RefusalCode.BAD_TEXT),
            ({"contract_id": "C\x001"}, RefusalCode.BAD_TEXT),
            ({"instrument": "BTC\x00"}, RefusalCode.BAD_TEXT),
            ({"instrument": ""}, RefusalCode.BAD_TEXT),
            ({"quantity": "NaN"}, RefusalCode.BAD_NUMBER),
            ({"quantity": "Infinity"}, RefusalCode.BAD_NUMBER),
            ({"quantity": "1e3"}, RefusalCode.BAD_NUMBER),
            ({"quantity": "-1"}, RefusalCode.BAD_NUMBER),
            ({"quantity": "+1"}, RefusalCode.BAD_NUMBER),
            ({"quantity": "1."}, RefusalCode.BAD_NUMBER),
            ({"quantity": ".5"}, RefusalCode.BAD_NUMBER),
            ({"quantity": "1_000"}, RefusalCode.BAD_NUMBER),
            ({"quantity": " 1"}, RefusalCode.BAD_NUMBER),
            ({"quantity": "\N{ARABIC-INDIC DIGIT ONE}"}, RefusalCode.BAD_NUMBER),
            ({"quantity": "1" * 200}, RefusalCode.BAD_NUMBER),
            ({"quantity": "0"}, RefusalCode.OUT_OF_BOUNDS),
            ({"quoted_usdt": "0.000000000000000000"}, RefusalCode.OUT_OF_BOUNDS),
            ({"quoted_usdt": "1" + "0" * 18}, RefusalCode.OUT_OF_BOUNDS),
            ({"quantity": "0.0000000000000000001"}, RefusalCode.BAD_SCALE),
            ({"quantity": "0.000000001"}, RefusalCode.BAD_SCALE),  # cut to the scale it would be nothing
            ({"quantity": "1.000000001000000000"}, RefusalCode.BAD_SCALE),
            ({"quoted_usdt": "3050.1234567"}, RefusalCode.BAD_SCALE),
            ({"shard": "-1"}, RefusalCode.BAD_NUMBER),
            ({"shard": "2147483648"}, RefusalCode.OUT_OF_BOUNDS),
            ({"sequence": "9223372036854775808"}, RefusalCode.OUT_OF_BOUNDS),
            ({"direction": None}, RefusalCode.MISSING_FIELD),
            ({"direction": "0"}, RefusalCode.UNKNOWN_DIRECTION),
            ({"asset": "DOGE"}, RefusalCode.UNKNOWN_ASSET),
            ({"asset": "USDT"}, RefusalCode.UNKNOWN_ASSET),
            ({"created_at": "0000-00-00 00:00:00.000"}, RefusalCode.BAD_TIMESTAMP),
            ({"created_at": "2026-02-30 00:00:00"}, RefusalCode.BAD_TIMESTAMP),
            ({"created_at": "2026-01-02T03:04:05X"}, RefusalCode.BAD_TIMESTAMP),
            ({"created_at": "2026-01-02T03:04:05+25:00"}, RefusalCode.BAD_TIMESTAMP),
            ({"created_at": "1767323045"}, RefusalCode.BAD_TIMESTAMP),
            ({"quantity": "AMA="}, RefusalCode.BAD_NUMBER),
        ],
    )
    def test_say_why(self, changes: dict[str, str | None], code: RefusalCode) -> None:
        with pytest.raises(Refused) as caught:
            mapped(**changes)

        assert (caught.value.code, caught.value.field) == (code, next(iter(changes)))

    @pytest.mark.parametrize("created_ms", ["-1", "1e12", "999999999999999", True, 1.5, []])
    def test_a_time_of_the_interface_is_whole_milliseconds(self, created_ms: object) -> None:
        with pytest.raises(Refused):
            from_interface(interface_row(created_ms=created_ms), RULES)


class TestCanonicalHash:
    def test_spelling_makes_no_difference(self) -> None:
        assert canonical_hash(order(quantity="1.50")) == canonical_hash(order(quantity="01.5"))
        assert canonical_hash(order(quantity="100")) == canonical_hash(order(quantity="100.000"))

    @pytest.mark.parametrize("name", [name for name in NewOrder.__struct_fields__ if name not in {"kind", "mac", "mac_key_id"}])
    def test_every_field_of_the_order_counts(self, name: str) -> None:
        ours = order()
        other: Any = {"shard": 3, "sequence": 56, "created_ms": CREATED_MS + 1, "quantity": Decimal(1), "quoted_usdt": Decimal(1)}.get(name, "X")

        assert canonical_hash(msgspec.structs.replace(ours, **{name: other})) != canonical_hash(ours)

    def test_the_last_of_36_digits_counts(self) -> None:
        assert canonical_hash(order(quantity="123456789012345678.12345678")) != canonical_hash(order(quantity="123456789012345678.12345679"))


def read_row(**changes: Any) -> dict[str, Any]:
    """A binlog row as the decoder gives it."""
    (change,) = decode(message(row(**changes)))
    return dict(change.after or {})


class TestOtherTables:
    def test_have_columns_of_other_names(self) -> None:
        rules = replace(RULES, columns={"gmt_create": "created_at", "uid": "user_id"})
        theirs = read_row(user_id="7")
        named = {**theirs, "gmt_create": theirs["created_at"], "created_at": "not it", "uid": "8"}

        found = from_binlog(rules.named(named) or {}, rules)

        assert found == order(user_id="8")

    @pytest.mark.parametrize("written", ["2026-01-02 11:04:05.678", 1767351845678, "2026-01-02T03:04:05.678Z"])
    def test_have_clocks_of_another_zone(self, written: object) -> None:
        rules = replace(RULES, zone=ZoneInfo("Asia/Shanghai"))

        found = from_binlog({**read_row(), "created_at": written}, rules)

        assert isinstance(found, NewOrder)
        assert found.created_ms == 1_767_323_045_678
