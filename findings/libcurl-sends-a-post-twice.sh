#!/usr/bin/env bash
# libcurl 8.23.0 by pycurl 7.49.0: a POST that the server has received whole is sent a second time, and
# the caller sees one success.
#
# A kept-alive connection that breaks before a byte of the answer has come makes libcurl send the
# request again on a new one, whatever its method: it takes the break for one that had happened
# before. The server here reads the second POST to its end (it might have booked it) and dies without
# an answer. perform() returns as if nothing had been, with status 200; only the count of new
# connections (NUM_CONNECTS is 1 although one was kept) tells. The same server ends urllib3's POST
# with an error, since it repeats a POST only when told to.
#
# There is no option against it; FRESH_CONNECT or FORBID_REUSE avoid it at the price of a connection a
# call. Who posts money needs idempotency keys, and may take no answer on a new connection for an
# answer to the first sending.
#
# Seen (pycurl 7.49.0, libcurl 8.23.0, urllib3 2.8.0):
#   pycurl:  two calls, two times 200; the server received: first, second, second
#   urllib3: the second call raised ProtocolError; the server received: first, second
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pycurl==7.49.0 urllib3==2.8.0
cat >"$folder/finding.py" <<'PY'
import io
import socket
import threading

import pycurl
import urllib3

BODIES = [b"first", b"second"]


class Server:
    """Answers each POST, but dies of the second one after it has read all of it."""

    def __init__(self) -> None:
        self.received: list[bytes] = []
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}/payments"
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        while True:
            connection, _ = self.socket.accept()
            threading.Thread(target=self.talk, args=(connection,), daemon=True).start()

    def talk(self, connection: socket.socket) -> None:
        stream = connection.makefile("rb")
        while stream.readline():
            length = 0
            while header := stream.readline().strip():
                name, _, value = header.partition(b":")
                length = int(value) if name.lower() == b"content-length" else length
            self.received.append(stream.read(length))
            if len(self.received) == 2:
                connection.shutdown(socket.SHUT_RDWR)
                return
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


def by_pycurl(url: str) -> list[str]:
    curl, seen = pycurl.Curl(), []
    for body in BODIES:
        curl.setopt(pycurl.URL, url)
        curl.setopt(pycurl.POSTFIELDS, body)
        curl.setopt(pycurl.WRITEDATA, io.BytesIO())
        curl.perform()
        seen.append(str(curl.getinfo(pycurl.RESPONSE_CODE)))
    return seen


def by_urllib3(url: str) -> list[str]:
    pool, seen = urllib3.PoolManager(), []
    for body in BODIES:
        try:
            seen.append(str(pool.request("POST", url, body=body).status))
        except urllib3.exceptions.HTTPError as error:
            seen.append(type(error).__name__)
    return seen


print(f"pycurl {pycurl.version.split()[0].partition('/')[2]}, {pycurl.version.split()[1]}, urllib3 {urllib3.__version__}")
results = {}
for name, client in (("pycurl", by_pycurl), ("urllib3", by_urllib3)):
    server = Server()
    answers = client(server.url)
    results[name] = (answers, server.received)
    print(f"  {name}: answers {', '.join(answers)}; the server received: {', '.join(body.decode() for body in server.received)}")
if results["pycurl"] != (["200", "200"], [b"first", b"second", b"second"]) or results["urllib3"][1] != BODIES:
    raise SystemExit("CHANGED")
print("as described")
PY
"$folder/venv/bin/python" "$folder/finding.py"
