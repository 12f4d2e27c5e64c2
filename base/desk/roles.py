"""The roles of the desk: groups that `migrate` makes, each with exactly the permissions that it
needs.

A custom group may hold single permissions of them. What it can't give is the right to approve or to
administer: for these a user needs a grant by two administrators (`base.Grant`) besides the group.
"""

from typing import Any, Final

from django.conf import settings
from django.contrib.auth.models import Group, Permission

VIEWER, OPERATOR, APPROVER, AUDITOR, ADMINISTRATOR = "viewer", "operator", "approver", "auditor", "administrator"
GUARDED: Final = (APPROVER, ADMINISTRATOR)

ASKING: Final = (
    "clearing.change_clearing",  # retries
    "clearing.add_intervention",
    "clearing.add_errorpolicy",
    "clearing.change_errorpolicy",
    "clearing.delete_errorpolicy",
)
ADMINISTERING: Final = ("auth.add_user", "auth.change_user", "auth.delete_user", "auth.add_group", "auth.change_group", "auth.delete_group")
_LOOKING: Final = (
    "clearing.view_clearing",
    "clearing.view_intervention",
    "clearing.view_standing",
    "clearing.view_standingchange",
    "clearing.view_errorpolicy",
    "orders.view_syncorder",
    "orders.view_quarantined",
    "orders.view_watermark",
    "orders.view_reconcilerun",
    "base.view_incarnation",
    "base.view_proposal",
)
_AUDITING: Final = ("admin.view_logentry", "base.view_deskevent", "base.view_grant", "auth.view_user", "auth.view_group")
PERMISSIONS: Final = {
    VIEWER: _LOOKING,
    OPERATOR: (*_LOOKING, *ASKING, "orders.change_quarantined", "clearing.change_standing"),
    APPROVER: (*_LOOKING, "clearing.approve_intervention"),
    AUDITOR: (*_LOOKING, *_AUDITING),
    ADMINISTRATOR: (
        *_AUDITING,
        "base.view_proposal",
        *(one for one in ADMINISTERING if one != "auth.delete_user"),  # an account that has acted is made inactive, never deleted
    ),
}
NAMES: Final = tuple(PERMISSIONS)


def install_roles(using: str, **_: Any) -> None:
    """A receiver of `post_migrate`, after every app's permissions were made: the groups hold
    exactly these permissions. What a permission is called stays; an unknown one is a migration that
    wasn't made yet.
    """
    known = {
        f"{label}.{codename}": pk for pk, label, codename in Permission.objects.using(using).values_list("pk", "content_type__app_label", "codename")
    }
    for name, wanted in PERMISSIONS.items():
        group = Group.objects.using(using).get_or_create(name=name)[0]
        keys = {known[permission] for permission in wanted if permission in known}
        if set(group.permissions.values_list("pk", flat=True)) != keys:
            group.permissions.set(keys)


def generated_functions() -> list[str]:
    """What the database's own decisions need to know, as `migrate` finds it in the settings: no
    session of the desk can choose its own hours.
    """
    hours = f"{settings.APPROVER_SETTLED_HOURS!r}::float8"
    lists = {"base_asking_permissions": ASKING, "base_administering_permissions": ADMINISTERING}
    return [
        f"CREATE OR REPLACE FUNCTION base_settled_hours() RETURNS float8 LANGUAGE sql IMMUTABLE AS $$ SELECT {hours} $$",
        *(
            f"CREATE OR REPLACE FUNCTION {name}() RETURNS text[] LANGUAGE sql IMMUTABLE AS $$"
            f" SELECT ARRAY[{', '.join(repr(one.partition('.')[2]) for one in permissions)}] $$"
            for name, permissions in lists.items()
        ),
    ]
