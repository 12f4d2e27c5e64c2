"""Every URL of the web process: the admin and the operational endpoints."""

from django.contrib import admin
from django.urls import include, path
from django.views.generic import RedirectView

from ops.admin import second_factor
from ops.admin.addresses import admin_urls

admin.autodiscover()
handler500 = "ops.views.server_error"  # the other pages of errors are templates: 400.html, 403.html, 403_csrf.html, 404.html
urlpatterns = [
    path("", RedirectView.as_view(url="/admin/")),
    path("admin/second-factor/", second_factor.page, name="second_factor"),
    path("admin/", admin_urls()),
    path("", include("ops.urls")),
]
