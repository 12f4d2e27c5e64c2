"""Users and groups: who is at the desk, and with which rights (design, rule 18).

Only administrators change rights, nobody changes their own, and a role that approves or administers
is proposed here and given by a second administrator.
"""

from typing import Any, Final

from django.contrib import admin, messages
from django.contrib.auth.admin import GroupAdmin, UserAdmin
from django.contrib.auth.models import Group, User
from django.contrib.auth.validators import ASCIIUsernameValidator
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils.html import format_html
from unfold.admin import ModelAdmin
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm

from base.desk import proposals, rights
from base.desk.actor import current
from base.desk.roles import GUARDED, NAMES
from base.readonly import column

RIGHTS: Final = ("username", "is_active", "is_staff", "is_superuser", "groups", "user_permissions")

admin.site.unregister(User)
admin.site.unregister(Group)


class NewUserForm(UserCreationForm):  # type: ignore[misc]  # unfold has no types
    """Latin letters alone: a name that only looks like another one's would deceive who reads the
    history.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["username"].validators.append(ASCIIUsernameValidator())


@admin.register(User)
class PeopleAdmin(UserAdmin, ModelAdmin):  # type: ignore[misc, type-arg]  # unfold has no types
    """Django's own, with the theme's forms and our rules."""

    form = UserChangeForm
    add_form = NewUserForm
    change_password_form = AdminPasswordChangeForm
    list_display = ("username", "roles", "is_active", "is_superuser", "last_login")
    list_filter = ("is_active", "is_superuser", "groups")

    def get_queryset(self, request: HttpRequest) -> QuerySet[User]:
        rows: QuerySet[User] = super().get_queryset(request)
        return rows.prefetch_related("groups")

    @column("roles")
    def roles(self, user: User) -> str:
        return ", ".join(sorted(group.name for group in user.groups.all())) or "-"

    def has_add_permission(self, request: HttpRequest) -> bool:
        return super().has_add_permission(request) and rights.is_administrator(request.user)

    def has_delete_permission(self, request: HttpRequest, obj: User | None = None) -> bool:
        return super().has_delete_permission(request, obj) and request.user.is_superuser and (obj is None or obj.pk != request.user.pk)

    def get_readonly_fields(self, request: HttpRequest, obj: User | None = None) -> tuple[str, ...]:
        always = ("last_login", "date_joined")
        if obj is None:
            return always
        if obj.pk == request.user.pk or not rights.is_administrator(request.user):
            return (*always, *RIGHTS)
        return always if obj.is_superuser else (*always, "is_superuser")  # given on the host alone; anybody's may be taken away

    def user_change_password(self, request: HttpRequest, id: str, form_url: str = "") -> HttpResponse:  # noqa: A002 - Django's name
        """Of others, by administrators; not of those who approve or administer: whoever could set
        these passwords would be two people. They use `manage.py changepassword`.
        """
        user = self.get_object(request, id)
        if user is not None and not may_set_password(request.user, user):
            raise PermissionDenied
        answer: HttpResponse = super().user_change_password(request, id, form_url)
        return answer

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        """Guarded roles that are new are taken out of what is saved, and proposed."""
        wanted, user = form.cleaned_data.get("groups"), form.instance
        proposed = []
        if wanted is not None:
            held = set(user.groups.values_list("name", flat=True))
            proposed = [group for group in wanted if group.name in GUARDED and group.name not in held]
            form.cleaned_data["groups"] = wanted.exclude(pk__in=[group.pk for group in proposed])
        super().save_related(request, form, formsets, change)
        for group in proposed:
            proposal = proposals.propose_grant(user, group.name, current())
            url = reverse("admin:base_proposal_change", args=[proposal.pk])
            text = format_html('The role {} waits for a second administrator: <a class="underline" href="{}">its page</a>.', group.name, url)
            messages.warning(request, text)


def may_set_password(person: Any, user: User) -> bool:
    """Whether a person may set another one's password at the desk."""
    guarded = user.is_superuser or user.groups.filter(name__in=GUARDED).exists()
    return user.pk != person.pk and not guarded and rights.is_administrator(person)


@admin.register(Group)
class GroupsAdmin(GroupAdmin, ModelAdmin):  # type: ignore[misc]  # unfold has no types
    """Django's own; the roles are made by `migrate` and stay as they are. A group gives its members
    rights, so that nobody edits one of their own.
    """

    def has_change_permission(self, request: HttpRequest, obj: Group | None = None) -> bool:
        if not super().has_change_permission(request, obj) or not rights.is_administrator(request.user):
            return False
        return obj is None or (obj.name not in NAMES and not request.user.groups.filter(pk=obj.pk).exists())

    def has_add_permission(self, request: HttpRequest) -> bool:
        return super().has_add_permission(request) and rights.is_administrator(request.user)

    def has_delete_permission(self, request: HttpRequest, obj: Group | None = None) -> bool:
        return self.has_change_permission(request, obj) and super().has_delete_permission(request, obj)
