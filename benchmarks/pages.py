"""The admin pages' server time with many orders, beside an empty page of the same process in the
same rounds: the ratios count.

Every page is requested in turn with the baseline, in process (no network, no browser); the best of
the rounds counts, since other load on the machine only adds to it.
"""

import time
from typing import Any

from benchmarks.errors import BenchmarkError

ROUNDS_MIN = 5
BASELINE = "/admin/login/"
USERS = 200
PER_PAGE_MAX = 100  # rows of a list's page, at the most


def figures(orders: int, rounds: int) -> dict[str, Any]:
    """Milliseconds of each page, and as multiples of the login page's."""
    from django.test import Client

    from tests.support.bulk import create_orders

    create_orders(orders, users=USERS)
    pages = _pages(orders)
    client, stranger = _viewer(), Client()
    best = dict.fromkeys([BASELINE, *pages], float("inf"))
    for _ in range(max(rounds, ROUNDS_MIN)):
        for page in best:
            best[page] = min(best[page], _taken_ms(stranger if page == BASELINE else client, page))
    return {
        "figure": "pages",
        "orders": orders,
        "baseline": BASELINE,
        "ms": best,
        "ratios": {page: best[page] / best[BASELINE] for page in pages},
    }


def lines(result: dict[str, Any]) -> list[str]:
    baseline = f"{result['ms'][BASELINE]:8.1f} ms        {BASELINE}"
    return [baseline, *(f"{result['ms'][page]:8.1f} ms {ratio:6.1f} {page}" for page, ratio in result["ratios"].items())]


def _pages(count: int) -> list[str]:
    """Those whose rows tests/admin/test_lists.py counts; of the list also a page far behind."""
    from django.urls import reverse

    from clearing.models import Clearing

    parked = Clearing.objects.filter(state="parked").latest("pk")
    clearings, orders = reverse("admin:clearing_clearing_changelist"), reverse("admin:orders_syncorder_changelist")
    return [
        reverse("admin:index"),
        clearings,
        f"{clearings}?state=parked",
        f"{clearings}?p={max(1, min(150, count // PER_PAGE_MAX))}",
        f"{clearings}?q=bulk-00001234",
        reverse("admin:clearing_clearing_change", args=[parked.pk]),
        orders,
        f"{orders}?q=1007",
        reverse("admin:orders_syncorder_change", args=[parked.order_id]),
    ]


def _viewer() -> Any:
    from django.contrib.auth.models import User
    from django.test import Client

    client = Client()
    client.force_login(User.objects.create_superuser("benchmark"))
    return client


def _taken_ms(client: Any, page: str) -> float:
    began = time.perf_counter()
    answer = client.get(page)
    taken = (time.perf_counter() - began) * 1000
    if answer.status_code != 200:
        raise BenchmarkError(f"{page} answers {answer.status_code}")
    return taken
