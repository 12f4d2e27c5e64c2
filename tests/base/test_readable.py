"""Values as people read them."""

from decimal import Decimal

import pytest

from base.readable import amount, duration, hex_of, text_of


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(-3, "0 ms"), (0.0431, "43 ms"), (1.24, "1.2 s"), (59.94, "59.9 s"), (100, "100 s"), (180, "3 min"), (7_200, "2 h"), (1_036_800, "12 d")],
)
def test_durations(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


@pytest.mark.parametrize(
    ("value", "shown"), [(None, "-"), (Decimal("1.500"), "1.5"), (Decimal("1E+3"), "1000"), (Decimal("0E-8"), "0"), (Decimal(100), "100")]
)
def test_amounts(value: Decimal | None, shown: str) -> None:
    assert amount(value) == shown


class TestBytes:
    def test_json_is_indented(self) -> None:
        assert text_of(b'{"a":1}') == '{\n  "a": 1\n}'

    def test_what_is_no_text_is_escaped(self) -> None:
        assert text_of(b"a\xff") == "a\\xff"

    def test_nothing_is_empty(self) -> None:
        assert (text_of(None), hex_of(None)) == ("", "")

    def test_hex_shows_offset_bytes_and_characters(self) -> None:
        assert hex_of(b"A\x00\xff").split() == ["00000000", "41", "00", "ff", "A.."]

    def test_long_messages_are_cut(self) -> None:
        assert hex_of(b"x" * 20, bytes_max=16).splitlines()[-1] == "… 4 bytes more"
