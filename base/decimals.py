"""Exact numbers as text. Pure."""

from decimal import Decimal


def plain(number: Decimal) -> str:
    """The one way to write a finite number down: no exponent, no zeros at the end, every digit
    kept. Equal numbers are equal texts, so that it serves hashes and requests as well as people;
    only the two zeros differ (`-0`).
    """
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
