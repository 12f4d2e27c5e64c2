"""`manage.py stack`: the embedded servers and the service's processes."""

import argparse
import json
import os
import shlex
from dataclasses import asdict
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from stack.errors import StackError
from stack.launcher import Stack
from stack.rundir import default_folder
from stack.services import Services

EXIT_NOT_RUNNING = 3  # as the LSB says of `status`
EXAMPLES = """examples:
  manage.py stack up                     PostgreSQL, Valkey and Kafka, each unless the environment names one
  eval "$(manage.py stack env)"          their addresses for your shell
  manage.py stack services up            what the Procfile lists; started again when it dies
  manage.py stack services up consumer   also after it stopped itself (exit code 78)
  manage.py stack services up worker.2   a second worker beside the first
  manage.py stack services replace       every process one by one, its successor first
  manage.py stack status --json
  manage.py stack down                   services first, then servers; data stay
"""


class Command(BaseCommand):
    help = "Starts, stops and shows the embedded servers (DATABASE_URL, BROKER_URL, KAFKA_BOOTSTRAP_SERVERS) and the service's processes."
    requires_system_checks = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.epilog = EXAMPLES
        parser.formatter_class = argparse.RawDescriptionHelpFormatter
        actions = parser.add_subparsers(dest="action", required=True, metavar="up|down|status|env|services")
        _with_json(actions.add_parser("up", help="start the servers that are down; wait until all answer"))
        actions.add_parser("down", help="stop services and servers")
        _with_json(actions.add_parser("status", help=f"show servers and services; exit code {EXIT_NOT_RUNNING} if a server is down"))
        _with_json(actions.add_parser("env", help="print the servers' addresses as shell exports"))
        services = actions.add_parser("services", help="the Procfile's processes")
        services.add_argument("what", choices=["up", "down", "restart", "replace", "status"])
        services.add_argument(
            "names", nargs="*", metavar="NAME", help="default: all (PROCESSES='worker=2' for more than one); worker.2 is a second one"
        )
        _with_json(services)

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            stack = Stack(default_folder(os.environ), os.environ)
            getattr(self, f"_{options['action']}")(stack, options)
        except StackError as error:
            raise CommandError(str(error), returncode=error.exit_code) from error

    def _up(self, stack: Stack, options: dict[str, Any]) -> None:
        stack.up()
        self._show(asdict(line) for line in stack.status()) if not options["json"] else self._print_json(stack.environment())

    def _down(self, stack: Stack, _options: dict[str, Any]) -> None:
        Services(stack).down()
        stack.down()

    def _status(self, stack: Stack, options: dict[str, Any]) -> None:
        servers, services = [asdict(line) for line in stack.status()], [asdict(line) for line in Services(stack).status()]
        if options["json"]:
            self._print_json({"servers": servers, "services": services})
        else:
            self._show([*servers, *services])
        if any(server["state"] in {"down", "silent"} for server in servers):
            raise SystemExit(EXIT_NOT_RUNNING)

    def _env(self, stack: Stack, options: dict[str, Any]) -> None:
        variables = stack.environment()
        if options["json"]:
            self._print_json(variables)
        else:
            self.stdout.write("\n".join(f"export {name}={shlex.quote(value)}" for name, value in variables.items()))

    def _services(self, stack: Stack, options: dict[str, Any]) -> None:
        services = Services(stack, counts=os.environ.get("PROCESSES", ""))
        actions = {"up": services.up, "down": services.down, "restart": services.restart, "replace": services.replace}
        if options["what"] in actions:
            actions[options["what"]](options["names"])
        lines = [asdict(line) for line in services.status()]
        self._print_json(lines) if options["json"] else self._show(lines)

    def _show(self, lines: Any) -> None:
        for line in lines:
            rest = [f"pid {line['pid']}"] if line["pid"] else []
            rest += [line["url"]] if line.get("url") else []
            rest += [f"restarts {line['restarts']}"] if line.get("restarts") else []
            rest += [f"last exit code {line['exit_code']}"] if line.get("exit_code") is not None else []
            self.stdout.write(f"{line['name']:<12} {line['state']:<12} {' '.join(rest)}".rstrip())

    def _print_json(self, value: Any) -> None:
        self.stdout.write(json.dumps(value, indent=2))


def _with_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")
