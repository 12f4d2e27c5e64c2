"""What all rooms stand on, in the database."""

from django.db import models

from base.clock import ServiceNow


class Incarnation(models.Model):
    """One life of one process, from its start to its end. It beats once a second; who has ended holds no claim (design, section 6)."""

    name = models.CharField(primary_key=True, max_length=80, help_text="host:pid:number, as claims and attempts name it.")
    role = models.CharField(max_length=20)
    host = models.CharField(max_length=64)
    pid = models.IntegerField()
    version = models.CharField(max_length=40)
    started_at = models.DateTimeField(db_default=ServiceNow())
    beat_at = models.DateTimeField(db_default=ServiceNow())
    ended_at = models.DateTimeField(null=True, blank=True)
    end = models.CharField(max_length=10, blank=True, default="", db_default="", help_text="stopped, or dead: it went silent.")

    class Meta:
        indexes = [models.Index(fields=["beat_at"], condition=models.Q(ended_at__isnull=True), name="incarnation_alive")]

    def __str__(self) -> str:
        return self.name
