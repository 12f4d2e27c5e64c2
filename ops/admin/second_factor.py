"""The page of the second factor: sets one up at the first sign-in, and asks for its code at each
one after.
"""

from django.contrib import admin
from django.contrib.admin.views.decorators import staff_member_required
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.http import url_has_allowed_host_and_scheme
from django_otp.plugins.otp_totp.admin import TOTPDevice  # which registers it first

from base.desk import second_factor
from base.desk.journal import note

admin.site.unregister(TOTPDevice)  # whoever edits devices is everybody


@staff_member_required(login_url="admin:login")  # type: ignore[untyped-decorator]
def page(request: HttpRequest) -> HttpResponse:
    """GET shows the secret of a new device, or asks for a code; POST takes the code."""
    known = second_factor.device_of(request.user) is not None
    error = ""
    if request.method == "POST":
        given = request.POST.get("code", "")
        if second_factor.verify(request, given) if known else second_factor.confirm(request, given):
            return HttpResponseRedirect(_next(request))
        note("second_factor_refused")
        error = "That isn't the code of this half minute, or it was used already. After several wrong ones wait a little."
    device = None if known else second_factor.new_device(request)
    context = {
        **admin.site.each_context(request),
        "title": "Second factor",
        "error": error,
        "picture": second_factor.picture(device) if device else "",
        "address": device.config_url if device else "",
        "sidebar_navigation": [],
    }
    return TemplateResponse(request, "ops/second_factor.html", context)


def _next(request: HttpRequest) -> str:
    wanted = request.GET.get("next", "")
    allowed = url_has_allowed_host_and_scheme(wanted, {request.get_host()}, require_https=request.is_secure())
    return wanted if allowed else reverse("admin:index")
