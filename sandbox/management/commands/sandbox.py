"""`manage.py sandbox`: the three counterparties in one process, for development, tests and the
demo.
"""

import errno
import logging
import socket
from argparse import ArgumentParser, ArgumentTypeError, RawDescriptionHelpFormatter
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from sandbox.config import SandboxConfig
from sandbox.server import bind, serve

PORT_MAX = 65_535
BASIS_POINTS_MAX = 10_000
EXAMPLE = """example:
  manage.py sandbox --port 8100
  then COUNTER_URL=http://127.0.0.1:8100/counter FUND_URL=http://127.0.0.1:8100/fund TRADING_URL=http://127.0.0.1:8100/trading
exit code 0 after SIGTERM or SIGINT, 1 when it can't start, 2 for a wrong option, 78 for wrong settings"""


class Command(BaseCommand):
    help = "Serves counter, fund and trading under /counter, /fund and /trading, with faults and audit pages under /sandbox."
    requires_system_checks = []

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> Any:
        return super().create_parser(prog_name, subcommand, epilog=EXAMPLE, formatter_class=RawDescriptionHelpFormatter, **kwargs)

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
        parser.add_argument("--port", type=_port, default=settings.SANDBOX_PORT, help="0 takes a free one; default: SANDBOX_PORT, or 8100")
        parser.add_argument("--data", type=Path, default=settings.RUN_DIR / "sandbox", help="folder of the sandbox's database (%(default)s)")
        parser.add_argument(
            "--kafka",
            default=",".join(settings.KAFKA_BOOTSTRAP_SERVERS),
            help="bootstrap servers to publish the sync-order table's changes to; an empty text publishes nothing; default: KAFKA_BOOTSTRAP_SERVERS",
        )
        parser.add_argument("--seed", type=int, default=None, help="for the market's walk and the faults' dice")
        parser.add_argument("--spread-bps", type=_basis_points, default=Decimal(20), help="the counter's spread on the market price (%(default)s)")
        parser.add_argument("--volatility-bps", type=_basis_points, default=Decimal(2), help="the market's step each 100 ms, one sigma (%(default)s)")

    def handle(self, *args: Any, **options: Any) -> None:
        logging.getLogger("uvicorn").setLevel(logging.WARNING)
        logging.getLogger("kafka").setLevel(logging.CRITICAL)  # the publisher says once that Kafka is away, and when it is back
        listener = self._listen(options["host"], options["port"])
        config = SandboxConfig(
            data=options["data"],
            keys=settings.COUNTERPARTY_KEYS,
            intake_key=next(iter(settings.INTAKE_KEYS.items()), None),
            kafka_bootstrap=options["kafka"],
            kafka_topic=settings.KAFKA_TOPIC,
            seed=options["seed"],
            spread_bps=options["spread_bps"],
            volatility_bps=options["volatility_bps"],
        )
        host, port = listener.getsockname()[:2]
        self.stdout.write(f"sandbox listens on http://{host}:{port}, data in {config.data}, publishing to {config.kafka_bootstrap or 'nobody'}")
        self.stdout.flush()
        serve(config, listener)

    def _listen(self, host: str, port: int) -> socket.socket:
        try:
            return bind(host, port)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise CommandError(f"{host}:{port} is taken: stop what listens there, or choose another with --port") from error
            raise CommandError(f"can't listen on {host}:{port}: {error}") from error


def _port(text: str) -> int:
    """A port's number, 0 included."""
    if not text.isascii() or not text.isdigit() or int(text) > PORT_MAX:
        raise ArgumentTypeError(f"{text!r} isn't a port from 0 to {PORT_MAX}")
    return int(text)


def _basis_points(text: str) -> Decimal:
    """Hundredths of a percent, from 0 to 10000."""
    try:
        found = Decimal(text)
    except InvalidOperation:
        found = Decimal("NaN")
    if not found.is_finite() or not 0 <= found <= BASIS_POINTS_MAX:
        raise ArgumentTypeError(f"{text!r} isn't a number from 0 to {BASIS_POINTS_MAX}")
    return found
