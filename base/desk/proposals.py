"""What one person proposes and a second one decides, under the proposal's row lock and with both
people checked in the database (`base_decide`).
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from django.conf import settings
from django.contrib.auth.models import Group, User
from django.db import transaction

from base.clock import ServiceNow
from base.db import call
from base.desk import second_factor
from base.desk.actor import Actor
from base.desk.journal import note_and_tell
from base.desk.rights import REASONS, why_not_approve
from base.models import Grant, Proposal

PROBLEMS: Final = {
    "decided": "it was decided already",
    "expired": "nobody approved it in time: request it again",
    "same_person": "who requested it can't approve it",
    **REASONS,
}


class NotDecided(Exception):  # noqa: N818 - an answer to a person
    """The decision wasn't taken; `code` and the message say why."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is proposed: `contents` is what will be done, for the machine; `summary` the same in
    words.
    """

    kind: Proposal.Kind
    summary: str
    contents: dict[str, Any]
    reason: str
    subject_id: int | None = None


def propose(wanted: Wanted, person: Actor) -> Proposal:
    """Writes down what a second person is to decide; the same again is the one that waits."""
    if person.id is None:
        raise NotDecided("not_a_user", "only a user of the desk proposes")
    same = Proposal.objects.filter(
        state=Proposal.State.REQUESTED, kind=wanted.kind, contents=wanted.contents, asked_by_id=person.id, expires_at__gt=ServiceNow()
    )
    with transaction.atomic():
        found = same.first()
        if found is not None:
            return found
        proposal = Proposal.objects.create(
            kind=wanted.kind,
            summary=wanted.summary[:500],
            contents=wanted.contents,
            subject_id=wanted.subject_id,
            reason=wanted.reason,
            asked_by=person.name,
            asked_by_id=person.id,
            expires_at=ServiceNow() + timedelta(hours=settings.INTERVENTION_HOURS),
        )
        note_and_tell("proposed", "something waits for a second person", proposal=proposal.pk, kind=proposal.kind, summary=proposal.summary)
    return proposal


def decide(proposal: Proposal, *, approve: bool, person: Actor, reason: str = "") -> None:
    """Takes the decision; what was approved is executed by the caller in the same transaction.
    Raises NotDecided; the caller, whose transaction ends with it, notes a refused approval.
    """
    arguments = {"proposal": proposal.pk, "approve": approve, "person": person.name, "person_id": person.id, "reason": reason}
    problem = call("SELECT base_decide(%(proposal)s, %(approve)s, %(person)s, %(person_id)s, %(reason)s) AS problem", arguments)[0].problem
    if problem:
        text = why_not_approve(person.id)[1] if problem == "not_settled" else PROBLEMS[problem]
        raise NotDecided(problem, text)
    note_and_tell(
        "proposal_decided",
        "a second person decided",
        proposal=proposal.pk,
        kind=proposal.kind,
        summary=proposal.summary,
        asked_by=proposal.asked_by,
        approved=approve,
        reason=reason,
    )


def expire() -> int:
    """Ends what nobody decided in time. A refused decision can't: it is rolled back."""
    due = Proposal.objects.filter(state=Proposal.State.REQUESTED, expires_at__lte=ServiceNow())
    return due.update(state=Proposal.State.EXPIRED, decided_at=ServiceNow(), outcome="nobody decided it in time")


# --- grants ---------------------------------------------------------------------------------------


def propose_grant(user: User, role: str, person: Actor) -> Proposal:
    """Asks for a guarded role; a second administrator gives it."""
    wanted = Wanted(
        Proposal.Kind.GRANT,
        f"{user.get_username()} becomes {role}",
        {"user_id": user.pk, "username": user.get_username(), "role": role},
        "requested on the user's page",
        subject_id=user.pk,
    )
    return propose(wanted, person)


def execute_grant(proposal: Proposal, person: Actor) -> str:
    """Gives the role. A grant that is still open ends first: the new one settles anew. Raises
    NotDecided where a second factor is required and the user has none: whoever knows the account's
    first password would set it up.
    """
    user, role = User.objects.get(pk=proposal.contents["user_id"]), proposal.contents["role"]
    if settings.SECOND_FACTOR and second_factor.device_of(user) is None:
        raise NotDecided("no_second_factor", f"{user.get_username()} has to sign in and set up a second factor first")
    Grant.objects.filter(user_id=user.pk, role=role, ended_at__isnull=True).update(ended_at=ServiceNow())
    Grant.objects.create(
        user_id=user.pk,
        username=user.get_username(),
        role=role,
        source=Grant.Source.DESK,
        granted_by=proposal.asked_by,
        granted_by_id=proposal.asked_by_id,
        confirmed_by=person.name,
        confirmed_by_id=person.id,
    )
    user.groups.add(Group.objects.get(name=role))
    return f"{user.get_username()} is {role} now"
