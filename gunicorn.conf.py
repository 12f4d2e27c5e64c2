"""How gunicorn serves the web process; it reads this file in its working directory. Address and
numbers stand in its command line.
"""

from typing import Any

wsgi_app = "acceptance_site.wsgi"
preload_app = True  # imported once, and a new release's mistake is seen before the old one is told to stop
reuse_port = True  # a successor listens beside the one that it replaces
graceful_timeout = 5
control_socket_disable = True


def on_starting(server: Any) -> None:
    """METRICS_PORT beside the command line's address: there /readyz and /metrics tell all that they
    know. Settings are read by now.
    """
    from django.conf import settings  # noqa: PLC0415

    if settings.METRICS_PORT:
        server.cfg.set("bind", [*server.cfg.bind, f"0.0.0.0:{settings.METRICS_PORT}"])


def post_worker_init(worker: Any) -> None:
    """Each worker is a process of its own among the nodes. Not before the fork, and settings are
    read by now.
    """
    from base.incarnation import registration  # noqa: PLC0415

    registration("web", ", ".join(f"{address[0]}:{address[1]}" for address in worker.cfg.address)).start()


def worker_exit(_server: Any, _worker: Any) -> None:
    """A clean end."""
    from base.incarnation import registration  # noqa: PLC0415

    registration("web").end()
