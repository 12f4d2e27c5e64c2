"""Every URL of the web process: the admin and the operational endpoints."""

from django.urls import include, path
from django.views.generic import RedirectView

from ops.admin.addresses import admin_urls

urlpatterns = [
    path("", RedirectView.as_view(url="/admin/")),
    path("admin/", admin_urls()),
    path("", include("ops.urls")),
]
