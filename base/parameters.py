"""Numbers in what comes from a browser: query parameters, form fields, parts of a path."""

from collections.abc import Callable
from typing import Final

from django.http import HttpRequest, HttpResponse, HttpResponseBadRequest

BIGINT_MAX: Final = 2**63 - 1
INTEGER_MAX: Final = 2**31 - 1


def number_in(text: str, *, largest: int = BIGINT_MAX) -> int | None:
    """The number that `text` spells in ASCII digits; None for anything else, and for one that is
    larger than `largest`.

    `str.isdigit` alone is true for "²", which `int` refuses, and a longer number fits in no column.
    """
    if not (text.isascii() and text.isdigit()) or len(text) > len(str(BIGINT_MAX)):
        return None
    number = int(text)
    return number if number <= largest else None


def ids_in(text: str, *, limit: int) -> list[int]:
    """The primary keys in a list like `3,17,4`: at most `limit`, each once; what is no key is left
    out.
    """
    numbers = (number_in(part) for part in text.split(","))
    return list(dict.fromkeys(number for number in numbers if number is not None))[:limit]


def refuse_nul(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    """Middleware: 400 for a NUL in the path or the query, which PostgreSQL refuses in any text.
    Forms check their own fields.
    """

    def answer(request: HttpRequest) -> HttpResponse:
        if "\0" in request.path or "%00" in request.META.get("QUERY_STRING", ""):
            return HttpResponseBadRequest("NUL is no character of any address here.")
        return get_response(request)

    return answer
