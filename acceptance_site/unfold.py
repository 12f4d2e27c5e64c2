"""The admin's looks and its sidebar (django-unfold)."""

from typing import Any

from django.http import HttpRequest
from django.templatetags.static import static
from django.urls import reverse_lazy
from django.utils.http import urlencode
from django.utils.text import format_lazy


def _item(title: str, icon: str, url_name: str, permission: str, **query: str) -> dict[str, Any]:
    path = reverse_lazy(url_name)

    def allowed(request: HttpRequest) -> bool:
        return request.user.has_perm(permission)

    def active(request: HttpRequest) -> bool:
        found = "parked" if request.GET.get("state") == "parked" else ""
        return request.path.startswith(str(path)) and found == query.get("state", "")

    link = format_lazy("{}{}", path, f"?{urlencode(query)}" if query else "")
    return {"title": title, "icon": icon, "link": link, "permission": allowed, "active": active}


NAVIGATION: list[dict[str, Any]] = [
    {
        "title": "Clearing",
        "items": [
            _item("Clearings", "sync_alt", "admin:clearing_clearing_changelist", "clearing.view_clearing"),
            _item("Needs an operator", "front_hand", "admin:clearing_clearing_changelist", "clearing.view_clearing", state="parked"),
            _item("Interventions", "how_to_reg", "admin:clearing_intervention_changelist", "clearing.view_intervention"),
            _item("Counterparties", "handshake", "admin:clearing_counterpartystate_changelist", "clearing.view_standing"),
            _item("Error policies", "rule", "admin:clearing_errorpolicy_changelist", "clearing.view_errorpolicy"),
            _item("Sync orders", "receipt_long", "admin:orders_syncorder_changelist", "orders.view_syncorder"),
        ],
    },
    {
        "title": "Intake",
        "separator": True,
        "items": [
            _item("Quarantine", "gpp_maybe", "admin:orders_quarantined_changelist", "orders.view_quarantined"),
            _item("Watermarks", "water", "admin:orders_watermark_changelist", "orders.view_watermark"),
            _item("Reconcile runs", "balance", "admin:orders_reconcilerun_changelist", "orders.view_reconcilerun"),
        ],
    },
    {
        "title": "Operations",
        "separator": True,
        "items": [_item("Nodes", "lan", "admin:base_incarnation_changelist", "base.view_incarnation")],
    },
    {
        "title": "Users and audit",
        "separator": True,
        "items": [
            _item("Proposals", "approval", "admin:base_proposal_changelist", "base.view_proposal"),
            _item("Users", "person", "admin:auth_user_changelist", "auth.view_user"),
            _item("Groups", "group", "admin:auth_group_changelist", "auth.view_group"),
            _item("Grants", "verified_user", "admin:base_grant_changelist", "base.view_grant"),
            _item("Desk events", "login", "admin:base_deskevent_changelist", "base.view_deskevent"),
            _item("Audit log", "history", "admin:admin_logentry_changelist", "admin.view_logentry"),
        ],
    },
]

UNFOLD: dict[str, Any] = {
    "SITE_TITLE": "Acceptance service",
    "SITE_HEADER": "Acceptance service",
    "SITE_SUBHEADER": "Every order cleared, once each",
    "SITE_SYMBOL": "currency_exchange",
    "SITE_URL": None,
    "SHOW_HISTORY": False,
    "SHOW_VIEW_ON_SITE": False,
    "ENVIRONMENT": "ops.views.environment_label",
    "DASHBOARD_CALLBACK": "ops.views.dashboard",
    "COLORS": {
        "primary": {  # a calm teal: red, orange and green are left to the states
            "50": "oklch(98.4% .014 180.72)",
            "100": "oklch(95.3% .051 180.801)",
            "200": "oklch(91% .096 180.426)",
            "300": "oklch(85.5% .138 181.071)",
            "400": "oklch(77.7% .152 181.912)",
            "500": "oklch(70.4% .14 182.503)",
            "600": "oklch(60% .118 184.704)",
            "700": "oklch(51.1% .096 186.391)",
            "800": "oklch(43.7% .078 188.216)",
            "900": "oklch(38.6% .063 188.416)",
            "950": "oklch(27.7% .046 192.524)",
        }
    },
    "STYLES": [lambda _request: static("base/admin.css")],
    "SIDEBAR": {"show_search": False, "show_all_applications": False, "navigation": NAVIGATION},
}
