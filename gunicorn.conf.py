"""How gunicorn serves the web process; it reads this file in its working directory. Address and
numbers stand in its command line.
"""

from typing import Any

wsgi_app = "acceptance_site.wsgi"
preload_app = True  # imported once, and a new release's mistake is seen before the old one is told to stop
reuse_port = True  # a successor listens beside the one that it replaces
graceful_timeout = 5
control_socket_disable = True


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
