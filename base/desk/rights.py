"""What a user may do at the desk. The database's functions decide (base/sql/03_desk.sql); what is
here tells pages what to offer, and people why not.
"""

from datetime import datetime
from typing import Any, Final

from django.contrib.auth.models import Permission
from django.db.models import Q

from base.db import call

REASONS: Final = {
    "not_approver": "only an approver can approve: two administrators give the role",
    "asks_too": "who may request can't approve: an administrator has to take one of the two roles away",
    "administers_too": "who may change users can't approve: an administrator has to take one of the two roles away",
    "not_settled": "the role, the account or its password is too new",
    "not_administrator": "only an administrator can decide about roles",
    "own_rights": "nobody decides about rights of their own",
}


def may(user: Any, permission: str) -> bool:
    """Whether a role, or a permission given by itself, allows it. Being a superuser isn't enough to
    move money: only to look, and to administer.
    """
    if not user.is_superuser:
        return bool(user.has_perm(permission))
    if not user.is_active:
        return False
    held = getattr(user, "_held_permissions", None)
    if held is None:
        rows = Permission.objects.filter(Q(group__user=user) | Q(user=user)).values_list("content_type__app_label", "codename")
        held = user._held_permissions = {f"{label}.{codename}" for label, codename in rows}  # noqa: SLF001 - as Django keeps its own
    return permission in held


def is_administrator(user: Any) -> bool:
    """Whether the user decides about other people's rights."""
    return not _ask("base_may_not_administer", user.pk)


def holds(user: Any, role: str) -> bool:
    """Whether the user holds a guarded role: the group and a grant."""
    return bool(call("SELECT base_holds(%(user)s, %(role)s) AS held", {"user": user.pk, "role": role})[0].held)


def why_not_approve(user_id: int | None) -> tuple[str, str]:
    """Why a user may not approve, as a code and in words; two empty texts: he may."""
    code = _ask("base_may_not_approve", user_id)
    if code != "not_settled":
        return code, REASONS.get(code, "")
    return code, f"{REASONS[code]}: you can approve from {settled_at(user_id):%Y-%m-%d %H:%M} UTC on"


def settled_at(user_id: int | None) -> datetime:
    """From when on the user's grant, account and password are settled."""
    moment: datetime = call("SELECT base_settled_at(%(user)s) AS at", {"user": user_id})[0].at
    return moment


def both_until(user_id: int | None) -> datetime | None:
    """Until when a user who held both before roles existed may go on asking and approving."""
    moment: datetime | None = call("SELECT base_both_until(%(user)s) AS at", {"user": user_id})[0].at
    return moment


def _ask(function: str, user_id: int | None) -> str:
    return str(call(f"SELECT {function}(%(user)s) AS problem", {"user": user_id})[0].problem)
