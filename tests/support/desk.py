"""People at the desk, as tests need them: with a role, long enough to be settled."""

from datetime import UTC, datetime

from django.contrib.auth.models import Group, User
from django.db import connection

from base.desk.roles import APPROVER, GUARDED, OPERATOR
from base.models import DeskAccount, Grant

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
PEOPLE = {1: ("ann", OPERATOR), 2: ("ben", APPROVER)}  # by their primary keys


def member(name: str, *roles: str, pk: int | None = None, password: str = "", superuser: bool = False) -> User:
    """A user who has held these roles for long."""
    user = User(pk=pk, username=name, is_staff=True, is_superuser=superuser, date_joined=LONG_AGO)
    if password:
        user.set_password(password)
    else:
        user.set_unusable_password()
    user.save()
    user.groups.set(Group.objects.filter(name__in=roles))
    settle(user)
    Grant.objects.bulk_create(
        Grant(user_id=user.pk, username=name, role=role, source=Grant.Source.HOST, since=LONG_AGO) for role in roles if role in GUARDED
    )
    return user


def settle(user: User) -> None:
    """As if account and credentials were old."""
    DeskAccount.objects.update_or_create(user_id=user.pk, defaults={"account_at": LONG_AGO, "credentials_at": LONG_AGO})
    Grant.objects.filter(user_id=user.pk).update(since=LONG_AGO)


def ann_and_ben() -> None:
    """Who requests and who approves, in tests that act without the admin."""
    for pk, (name, role) in PEOPLE.items():
        if not User.objects.filter(pk=pk).exists():
            member(name, role, pk=pk)
    with connection.cursor() as cursor:
        cursor.execute("SELECT setval('auth_user_id_seq', greatest(nextval('auth_user_id_seq'), 100))")  # beyond their keys
