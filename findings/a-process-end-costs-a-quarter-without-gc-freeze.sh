#!/usr/bin/env bash
# CPython 3.11 with Celery 5.7.0 and Django 5.2.19: of the CPU that a short command takes, the interpreter's
# end takes a quarter, and one call as its last statement, gc.freeze(), takes nearly all of that away.
#
# A command that imports both and does next to nothing goes on computing after its last line: the
# interpreter's finalisation collects garbage again and again over all that was imported, though the
# process is about to be gone with its memory. gc.freeze() is documented for what forks ("to avoid
# copies of memory"); that it makes a process end sooner isn't. Nothing is lost by it: exit handlers,
# buffers and threads end as before, unlike with os._exit(), and only reference cycles that are alive
# stay unfreed. A worker that is told to stop, too, is gone sooner, and a service whose recovery is the
# restart of a process has it back sooner.
#
# Seen, CPU time of a whole process, median of 9:
#   as it is 1.09 s, with gc.freeze() as the last statement 0.83 s, with os._exit(0) 0.79 s (which skips exit handlers)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python=$(command -v python3.11 || command -v python3)
"$python" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check celery==5.7.0 django==5.2.19
cat >"$folder/finding.py" <<'PY'
import platform
import resource
import statistics
import subprocess
import sys

START = """
import atexit, gc, os
import celery.apps.worker, celery.bin.celery, django
from django.conf import settings
settings.configure(INSTALLED_APPS=["django.contrib.admin", "django.contrib.auth", "django.contrib.contenttypes"])
django.setup()
import django.contrib.admin.options, django.test.client
atexit.register(print, "exit handler")
"""
ENDS = {"as it is": "", "gc.freeze()": "gc.freeze()", "os._exit(0)": "os._exit(0)"}


def cpu_seconds(end: str) -> tuple[float, str]:
    """(CPU time of one process, what it printed)."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ended = subprocess.run([sys.executable, "-c", START + end], stdout=subprocess.PIPE, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, ended.stdout.strip()


seen = {name: [] for name in ENDS}
for _ in range(9):
    for name, end in ENDS.items():
        seen[name].append(cpu_seconds(end))
took = {name: statistics.median(seconds for seconds, _ in runs) for name, runs in seen.items()}
printed = {name: runs[0][1] for name, runs in seen.items()}
print(f"Python {platform.python_version()}")
for name in ENDS:
    print(f"  {name:12} {took[name]:.2f} s; exit handler ran: {bool(printed[name])}")
finalisation, left = took["as it is"] - took["os._exit(0)"], took["gc.freeze()"] - took["os._exit(0)"]
print(f"  the interpreter's end: {finalisation:.2f} s, {finalisation / took['as it is']:.0%} of the process; with gc.freeze() {left:.2f} s")
ok = finalisation > 0.1 * took["as it is"] and left < 0.5 * finalisation and printed["gc.freeze()"] and not printed["os._exit(0)"]
sys.exit(0 if ok else "the behaviour has changed")
PY
"$folder/venv/bin/python" "$folder/finding.py"
