import json
from collections.abc import Callable
from typing import Any

import pytest

from orders.decoding.decode import decode
from orders.intake.classify import Arrival
from orders.intake.mapping import canonical_hash, from_interface
from tests.orders.encodings import ENCODINGS
from tests.orders.messages import RULES, interface_row, read


class TestOneOrder:
    @pytest.mark.parametrize("encode", ENCODINGS)
    def test_is_the_same_in_every_encoding(self, encode: Callable[[], bytes]) -> None:
        (arrival,) = read(encode())

        assert isinstance(arrival, Arrival)
        from_counter = from_interface(interface_row(), RULES)
        assert arrival.order == from_counter
        assert canonical_hash(arrival.order) == canonical_hash(from_counter)

    @pytest.mark.parametrize("encode", ENCODINGS)
    def test_keeps_every_digit_in_every_encoding(self, encode: Callable[..., bytes]) -> None:
        (arrival,) = read(encode(quantity="123456789012345678.12345678"))

        assert isinstance(arrival, Arrival)
        assert str(arrival.order.quantity) == "123456789012345678.12345678"


class TestFormats:
    """Are recognised by their shape, not by words that a row may contain, too."""

    @pytest.mark.parametrize("encode", ENCODINGS)
    def test_of_a_row_that_names_the_others_marks(self, encode: Callable[..., bytes]) -> None:
        (change,) = decode(encode(status="mysqlType", payload="mysqlType", op="c", type="INSERT", source="payload"))

        assert (change.source_format, change.operation) == (encode.__name__.removesuffix("_with_schema"), "insert")
        assert change.after
        assert (change.after["payload"], change.after["op"], change.after["type"]) == ("mysqlType", "c", "INSERT")

    def test_of_ddl_that_names_the_others_marks(self) -> None:
        found: dict[str, Any] = {"type": "table-alter", "database": "counter", "table": "t", "def": {"columns": [{"name": "mysqlType"}]}}

        (change,) = decode(json.dumps(found).encode())

        assert (change.source_format, change.operation) == ("maxwell", "ddl")
