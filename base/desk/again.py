"""Authenticating again before something that moves money, or rights, is approved."""

import time
from typing import Any, Final

from django.conf import settings
from django.contrib.auth import authenticate
from django.http import HttpRequest

from base.desk import second_factor
from base.desk.journal import note

CONFIRMED_AT: Final = "desk_confirmed_at"  # in the session


def is_fresh(request: HttpRequest) -> bool:
    """Whether who is signed in has authenticated again within APPROVAL_FRESH_SECONDS."""
    return 0 <= time.time() - float(request.session.get(CONFIRMED_AT, 0)) < settings.APPROVAL_FRESH_SECONDS


def mark_fresh(request: HttpRequest) -> None:
    """The user has authenticated again just now."""
    request.session[CONFIRMED_AT] = time.time()
    note("authenticated_again")


def refusal(request: HttpRequest) -> str:
    """Why what the form sent isn't enough; empty: it is, or wasn't needed."""
    if is_fresh(request):
        return ""
    user: Any = request.user
    given = request.POST.get("password", "").strip()
    if not given:
        return "enter your password, or the code of your second factor"
    if not (second_factor.is_code(user, given) if second_factor.device_of(user) else _is_password(request, given)):
        note("authentication_refused")
        return "that isn't right"
    mark_fresh(request)
    return ""


def _is_password(request: HttpRequest, given: str) -> bool:
    user: Any = request.user
    found = authenticate(request, username=user.get_username(), password=given)
    return found is not None and found.pk == user.pk


def shown(request: HttpRequest) -> dict[str, Any]:
    """What a page with an approval needs: whether to ask, and for what."""
    return {"authenticates": not is_fresh(request), "by_code": second_factor.device_of(request.user) is not None}
