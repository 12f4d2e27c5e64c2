"""`manage.py consume_binlog`: from the binlog's topic into PostgreSQL, until SIGTERM."""

import argparse
import signal
import sys
import threading
from dataclasses import asdict
from functools import partial
from typing import Any

import structlog
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from base import metrics
from base.incarnation import registration
from base.signals import set_on_signal
from base.slot import held
from ops.liveness.stall import watched
from ops.wiring import ingest_from_kafka
from orders.intake.first_start import current_rules
from orders.stream.consumer import BinlogConsumer, connect
from orders.stream.progress import Progress

log = structlog.get_logger(__name__)

EPILOG = """examples:
  manage.py consume_binlog
  manage.py consume_binlog --group look-again --until-idle 3     reads the whole topic once more; known orders change nothing

It waits where its database holds no order and nobody has said yet since when it shall accept them: manage.py first_start.

exit codes:
  0   stopped by SIGTERM or SIGINT, or idle for long enough
  70  stuck in one call for CONSUMER_STALL_SECONDS_MAX (the threads' stacks are in its log): a supervisor starts it again, which is harmless
  75  another member of the group uses our KAFKA_INSTANCE_ID
  77  Kafka refuses our credentials or their rights
  78  too many bad messages: look at the quarantine, then start again; supervisors leave it stopped
"""


class Command(BaseCommand):
    help = "Reads the counter's orders from Kafka (KAFKA_TOPIC), stores each once with its clearing, and publishes it."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.epilog = EPILOG
        parser.formatter_class = argparse.RawDescriptionHelpFormatter
        parser.add_argument("--group", default=settings.KAFKA_GROUP, help="the consumer group (KAFKA_GROUP); a new one starts at the beginning")
        parser.add_argument("--until-idle", type=float, metavar="SECONDS", help="end once nothing came for so long")

    def handle(self, *args: Any, **options: Any) -> None:
        stopping = threading.Event()
        set_on_signal(stopping, signal.SIGTERM, signal.SIGINT)
        try:
            metrics.serve_if_configured()
        except OSError as error:
            raise CommandError(
                f"METRICS_PORT {settings.METRICS_PORT} can't be listened on ({error.strerror}): name a free one, or unset it"
            ) from error
        registration("consumer").start()
        log.info("consuming", topic=settings.KAFKA_TOPIC, group=options["group"], servers=settings.KAFKA_BOOTSTRAP_SERVERS)
        slot = f"{options['group']}/{settings.KAFKA_INSTANCE_ID}" if settings.KAFKA_INSTANCE_ID else ""
        with held(slot, stopping):  # a consumer that waits for its slot isn't stuck: its time runs from here on
            progress = Progress()
            intake = partial(ingest_from_kafka, after_transaction=progress.stamp)
            open_log = partial(connect, options["group"])
            consumer = BinlogConsumer(open_log, intake, current_rules, stopping, idle_seconds=options["until_idle"], progress=progress)
            with watched(progress):
                code = consumer.run()
        rows = {name: count for name, count in asdict(consumer.total).items() if isinstance(count, int)}
        log.info("consumer ended", exit_code=int(code), **rows)
        sys.exit(code)
