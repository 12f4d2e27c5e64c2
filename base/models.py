"""What all rooms stand on, in the database."""

from django.db import models

from base.clock import ServiceNow
from base.desk.models import DeskAccount, DeskEvent, Grant, Proposal

__all__ = ["Candidate", "DeskAccount", "DeskEvent", "Grant", "Incarnation", "LeaderTerm", "Proposal"]


class Incarnation(models.Model):
    """One life of one process, from its start to its end. It beats once a second; who has ended
    holds no claim (design, section 6).
    """

    name = models.CharField(primary_key=True, max_length=80, help_text="host:pid:number, as claims and attempts name it.")
    role = models.CharField(max_length=20)
    host = models.CharField(max_length=64)
    pid = models.IntegerField()
    version = models.CharField(max_length=40)
    address = models.CharField(max_length=80, blank=True, default="", db_default="", help_text="Where it listens, if it does.")
    started_at = models.DateTimeField(db_default=ServiceNow())
    beat_at = models.DateTimeField(db_default=ServiceNow())
    ended_at = models.DateTimeField(null=True, blank=True)
    end = models.CharField(max_length=10, blank=True, default="", db_default="", help_text="stopped, or dead: it went silent.")

    class Meta:
        indexes = [models.Index(fields=["beat_at"], condition=models.Q(ended_at__isnull=True), name="incarnation_alive")]

    def __str__(self) -> str:
        return self.name


class LeaderTerm(models.Model):
    """One row: who leads, and under which number. Only the current term's writes are accepted
    (base/fence.py; design, rule 10).
    """

    id = models.SmallIntegerField(primary_key=True, default=1, db_default=1)
    term = models.BigIntegerField(default=0, db_default=0, help_text="0: nobody has led yet.")
    leader = models.CharField(max_length=120, blank=True, default="", db_default="", help_text="host:pid:number of the process that took it.")
    previous = models.CharField(max_length=120, blank=True, default="", db_default="")
    since = models.DateTimeField(db_default=ServiceNow())
    reason = models.CharField(max_length=100, blank=True, default="", db_default="", help_text="Why it took over.")

    class Meta:
        constraints = [models.CheckConstraint(condition=models.Q(id=1), name="leaderterm_one_row")]

    def __str__(self) -> str:
        return f"term {self.term}: {self.leader or 'nobody'}"


class Candidate(models.Model):
    """One who stands for leadership by the lease in PostgreSQL. The leader's row is its lease: when
    it goes, or stands still, another takes over.

    Apart from `LeaderTerm`, whose row is locked by every write of a periodic job: a renewal would
    wait for them.
    """

    name = models.CharField(primary_key=True, max_length=120)
    beat_at = models.DateTimeField(db_default=ServiceNow())

    def __str__(self) -> str:
        return self.name


class Seal(models.Model):
    """What was appended to history since the seal before (ops/seals). Append-only: whoever rewrites
    history would have to write all later seals anew, and their roots are known outside.
    """

    number = models.BigIntegerField(primary_key=True)
    at = models.DateTimeField(db_default=ServiceNow())
    text = models.TextField(help_text="What it seals, and the root of the seal before: the exact text that is hashed.")
    root = models.CharField(max_length=64, help_text="SHA-256 of the text.")
    key = models.CharField(max_length=16, blank=True, default="", help_text="The name of the key that signed it; empty: none did.")
    signature = models.BinaryField(null=True)

    class Meta:
        default_permissions = ("view",)

    def __str__(self) -> str:
        return f"{self.number}:{self.root[:16]}"
