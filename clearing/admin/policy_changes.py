"""Changes of error policies: proposed by one operator, executed when a second person approves. A
policy decides whether a step is sent again, so that loosening one moves money, and a strict one can
park every order of an outage.
"""

from typing import Any

from django.core.exceptions import ValidationError
from django.forms.models import model_to_dict

from base.desk.actor import Actor
from base.desk.journal import note_and_tell
from base.desk.proposals import NotDecided, Wanted, propose
from base.models import Proposal
from clearing.models import ErrorPolicy


def values(policy: ErrorPolicy) -> dict[str, Any]:
    """What a policy says, its key left out."""
    return model_to_dict(policy, exclude=["id"])


def propose_change(policy: ErrorPolicy, person: Actor, *, delete: bool = False) -> Proposal:
    """Proposes the policy as it was typed, or its end; the stored one stays as it is."""
    stored = ErrorPolicy.objects.filter(pk=policy.pk).first() if policy.pk else None
    old, new = values(stored) if stored else None, None if delete else values(policy)
    changed = sorted(name for name in {**(old or {}), **(new or {})} if (old or {}).get(name) != (new or {}).get(name))
    what = "made" if old is None else "deleted" if new is None else f"changed ({', '.join(changed)})"
    return propose(
        Wanted(
            Proposal.Kind.ERROR_POLICY,
            f"The policy for {policy.counterparty}'s {policy.code} is {what}",
            {"policy": stored.pk if stored else None, "old": old, "new": new},
            policy.reason if not delete else "the policy ends",
        ),
        person,
    )


def execute(proposal: Proposal, _person: Actor) -> str:
    """Writes what was approved. Raises NotDecided where the policy has changed meanwhile, or can't
    be written.
    """
    contents = proposal.contents
    stored = ErrorPolicy.objects.select_for_update().filter(pk=contents["policy"]).first()
    if (values(stored) if stored else None) != contents["old"]:
        raise NotDecided("changed", "the policy changed since it was requested: request it again")
    if contents["new"] is None:
        ErrorPolicy.objects.filter(pk=contents["policy"]).delete()
        _record(proposal)
        return "deleted"
    policy = stored or ErrorPolicy()
    for name, value in contents["new"].items():
        setattr(policy, name, value)
    try:
        policy.full_clean()
    except ValidationError as error:
        raise NotDecided("refused", "; ".join(error.messages)) from error
    policy.save()
    _record(proposal)
    return "written"


def _record(proposal: Proposal) -> None:
    """Both values, by both people, in the record and outside."""
    old, new = proposal.contents["old"], proposal.contents["new"]
    note_and_tell("error_policy_changed", "an error policy was changed", asked_by=proposal.asked_by, proposal=proposal.pk, old=old, new=new)
