"""Durations, amounts and bytes as text for people."""

import json
from decimal import Decimal

from base.decimals import plain

DURATIONS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))  # the largest unit that the value reaches twice
HEX_BYTES_A_LINE = 16


def duration(seconds: float) -> str:
    """`43 ms`, `1.2 s`, `3 min`, `5 h`, `12 d`; a negative one comes from clocks that disagree and
    reads as 0 ms.
    """
    if seconds < 1:
        return f"{max(seconds, 0) * 1000:.0f} ms"
    if seconds < 60:  # noqa: PLR2004 a minute
        return f"{seconds:.1f} s"
    size, unit = next(entry for entry in DURATIONS if seconds >= 2 * entry[0])
    return f"{seconds / size:.0f} {unit}"


def amount(value: Decimal | None) -> str:
    """Without trailing zeros and without an exponent; a dash where there is none."""
    return "-" if value is None else plain(value)


def text_of(raw: bytes | memoryview | None) -> str:
    """Bytes as text: JSON indented, other UTF-8 as it is, what is neither with its odd bytes
    escaped, and so are lone surrogates, which no page can carry; empty for none.
    """
    if raw is None:
        return ""
    try:
        return json.dumps(json.loads(bytes(raw)), indent=2, ensure_ascii=False).encode("utf-8", "backslashreplace").decode()
    except (ValueError, RecursionError):
        return bytes(raw).decode("utf-8", "backslashreplace")


def hex_of(raw: bytes | memoryview | None, *, bytes_max: int = 4096) -> str:
    """Offset, hexadecimal and ASCII columns, as `hexdump -C` prints them; at most `bytes_max` bytes
    of it.
    """
    whole = bytes(raw or b"")
    shown = whole[:bytes_max]
    lines = [_hex_line(at, shown[at : at + HEX_BYTES_A_LINE]) for at in range(0, len(shown), HEX_BYTES_A_LINE)]
    if len(whole) > bytes_max:
        lines.append(f"… {len(whole) - bytes_max} bytes more")
    return "\n".join(lines)


def _hex_line(at: int, row: bytes) -> str:
    printable = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)  # noqa: PLR2004 ASCII's printable range
    return f"{at:08x}  {row.hex(' '):<{3 * HEX_BYTES_A_LINE}} {printable}"
