"""Notices every change of a user, a group or a permission, on whatever page or by whatever command,
and tells it outside with the values before and after. Notices who signs in and out.
"""

import time
from collections.abc import Iterable
from typing import Any, Final

from axes.signals import user_locked_out
from django.contrib.auth.models import Group, Permission, User
from django.contrib.auth.signals import user_logged_in, user_logged_out, user_login_failed
from django.db.models import Model
from django.db.models.signals import m2m_changed, post_delete, post_save, pre_save
from django.http import HttpRequest

from base.desk.journal import note, note_and_tell
from base.desk.sessions import SIGNED_IN_AT

FIELDS: Final = ("username", "email", "is_active", "is_staff", "is_superuser")
WATCHED: Final = {
    User.groups.through: (User, "groups"),
    User.user_permissions.through: (User, "user_permissions"),
    Group.permissions.through: (Group, "permissions"),
}


def start() -> None:
    """Connects the receivers, once."""
    user_logged_in.connect(_signed_in, dispatch_uid="desk")
    user_logged_out.connect(_signed_out, dispatch_uid="desk")
    user_login_failed.connect(_failed, dispatch_uid="desk")
    user_locked_out.connect(_locked_out, dispatch_uid="desk")
    for through in WATCHED:
        m2m_changed.connect(_members_changed, sender=through, dispatch_uid="desk")
    pre_save.connect(_before_save, sender=User, dispatch_uid="desk")
    post_save.connect(_saved, sender=User, dispatch_uid="desk")
    for model in (User, Group):
        post_delete.connect(_deleted, sender=model, dispatch_uid="desk")


# --- sessions -------------------------------------------------------------------------------------


def _signed_in(user: Any, request: HttpRequest, **_: Any) -> None:
    request.session[SIGNED_IN_AT] = time.time()
    note("signed_in", username=user.get_username(), user_id=user.pk)


def _signed_out(user: Any, **_: Any) -> None:
    if user is not None:
        note("signed_out", username=user.get_username(), user_id=user.pk)


def _failed(credentials: dict[str, Any], request: HttpRequest | None = None, **_: Any) -> None:
    """One who is locked out already leaves no further lines: a flood fills no table."""
    if not getattr(request, "axes_locked_out", False):
        note("sign_in_failed", username=str(credentials.get("username") or "-"))


def _locked_out(request: HttpRequest, username: str, ip_address: str, **_: Any) -> None:
    """Of one that was locked before, nothing was counted, and nothing is told."""
    if getattr(request, "axes_failures_since_start", None) is None:
        return
    note_and_tell("sign_in_locked", "too many wrong passwords: refused for a while", user=str(username or "-")[:150], from_address=ip_address)


# --- rights ---------------------------------------------------------------------------------------


def _members_changed(sender: Any, instance: Any, action: str, reverse: bool, pk_set: set[int] | None, **_: Any) -> None:
    owner_model, field = WATCHED[sender]
    when, what = action.split("_", 1)
    if when == "pre":
        instance._desk_before = {one: _names(one, field) for one in _owners(owner_model, field, instance, reverse=reverse, pk_set=pk_set)}  # noqa: SLF001
    elif what in {"add", "remove", "clear"}:
        for one, before in getattr(instance, "_desk_before", {}).items():
            after = _names(one, field)
            if after != before:
                note_and_tell("rights_changed", "rights were changed", **{_kind(one): str(one)}, field=field, before=before, after=after)


def _owners(model: type[Model], field: str, instance: Any, *, reverse: bool, pk_set: set[int] | None) -> Iterable[Any]:
    """Whose rights change: the instance, or those whom a group or a permission is given to."""
    if not reverse:
        return [instance]
    rows = model._default_manager.all()  # noqa: SLF001 - Django's name
    return list(rows.filter(pk__in=pk_set) if pk_set is not None else rows.filter(**{field: instance}))


def _names(owner: Any, field: str) -> list[str]:
    return sorted(str(one.codename if isinstance(one, Permission) else one.name) for one in getattr(owner, field).all())


def _kind(owner: Any) -> str:
    return "user" if isinstance(owner, User) else "group"


def _before_save(instance: Any, update_fields: Iterable[str] | None = None, **_: Any) -> None:
    if update_fields is None or set(update_fields) - {"last_login"}:
        instance._desk_before_save = User.objects.filter(pk=instance.pk).values(*FIELDS, "password").first() if instance.pk else None  # noqa: SLF001


def _saved(instance: Any, created: bool, update_fields: Iterable[str] | None = None, **_: Any) -> None:
    if update_fields is not None and not set(update_fields) - {"last_login"}:
        return
    before = getattr(instance, "_desk_before_save", None) or {}
    changed = [name for name in FIELDS if created or before.get(name) != getattr(instance, name)]
    if changed:
        old, new = {name: before.get(name) for name in changed}, {name: getattr(instance, name) for name in changed}
        note_and_tell("account_changed", "an account was made or changed", user=str(instance), before=old, after=new)
    if created or before.get("password") != instance.password:
        note_and_tell("password_set", "a password was set", user=str(instance))


def _deleted(instance: Any, **_: Any) -> None:
    note_and_tell("account_changed", "an account or a group was deleted", **{_kind(instance): str(instance)}, before="existed", after="deleted")
