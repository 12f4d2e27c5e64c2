"""The orders that the counter wrote, as we hold them, and what intake remembers."""

from datetime import UTC, datetime
from decimal import Decimal

from django.db import models

from base.clock import ServiceNow


class Direction(models.TextChoices):
    OPEN = "OPEN"  # the user paid USDT for an option
    CLOSE = "CLOSE"  # the user sold the option back


class Source(models.TextChoices):
    KAFKA = "kafka"
    GAP = "gap"
    REPLAY = "replay"
    RESTORE = "restore"


class SyncOrder(models.Model):
    """Our copy of a row of the counter's sync-order table; never changed after its insert, but for
    `late`.
    """

    id = models.BigAutoField(primary_key=True)
    order_id = models.CharField(max_length=64, unique=True)
    user_id = models.CharField(max_length=64)
    shard = models.IntegerField()
    sequence = models.BigIntegerField()
    contract_id = models.CharField(max_length=64)
    direction = models.CharField(max_length=5, choices=Direction)
    asset = models.CharField(max_length=8)
    quantity = models.DecimalField(max_digits=36, decimal_places=18)
    quoted_usdt = models.DecimalField("quoted USDT", max_digits=36, decimal_places=18)
    instrument = models.CharField(max_length=64)
    created_ms = models.BigIntegerField("created at the counter", help_text="Milliseconds since the epoch, UTC, from the row's own column.")
    source = models.CharField(max_length=8, choices=Source)
    topic = models.CharField(max_length=249, blank=True, default="")
    partition = models.IntegerField(null=True, blank=True)
    offset = models.BigIntegerField(null=True, blank=True)
    received_at = models.DateTimeField(db_default=ServiceNow())
    canonical_hash = models.CharField(max_length=64, help_text="SHA-256 of the mapped, canonical fields (design, rule 2).")
    kind = models.CharField(
        max_length=64, blank=True, default="", db_default="", help_text="As the counter names it; empty of orders from before it was kept."
    )
    mac = models.CharField("MAC", max_length=64, blank=True, default="", db_default="", help_text="The counter's proof that it wrote the row.")
    mac_key_id = models.CharField("MAC's key", max_length=64, blank=True, default="", db_default="")
    late = models.BooleanField(default=False, db_default=False, help_text="Older than an order of its user that had already started.")

    class Meta:
        constraints = [
            models.CheckConstraint(condition=models.Q(quantity__gt=0), name="syncorder_quantity_positive"),
            models.CheckConstraint(condition=models.Q(quoted_usdt__gt=0), name="syncorder_quoted_usdt_positive"),
            models.CheckConstraint(condition=models.Q(direction__in=["OPEN", "CLOSE"]), name="syncorder_direction_known"),
        ]
        indexes = [
            models.Index(fields=["shard", "created_ms"], name="syncorder_shard_created"),
            models.Index(fields=["user_id", "created_ms"], name="syncorder_user_created"),
        ]

    def __str__(self) -> str:
        return self.order_id

    @property
    def price(self) -> Decimal:
        """The quoted price, USDT per coin."""
        return self.quoted_usdt / self.quantity


class Quarantined(models.Model):
    """A message that can't be read or isn't trusted, kept whole until it is replayed."""

    id = models.BigAutoField(primary_key=True)
    topic = models.CharField(max_length=249)
    partition = models.IntegerField()
    offset = models.BigIntegerField()
    message_hash = models.CharField(max_length=64, help_text="SHA-256 of the bytes.")
    message = models.BinaryField(null=True, help_text="The bytes; of a message with several rows the order's own one.")
    source = models.CharField(max_length=8, choices=Source)
    reason = models.CharField(max_length=64, help_text="A code: unreadable, refused:…, contents_differ, database_refused.")
    detail = models.TextField(blank=True, default="")
    order_id = models.CharField(max_length=64, blank=True, default="")
    contents_hash = models.CharField(max_length=64, blank=True, default="", db_default="", help_text="SHA-256 of the contents that it tells, if any.")
    quarantined_at = models.DateTimeField(db_default=ServiceNow())
    replayed_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        verbose_name = "quarantined message"
        constraints = [
            models.UniqueConstraint(fields=["topic", "partition", "offset", "message_hash", "order_id"], name="quarantined_once"),
        ]
        indexes = [
            models.Index(fields=["reason", "-quarantined_at"], name="quarantined_reason"),
            models.Index(fields=["replayed_at"], condition=models.Q(replayed_at__isnull=False), name="quarantined_replayed"),
            models.Index(fields=["message_hash"], name="quarantined_message"),
            models.Index(fields=["order_id"], condition=models.Q(replayed_at=None), name="quarantined_order"),  # asked for each accepted order
        ]

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}@{self.offset}: {self.reason}"


class FirstStart(models.Model):
    """Since when this database accepts orders (design, rule 15): without a row that has
    `started_at`, a database that holds no order accepts none. `manage.py first_start` writes it;
    the migration does where orders exist.

    Where Kafka has seen our group before, it is a request that a second person confirms.
    """

    id = models.BigAutoField(primary_key=True)
    since_ms = models.BigIntegerField("since", help_text="Older orders aren't accepted: milliseconds of the counter's clock.")
    code = models.CharField(max_length=16, unique=True, help_text="By which a request is confirmed.")
    needs_two = models.BooleanField(default=False, help_text="Our group has committed offsets: another database was used before.")
    requested_by = models.CharField(max_length=150)
    requested_by_id = models.BigIntegerField(null=True, blank=True, help_text="The user's primary key: a name may be changed.")
    requested_at = models.DateTimeField(db_default=ServiceNow())
    confirmed_by = models.CharField(max_length=150, blank=True, default="")
    confirmed_by_id = models.BigIntegerField(null=True, blank=True)
    started_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=models.Q(started_at=None)
                | models.Q(needs_two=False)
                | models.Q(confirmed_by_id__isnull=False) & ~models.Q(confirmed_by_id=models.F("requested_by_id")),
                name="first_start_needs_two_people",
            ),
        ]

    def __str__(self) -> str:
        return f"orders since {datetime.fromtimestamp(self.since_ms / 1000, tz=UTC):%Y-%m-%d %H:%M:%S}"


class QuarantinedMessage(models.Model):
    """A message with several rows, kept whole, once for all of its rows that are in quarantine."""

    message_hash = models.CharField(max_length=64, primary_key=True, help_text="SHA-256 of the bytes.")
    message = models.BinaryField()
    kept_at = models.DateTimeField(db_default=ServiceNow())

    def __str__(self) -> str:
        return self.message_hash


class Watermark(models.Model):
    """How far a shard of the counter is known. Both in milliseconds of the counter's clock."""

    shard = models.IntegerField(primary_key=True)
    newest_ms = models.BigIntegerField(default=0, help_text="The newest order that we hold.")
    scanned_through_ms = models.BigIntegerField(default=0, help_text="Everything up to here was compared by a finished gap pass.")
    found_by_gap = models.BigIntegerField(default=0, help_text="Orders that only gap compensation brought.")
    scanned_at = models.DateTimeField(null=True, blank=True)

    def __str__(self) -> str:
        return f"shard {self.shard}"


class ReconcileRun(models.Model):
    """What comparing one shard with the counter's two tables found: of exchange orders created from
    `from_ms` up to, and without, `to_ms`.
    """

    id = models.BigAutoField(primary_key=True)
    at = models.DateTimeField(db_default=ServiceNow())
    shard = models.IntegerField()
    from_ms = models.BigIntegerField("from", help_text="Milliseconds of the counter's clock.")
    to_ms = models.BigIntegerField("to")
    ours = models.BigIntegerField(default=0, help_text="Orders that we held before anything was fetched.")
    sync_table = models.BigIntegerField("sync-order table", default=0)
    order_table = models.BigIntegerField("order table", default=0)
    minutes = models.IntegerField("minutes that differed", default=0)
    missing = models.BigIntegerField(default=0, help_text="Orders of either table that we didn't hold.")
    fetched = models.BigIntegerField(default=0, help_text="Those among the missing that we hold now.")
    no_sync_row = models.BigIntegerField("without a sync order", default=0, help_text="Orders that only the counter's order table has.")
    unknown = models.BigIntegerField("unknown there", default=0, help_text="Orders that we hold and neither table has.")
    order_ids = models.JSONField(default=dict, help_text="The orders meant, of each kind the first ones.")
    error = models.TextField(blank=True, default="", help_text="Why the shard couldn't be compared, or not wholly.")

    class Meta:
        verbose_name = "reconcile run"
        indexes = [models.Index(fields=["shard", "-id"], name="reconcilerun_shard"), models.Index(fields=["at"], name="reconcilerun_at")]

    def __str__(self) -> str:
        return f"shard {self.shard}, {self.at:%Y-%m-%d %H:%M}"

    @property
    def unresolved(self) -> int:
        """Orders that are still missing."""
        return self.missing - self.fetched

    @property
    def difference(self) -> int:
        """How many orders the three don't agree on."""
        return self.missing + self.unknown
