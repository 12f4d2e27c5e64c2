"""The status table and its history. Written through `clearing/store.py` alone; the admin reads."""

from django.db import models
from django.db.models import F, Q

from base.clock import ServiceNow
from clearing.status import ACTIVE, DUE, InterventionKind, InterventionState, OperationState, Outcome, State
from orders.models import SyncOrder


class Clearing(models.Model):
    """Our run of the four steps for one order."""

    id = models.BigAutoField(primary_key=True)
    order = models.OneToOneField(SyncOrder, models.PROTECT, related_name="clearing")
    user_id = models.CharField(max_length=64)
    contract_id = models.CharField(max_length=64)
    created_ms = models.BigIntegerField(help_text="The order's time at the counter; with shard and sequence, its place in the user's lane.")
    shard = models.IntegerField()
    sequence = models.BigIntegerField()
    flow = models.SmallIntegerField(help_text="The version of the flow that it runs by, to its end.")
    state = models.CharField(max_length=8, choices=State, default=State.WAITING, db_default=State.WAITING)
    step = models.SmallIntegerField(default=1, db_default=1)
    epoch = models.IntegerField(default=0, db_default=0, help_text="Raised at every transition into queued; a claim inherits it.")
    restored = models.BooleanField(
        default=False, db_default=False, help_text="It may have been run before a restore of the database: each step is asked for first."
    )
    lane = models.SmallIntegerField(help_text="The number of the queue that its user is folded onto.")
    broker_generation = models.CharField(max_length=32, blank=True, default="", db_default="")
    queued_at = models.DateTimeField(null=True, blank=True)
    sends = models.SmallIntegerField(default=0, db_default=0, help_text="How often the sweep sent its message again since it was queued.")
    claimed_by = models.CharField(max_length=80, blank=True, default="", db_default="")
    claimed_until = models.DateTimeField(null=True, blank=True)
    due_at = models.DateTimeField(null=True, blank=True)
    attempts = models.IntegerField(default=0, db_default=0, help_text="Attempts of the current operation that surely failed and count.")
    tries = models.IntegerField(default=0, db_default=0, help_text="Everything tried since the last progress, asked or sent: the backoff's.")
    error_code = models.CharField(max_length=64, blank=True, default="", db_default="")
    hold_code = models.CharField(max_length=64, blank=True, default="", db_default="")
    held_at = models.DateTimeField(null=True, blank=True, help_text="When the latest hold was set: a release refers to it.")
    slippage_usdt = models.DecimalField("slippage USDT", max_digits=36, decimal_places=8, null=True, blank=True)
    accepted_at = models.DateTimeField(db_default=ServiceNow())
    started_at = models.DateTimeField(null=True, blank=True)
    changed_at = models.DateTimeField(db_default=ServiceNow())
    cleared_at = models.DateTimeField(null=True, blank=True)
    reminded_at = models.DateTimeField(null=True, blank=True, help_text="When people were last reminded that it waits for them.")

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["user_id"], condition=Q(state__in=ACTIVE), name="clearing_one_active_per_user"),
            models.CheckConstraint(condition=Q(state__in=State.values), name="clearing_state_known"),
            models.CheckConstraint(condition=Q(step__gte=1, step__lte=4), name="clearing_step_in_flow"),
            models.CheckConstraint(condition=~Q(state=State.RUNNING) | Q(claimed_until__isnull=False), name="clearing_running_is_claimed"),
            models.CheckConstraint(condition=~Q(state__in=DUE) | Q(due_at__isnull=False), name="clearing_due_has_time"),
            models.CheckConstraint(condition=~Q(state=State.PARKED) | ~Q(error_code=""), name="clearing_parked_says_why"),
        ]
        # Partial, so that every sweep is independent of how many rows are finished; and none over what changes from step to step while
        # running (step, claimed_until, changed_at), so that PostgreSQL updates the row in its page alone (HOT).
        indexes = [
            models.Index(fields=["user_id", "created_ms", "shard", "sequence"], condition=Q(state=State.WAITING), name="clearing_waiting"),
            models.Index(fields=["lane", "queued_at"], condition=Q(state=State.QUEUED), name="clearing_queued"),
            models.Index(fields=["user_id"], condition=Q(state=State.RUNNING), name="clearing_running"),
            models.Index(fields=["due_at"], condition=Q(state__in=DUE), name="clearing_due"),
            models.Index(fields=["user_id", "contract_id"], condition=Q(state=State.PARKED), name="clearing_parked"),
            models.Index(F("reminded_at").asc(nulls_first=True), condition=Q(state=State.PARKED), name="clearing_reminder"),
            models.Index(fields=["state", "created_ms"], condition=~Q(state=State.CLEARED), name="clearing_unfinished"),
            models.Index(F("cleared_at").desc(), condition=Q(state=State.CLEARED), name="clearing_cleared"),
            models.Index(fields=["user_id", "-created_ms"], name="clearing_user"),
        ]

    def __str__(self) -> str:
        return f"{self.order.order_id}: {self.state} at step {self.step}"


class RestorePoint(models.Model):
    """The database was restored from a backup: what it doesn't know of orders up to here may have been done already (docs/decisions/0007)."""

    id = models.BigAutoField(primary_key=True)
    at = models.DateTimeField(db_default=ServiceNow())
    through_ms = models.BigIntegerField(help_text="Orders created up to here, milliseconds of the counter's clock, are asked for first.")
    reason = models.CharField(max_length=200)
    actor = models.CharField(max_length=150)
    database = models.CharField(
        max_length=64, default="", db_default="", help_text="The database that it was said of: another one holds it as part of its backup."
    )

    def __str__(self) -> str:
        return f"restored {self.at:%Y-%m-%d %H:%M}"


class Operation(models.Model):
    """One of the calls of a clearing, with its own idempotency key; written down before its first call."""

    id = models.BigAutoField(primary_key=True)
    clearing = models.ForeignKey(Clearing, models.PROTECT, related_name="operations", db_index=False)
    step = models.SmallIntegerField()
    part = models.SmallIntegerField(default=1, db_default=1)
    revision = models.SmallIntegerField(default=0, db_default=0)
    counterparty = models.CharField(max_length=8)
    action = models.CharField(max_length=8, help_text="adjust, transfer or exchange.")
    key = models.CharField(max_length=100, help_text="Idempotency key: {order_id}:{step}[.{part}][:r{n}].")
    request = models.BinaryField(help_text="The exact bytes; a repeat sends the same.")
    state = models.CharField(max_length=8, choices=OperationState, default=OperationState.PLANNED, db_default=OperationState.PLANNED)
    first_sent_at = models.DateTimeField(null=True, blank=True)
    done_at = models.DateTimeField(null=True, blank=True)
    response = models.BinaryField(null=True)
    error_code = models.CharField(max_length=64, blank=True, default="", db_default="")

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["clearing", "step", "part", "revision"], name="operation_once"),
            models.UniqueConstraint(fields=["key"], name="operation_key_once"),
            models.CheckConstraint(condition=Q(state__in=OperationState.values), name="operation_state_known"),
        ]

    def __str__(self) -> str:
        return self.key


class Attempt(models.Model):
    """One try to make an operation's call, with its evidence. Append-only."""

    id = models.BigAutoField(primary_key=True)
    operation = models.ForeignKey(Operation, models.PROTECT, related_name="tries")
    epoch = models.IntegerField()
    worker = models.CharField(max_length=80)
    asked = models.BooleanField(default=False, db_default=False, help_text="A status query by key, not the call itself.")
    sent_at = models.DateTimeField()
    answered_at = models.DateTimeField(db_default=ServiceNow())
    outcome = models.CharField(max_length=9, choices=Outcome)
    code = models.CharField(max_length=64, blank=True, default="", db_default="")
    detail = models.TextField(blank=True, default="", db_default="")
    response = models.BinaryField(null=True)

    class Meta:
        constraints = [models.CheckConstraint(condition=Q(outcome__in=Outcome.values), name="attempt_outcome_known")]

    def __str__(self) -> str:
        return f"{self.operation_id} by {self.worker}: {self.outcome}"


class StatusChange(models.Model):
    """One change of a clearing, written in the same transaction as the change. Append-only."""

    id = models.BigAutoField(primary_key=True)
    clearing = models.ForeignKey(Clearing, models.PROTECT, related_name="history")
    from_state = models.CharField(max_length=8, blank=True, help_text="Empty: accepted.")
    to_state = models.CharField(max_length=8)
    step = models.SmallIntegerField()
    epoch = models.IntegerField()
    reason = models.CharField(max_length=200, blank=True, default="", db_default="")
    actor = models.CharField(max_length=330, help_text="A process, a person, or who asked and who approved.")
    at = models.DateTimeField(db_default=ServiceNow())

    def __str__(self) -> str:
        return f"{self.from_state or 'new'} → {self.to_state}"


class Intervention(models.Model):
    """What a person asked for, on what grounds, who approved it, and what became of it (docs/decisions/0012). Never deleted.

    It refers to the clearing as it was when it was asked for: `epoch`, `operation` and its state, the hold. Had any of these changed, it fails.
    """

    id = models.BigAutoField(primary_key=True)
    clearing = models.ForeignKey(Clearing, models.PROTECT, related_name="interventions")
    kind = models.CharField(max_length=16, choices=InterventionKind)
    state = models.CharField(max_length=9, choices=InterventionState, default=InterventionState.REQUESTED, db_default=InterventionState.REQUESTED)
    epoch = models.IntegerField()
    operation = models.ForeignKey(Operation, models.PROTECT, related_name="+", db_index=False)
    operation_state = models.CharField(max_length=8, choices=OperationState)
    held_at = models.DateTimeField(null=True, blank=True)
    reason = models.CharField(max_length=200)
    reference = models.CharField(max_length=200, blank=True, db_default="", help_text="The counterparty's own, of what it did.")
    amount = models.DecimalField(max_digits=36, decimal_places=18, null=True, blank=True, help_text="Of a transfer; of an exchange, what was sold.")
    bought = models.DecimalField(max_digits=36, decimal_places=18, null=True, blank=True)
    min_lot = models.DecimalField(max_digits=36, decimal_places=18, null=True, blank=True)
    document = models.TextField(blank=True, db_default="", help_text="Where the evidence lies, or what it says.")
    asked_by = models.CharField(max_length=150)
    asked_by_id = models.BigIntegerField(null=True, blank=True, help_text="The user's key: a name may be changed.")
    asked_at = models.DateTimeField(db_default=ServiceNow())
    expires_at = models.DateTimeField()
    decided_by = models.CharField(max_length=150, blank=True, db_default="")
    decided_at = models.DateTimeField(null=True, blank=True)
    outcome = models.CharField(max_length=500, blank=True, db_default="")
    bookings = models.JSONField(default=list, blank=True, help_text="What people must book by hand after a void.")

    class Meta:
        permissions = [("approve_intervention", "Can approve an intervention")]
        constraints = [
            models.CheckConstraint(condition=Q(kind__in=InterventionKind.values), name="intervention_kind_known"),
            models.CheckConstraint(condition=Q(state__in=InterventionState.values), name="intervention_state_known"),
            models.CheckConstraint(
                condition=Q(kind=InterventionKind.RETRY) | ~Q(state=InterventionState.EXECUTED) | ~Q(decided_by="") & ~Q(decided_by=F("asked_by")),
                name="intervention_needs_two_people",
            ),
            models.UniqueConstraint(fields=["clearing"], condition=Q(state=InterventionState.REQUESTED), name="intervention_one_waiting"),
        ]
        indexes = [models.Index(fields=["expires_at"], condition=Q(state=InterventionState.REQUESTED), name="intervention_waiting")]

    def __str__(self) -> str:
        return f"{self.clearing.order.order_id}: {self.get_kind_display()}"
