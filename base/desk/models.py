"""What the database knows of the people at the desk. People are named by the user's key and name,
without a foreign key: a record outlives its user.
"""

from django.db import models

from base.clock import ServiceNow


class DeskAccount(models.Model):
    """Since when a user's account and credentials are what they are. Written by triggers on
    `auth_user` (base/sql/03_desk.sql), whoever changes it and by whatever way.
    """

    user_id = models.BigIntegerField(primary_key=True)
    account_at = models.DateTimeField(help_text="When the account was made, or made active again.")
    credentials_at = models.DateTimeField(help_text="When its password or its second factor was last set.")

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return f"user {self.user_id}"


class Grant(models.Model):
    """A role that two people gave to a user, or that came from elsewhere. Membership of the group
    alone isn't enough: an approver or an administrator has a grant that hasn't ended, too.
    """

    class Source(models.TextChoices):
        DESK = "desk", "two administrators"
        PROVIDER = "provider", "the identity provider's claims"
        HOST = "host", "a command on the host"
        UPGRADE = "upgrade", "held before roles existed"

    id = models.BigAutoField(primary_key=True)
    user_id = models.BigIntegerField()
    username = models.CharField(max_length=150)
    role = models.CharField(max_length=20)
    source = models.CharField(max_length=8, choices=Source)
    granted_by = models.CharField(max_length=150, blank=True, default="", db_default="")
    granted_by_id = models.BigIntegerField(null=True, blank=True)
    confirmed_by = models.CharField(max_length=150, blank=True, default="", db_default="", help_text="The second administrator.")
    confirmed_by_id = models.BigIntegerField(null=True, blank=True)
    since = models.DateTimeField(db_default=ServiceNow())
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        default_permissions = ("view",)
        constraints = [
            models.UniqueConstraint(fields=["user_id", "role"], condition=models.Q(ended_at__isnull=True), name="grant_one_at_a_time"),
            models.CheckConstraint(
                condition=~models.Q(source="desk")
                | models.Q(granted_by_id__isnull=False, confirmed_by_id__isnull=False)
                & ~models.Q(granted_by_id=models.F("confirmed_by_id"))
                & ~models.Q(user_id=models.F("granted_by_id"))
                & ~models.Q(user_id=models.F("confirmed_by_id")),
                name="grant_needs_two_administrators",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.username}: {self.role}"


class Proposal(models.Model):
    """What one person proposes at the desk and a second one decides: a grant, an error policy, a
    retry of many orders. Interventions in one order are `clearing.Intervention`.
    """

    class Kind(models.TextChoices):
        GRANT = "grant", "Grant of a role"
        ERROR_POLICY = "error_policy", "Error policy"
        BULK_RETRY = "bulk_retry", "Retry of many orders"

    class State(models.TextChoices):
        REQUESTED = "requested", "waits for a second person"
        EXECUTED = "executed", "executed"
        REFUSED = "refused", "refused"
        EXPIRED = "expired", "expired"

    id = models.BigAutoField(primary_key=True)
    kind = models.CharField(max_length=12, choices=Kind)
    state = models.CharField(max_length=9, choices=State, default=State.REQUESTED, db_default=State.REQUESTED)
    summary = models.CharField(max_length=500, help_text="What will be done, in words.")
    contents = models.JSONField(help_text="What will be done: keys and values, old and new.")
    subject_id = models.BigIntegerField(null=True, blank=True, help_text="The user whom it is about.")
    reason = models.CharField(max_length=200)
    asked_by = models.CharField("requested by", max_length=150)
    asked_by_id = models.BigIntegerField()
    asked_at = models.DateTimeField("requested at", db_default=ServiceNow())
    expires_at = models.DateTimeField()
    decided_by = models.CharField(max_length=150, blank=True, default="", db_default="")
    decided_by_id = models.BigIntegerField(null=True, blank=True)
    decided_at = models.DateTimeField(null=True, blank=True)
    outcome = models.TextField(blank=True, default="", db_default="")

    class Meta:
        default_permissions = ("view",)
        constraints = [
            models.CheckConstraint(
                condition=~models.Q(state="executed") | models.Q(decided_by_id__isnull=False) & ~models.Q(decided_by_id=models.F("asked_by_id")),
                name="proposal_needs_two_people",
            ),
        ]
        indexes = [models.Index(fields=["expires_at"], condition=models.Q(state="requested"), name="proposal_waiting")]

    def __str__(self) -> str:
        return self.summary


class DeskEvent(models.Model):
    """What somebody did at the desk that the admin's own log doesn't tell: came in, was turned
    away, looked at an order, changed rights. Append-only.
    """

    id = models.BigAutoField(primary_key=True)
    at = models.DateTimeField(db_default=ServiceNow())
    kind = models.CharField(max_length=24)
    username = models.CharField(max_length=150, blank=True, default="", db_default="", help_text="As typed, of a sign-in that failed.")
    user_id = models.BigIntegerField(null=True, blank=True)
    address = models.CharField(max_length=45, blank=True, default="", db_default="", help_text="Where the request came from.")
    order_id = models.CharField(max_length=64, blank=True, default="", db_default="")
    detail = models.JSONField(default=dict, blank=True)

    class Meta:
        default_permissions = ("view",)
        indexes = [
            models.Index(fields=["username", "-id"], name="deskevent_user"),
            models.Index(fields=["order_id", "-id"], condition=~models.Q(order_id=""), name="deskevent_order"),
        ]

    def __str__(self) -> str:
        return f"{self.username or 'nobody'}: {self.kind}"
