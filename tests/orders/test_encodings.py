from collections.abc import Callable

import pytest

from orders.arrivals import Arrival
from orders.mapping import canonical_hash, from_interface
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
        (arrival,) = read(encode(quantity="123456789012345678.123456789012345678"))

        assert isinstance(arrival, Arrival)
        assert str(arrival.order.quantity) == "123456789012345678.123456789012345678"
