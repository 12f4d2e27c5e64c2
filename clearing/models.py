"""The status table, its history, and what operators decide. Whatever belongs to a clearing is
written by `clearing/store/` alone; error policies by the admin, counterparties' states by
`clearing/gateways/counterparty_state.py`.
"""

from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import F, Q

from base.clock import ServiceNow
from clearing.policy.error_policies import POLICY_OUTCOMES, refusals
from clearing.status import ACTIVE, DUE, Breaker, InterventionKind, InterventionState, OperationState, Outcome, State
from orders.models import SyncOrder

COUNTERPARTIES = [(name, name) for name in ("counter", "fund", "trading")]


def stored_permissions(stored: str, shown: str) -> tuple[tuple[str, str], ...]:
    """Django's four permissions of a model, under the name that they are stored by."""
    return tuple((f"{action}_{stored}", f"Can {action} {shown}") for action in ("add", "change", "delete", "view"))


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
        default=False,
        db_default=False,
        help_text="It may have been run before a restore of the database: each step starts with a status query by its key.",
    )
    lane = models.SmallIntegerField(help_text="The number of the queue for its user.")
    broker_generation = models.CharField(max_length=32, blank=True, default="", db_default="")
    queued_at = models.DateTimeField(null=True, blank=True)
    sends = models.SmallIntegerField(default=0, db_default=0, help_text="How often the sweep has sent its message again since it was queued.")
    claimed_by = models.CharField(max_length=80, blank=True, default="", db_default="")
    claimed_until = models.DateTimeField(null=True, blank=True)
    due_at = models.DateTimeField(null=True, blank=True)
    attempts = models.IntegerField(default=0, db_default=0, help_text="Attempts of the current operation that certainly failed.")
    tries = models.IntegerField(default=0, db_default=0, help_text="Calls and status queries since the last progress; the backoff grows with them.")
    tried_since = models.DateTimeField(null=True, blank=True, help_text="When the first of these calls or queries was made.")
    deaths = models.SmallIntegerField(default=0, db_default=0, help_text="Workers that died while running it, since the last result.")
    waits_for = models.CharField(
        max_length=10, blank=True, default="", db_default="", help_text="counterparty:step that it is due for, until a worker claims it."
    )
    error_code = models.CharField(max_length=64, blank=True, default="", db_default="")
    hold_code = models.CharField(max_length=64, blank=True, default="", db_default="")
    held_at = models.DateTimeField(null=True, blank=True, help_text="When the latest hold was set; a release refers to it.")
    slippage_usdt = models.DecimalField("slippage USDT", max_digits=36, decimal_places=8, null=True, blank=True)
    surplus = models.DecimalField(
        max_digits=36, decimal_places=18, null=True, blank=True, help_text="Bought less owed, in the asset bought; negative: missing."
    )
    dust = models.DecimalField(max_digits=36, decimal_places=18, null=True, blank=True, help_text="Not sold, in the asset sold; stays in the fund.")
    accepted_at = models.DateTimeField(db_default=ServiceNow())
    started_at = models.DateTimeField(null=True, blank=True)
    changed_at = models.DateTimeField(db_default=ServiceNow())
    cleared_at = models.DateTimeField(null=True, blank=True)
    reminded_at = models.DateTimeField(null=True, blank=True, help_text="When operators were last reminded that it waits for them.")

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["user_id"], condition=Q(state__in=ACTIVE), name="clearing_one_active_per_user"),
            models.CheckConstraint(condition=Q(state__in=State.values), name="clearing_state_known"),
            models.CheckConstraint(condition=Q(step__gte=1, step__lte=4), name="clearing_step_in_flow"),
            models.CheckConstraint(condition=~Q(state=State.RUNNING) | Q(claimed_until__isnull=False), name="clearing_running_is_claimed"),
            models.CheckConstraint(condition=~Q(state__in=DUE) | Q(due_at__isnull=False), name="clearing_due_has_time"),
            models.CheckConstraint(condition=~Q(state=State.PARKED) | ~Q(error_code=""), name="clearing_parked_says_why"),
        ]
        # Partial, so that every sweep is independent of how many rows are finished; and none over
        # what changes from step to step while running (step, claimed_until, changed_at), so that
        # PostgreSQL updates the row in its page alone (HOT).
        indexes = [
            models.Index(fields=["user_id", "created_ms", "shard", "sequence"], condition=Q(state=State.WAITING), name="clearing_waiting"),
            models.Index(fields=["lane", "queued_at"], condition=Q(state=State.QUEUED), name="clearing_queued"),
            models.Index(fields=["user_id"], condition=Q(state=State.RUNNING), name="clearing_running"),
            models.Index(fields=["waits_for", "due_at"], condition=Q(state__in=DUE), name="clearing_due"),
            models.Index(fields=["waits_for"], condition=Q(state=State.QUEUED) & ~Q(waits_for=""), name="clearing_redispatched"),
            models.Index(fields=["user_id", "contract_id"], condition=Q(state=State.PARKED), name="clearing_parked"),
            models.Index(F("reminded_at").asc(nulls_first=True), condition=Q(state=State.PARKED), name="clearing_reminder"),
            models.Index(fields=["state", "created_ms"], condition=~Q(state=State.CLEARED), name="clearing_unfinished"),
            models.Index(fields=["error_code"], condition=~Q(state=State.CLEARED) & ~Q(error_code=""), name="clearing_error_code"),
            models.Index(F("cleared_at").desc(), condition=Q(state=State.CLEARED), name="clearing_cleared"),
            models.Index(fields=["user_id", "-created_ms"], name="clearing_user"),
        ]

    def __str__(self) -> str:
        return f"{self.order.order_id}: {self.state} at step {self.step}"


class UserDay(models.Model):
    """What a user's orders of one day move in all, UTC, by when they were accepted (design, rule
    13). One row a user: the next day's first order begins it anew.
    """

    user_id = models.CharField(max_length=64, primary_key=True)
    day = models.DateField()
    usdt = models.DecimalField(max_digits=60, decimal_places=18, help_text="Quoted, both directions; without what the bound of one order parked.")

    def __str__(self) -> str:
        return f"{self.user_id}, {self.day}"


class StartedUsdt(models.Model):
    """What began to move between two passes of the leader; kept a minute (design, rule 13)."""

    id = models.BigAutoField(primary_key=True)
    at = models.DateTimeField()
    usdt = models.DecimalField(max_digits=60, decimal_places=18)
    through_id = models.BigIntegerField(help_text="The last row of the history that was read.")

    def __str__(self) -> str:
        return f"{self.usdt} at {self.at:%H:%M:%S}"


class RestorePoint(models.Model):
    """The database was restored from a backup: what it doesn't know of orders up to here may have
    been done already (docs/decisions/0007).
    """

    id = models.BigAutoField(primary_key=True)
    at = models.DateTimeField(db_default=ServiceNow())
    through_ms = models.BigIntegerField(
        help_text="Orders created up to here, milliseconds of the counter's clock, start each step with a status query."
    )
    reason = models.CharField(max_length=200)
    actor = models.CharField(max_length=150)
    database = models.CharField(
        max_length=64, default="", db_default="", help_text="The database that was restored; another one has this row as part of its backup."
    )

    def __str__(self) -> str:
        return f"restored {self.at:%Y-%m-%d %H:%M}"


class VoidedBefore(models.Model):
    """An order that operators voided in the time that a restore has forgotten, as listed by the
    operator who restored: it is put on hold when it is accepted again (docs/decisions/0007).
    """

    id = models.BigAutoField(primary_key=True)
    order_id = models.CharField(max_length=64, unique=True)
    at = models.DateTimeField(db_default=ServiceNow())
    actor = models.CharField(max_length=150)
    released_at = models.DateTimeField(null=True, blank=True, help_text="When two operators released its hold: it wasn't voided after all.")

    def __str__(self) -> str:
        return self.order_id


class Operation(models.Model):
    """One of the calls of a clearing, with its own idempotency key; written down before its first
    call.
    """

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
    actor = models.CharField(max_length=330, help_text="A process, an operator, or the two operators who requested and approved.")
    at = models.DateTimeField(db_default=ServiceNow())

    def __str__(self) -> str:
        return f"{self.from_state or 'new'} → {self.to_state}"


class Intervention(models.Model):
    """An operator's request with its evidence, the operator who approved it, and its outcome
    (docs/decisions/0012). Never deleted.

    It refers to the clearing as it was when it was requested: `epoch`, `operation` and its state,
    the hold. If any of these has changed, it fails.
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
    reference = models.CharField(max_length=200, blank=True, db_default="", help_text="The counterparty's own reference for what it did.")
    amount = models.DecimalField(
        max_digits=36, decimal_places=18, null=True, blank=True, help_text="The amount transferred; of an exchange, the amount sold."
    )
    bought = models.DecimalField(max_digits=36, decimal_places=18, null=True, blank=True)
    min_lot = models.DecimalField(max_digits=36, decimal_places=18, null=True, blank=True)
    document = models.TextField(blank=True, db_default="", help_text="Where the evidence is recorded, or its words.")
    asked_by = models.CharField("requested by", max_length=150)
    asked_by_id = models.BigIntegerField(null=True, blank=True, help_text="The user's primary key: a name may be changed.")
    asked_at = models.DateTimeField("requested at", db_default=ServiceNow())
    expires_at = models.DateTimeField()
    decided_by = models.CharField(max_length=150, blank=True, db_default="")
    decided_at = models.DateTimeField(null=True, blank=True)
    outcome = models.CharField(max_length=500, blank=True, db_default="")
    bookings = models.JSONField(default=list, blank=True, help_text="The bookings to be made by hand after a void.")

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


class ErrorPolicy(models.Model):
    """What operators decided about an error of a counterparty, on top of the table in
    `clearing/policy/outcomes.py`. An empty field leaves the default.
    """

    id = models.BigAutoField(primary_key=True)
    counterparty = models.CharField(max_length=8, choices=COUNTERPARTIES)
    code = models.CharField(max_length=64, help_text="The error code as attempts show it: timeout, status_503, insufficient_funds, …")
    outcome = models.CharField(
        "class",
        max_length=9,
        blank=True,
        default="",
        db_default="",
        choices=[(outcome.value, outcome.label) for outcome in POLICY_OUTCOMES],
        help_text="May only be less certain than the built-in class: unknown means a status query by key before anything is sent again.",
    )
    attempts_max = models.PositiveIntegerField(
        "attempts", null=True, blank=True, help_text="Certain failures before the order parks; empty: CLEARING_ATTEMPTS_MAX."
    )
    backoff_base_ms = models.PositiveIntegerField("backoff from, ms", null=True, blank=True, help_text="Empty: RETRY_BASE_MS.")
    backoff_cap_ms = models.PositiveIntegerField("backoff up to, ms", null=True, blank=True, help_text="Empty: RETRY_CAP_MS.")
    deadline_seconds = models.PositiveIntegerField(
        "deadline, s",
        null=True,
        blank=True,
        help_text="Since the operation's first attempt; then the order parks, and an unknown outcome stays unknown.",
    )
    reason = models.CharField(max_length=200, help_text="Why this policy exists, for whoever reads it next year.")

    class Meta:
        verbose_name_plural = "error policies"
        constraints = [models.UniqueConstraint(fields=["counterparty", "code"], name="policy_once")]

    def __str__(self) -> str:
        return f"{self.counterparty}: {self.code}"

    def clean(self) -> None:
        """Raises ValidationError for what the table doesn't allow."""
        problems = refusals(self.code, self.outcome, self.attempts_max, self.backoff_base_ms, self.backoff_cap_ms, self.deadline_seconds)
        if problems:
            raise ValidationError(problems)


class CounterpartyState(models.Model):
    """The shared state of a counterparty: its circuit breaker, its Retry-After and its rate limit's
    tokens. A missing row counts as a closed breaker. Written by
    `clearing/gateways/counterparty_state.py`.

    Table, permissions and admin addresses keep the name that the model had first, `standing`:
    groups hold these permissions, and the release before runs beside this one.
    """

    name = models.CharField(max_length=8, primary_key=True, choices=COUNTERPARTIES)
    breaker = models.CharField(max_length=9, choices=Breaker, default=Breaker.CLOSED, db_default=Breaker.CLOSED)
    cause = models.CharField(max_length=64, blank=True, default="", db_default="", help_text="The code of what opened its breaker.")
    refuses = models.BooleanField(default=False, db_default=False, help_text="It refuses our signature or our rights.")
    changed_at = models.DateTimeField(db_default=ServiceNow())
    probe_at = models.DateTimeField(null=True, blank=True)
    failures = models.SmallIntegerField(default=0, db_default=0, help_text="Consecutive failed trials after a probe was answered.")
    quiet_until = models.DateTimeField(null=True, blank=True, help_text="Its Retry-After with a 429: no calls before.")
    busy_until = models.DateTimeField(
        null=True, blank=True, help_text="A worker found no free slot: until then the sweep dispatches only as many orders as slots are free."
    )
    tokens = models.FloatField(default=0, db_default=0, help_text="Calls that its rate limit allows now.")
    tokens_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        db_table = "clearing_standing"
        default_permissions = ()
        permissions = stored_permissions("standing", "counterparty")
        verbose_name = "counterparty"
        verbose_name_plural = "counterparties"
        constraints = [models.CheckConstraint(condition=Q(breaker__in=Breaker.values), name="standing_breaker_known")]

    def __str__(self) -> str:
        return self.name


class Pause(models.Model):
    """A counterparty, or one step, that an operator has paused, or the bound of a minute. While the
    row exists it gets no calls.
    """

    id = models.BigAutoField(primary_key=True)
    counterparty = models.CharField(max_length=8, choices=COUNTERPARTIES)
    step = models.SmallIntegerField(default=0, db_default=0, help_text="0: all of its steps.")
    code = models.CharField(max_length=64, blank=True, default="", db_default="", help_text="Of the bound that has set it; empty: an operator's.")
    reason = models.CharField(max_length=200)
    actor = models.CharField(max_length=150)
    at = models.DateTimeField(db_default=ServiceNow())

    class Meta:
        constraints = [models.UniqueConstraint(fields=["counterparty", "step"], name="pause_once")]

    def __str__(self) -> str:
        return f"{self.counterparty}{f', step {self.step}' if self.step else ''}"


class CounterpartyStateChange(models.Model):
    """One change of a counterparty's breaker or pauses, written in the same statement as the
    change. Append-only. Its stored name is `standingchange`.
    """

    id = models.BigAutoField(primary_key=True)
    counterparty = models.CharField(max_length=8)
    step = models.SmallIntegerField(default=0, db_default=0)
    change = models.CharField(max_length=9, help_text="open, half_open, closed; paused, resumed.")
    reason = models.CharField(max_length=200, blank=True, default="", db_default="")
    actor = models.CharField(max_length=150)
    at = models.DateTimeField(db_default=ServiceNow())

    class Meta:
        db_table = "clearing_standingchange"
        default_permissions = ()
        permissions = stored_permissions("standingchange", "change of a counterparty")
        verbose_name = "change of a counterparty"
        verbose_name_plural = "changes of counterparties"

    def __str__(self) -> str:
        return f"{self.counterparty}: {self.change}"
