"""How long somebody stays signed in, and what is asked of who signs in."""

import time
from collections.abc import Callable
from typing import Any, Final

from django.conf import settings
from django.contrib.auth import logout
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.http import urlencode

Answer = Callable[[HttpRequest], HttpResponse]
SIGNED_IN_AT: Final = "desk_signed_in_at"  # in the session
TOO_MANY_REQUESTS: Final = 429


def end_after_a_working_day(get_response: Answer) -> Answer:
    """A middleware. The cookie's age alone would begin anew with each change of the session."""

    def answer(request: HttpRequest) -> HttpResponse:
        if settings.SESSION_COOKIE_NAME in request.COOKIES and request.user.is_authenticated:
            since = request.session.get(SIGNED_IN_AT)
            if since is None:
                request.session[SIGNED_IN_AT] = time.time()
            elif time.time() - since > settings.SESSION_COOKIE_AGE:
                logout(request)
        return get_response(request)

    return answer


def require_second_factor(get_response: Answer) -> Answer:
    """A middleware: where a second factor is required, a password alone opens its page, no other
    one.
    """

    def answer(request: HttpRequest) -> HttpResponse:
        user: Any = request.user
        if not settings.SECOND_FACTOR or not request.path.startswith(reverse("admin:index")) or not user.is_authenticated or user.is_verified():
            return get_response(request)
        page = reverse("second_factor")
        if request.path in {page, reverse("admin:login"), reverse("admin:logout")}:
            return get_response(request)
        return HttpResponseRedirect(f"{page}?{urlencode({'next': request.get_full_path()})}")

    return answer


def locked_out(request: HttpRequest, _response: Any = None, _credentials: Any = None) -> HttpResponse:
    """What is answered to too many wrong passwords."""
    minutes = round(settings.AXES_COOLOFF_TIME.total_seconds() / 60)
    return TemplateResponse(request, "base/locked_out.html", {"minutes": minutes}, status=TOO_MANY_REQUESTS).render()
