"""What production refuses although each value can be read: what would let a stranger on the network
read or forge, and what would move real money beside a toy.

Whoever runs a closed network, in which nobody else can listen, says so by a setting of its own, for
each server. What stays on the machine (loopback, a Unix socket) needs no encryption.
"""

from collections.abc import Mapping
from itertools import combinations
from typing import Any, Final

from acceptance_site.addresses import hosts_of, is_loopback, is_plain_http, split
from acceptance_site.configuration import Configuration

KEY_CHARACTERS_MIN: Final = 32
SECRET_KEY_CHARACTERS_MIN: Final = 50
SANDBOX: Final = "sandbox"  # the label of its host, in docker-compose.yml and wherever it was copied to
HOW: Final = "python -c 'import secrets; print(secrets.token_urlsafe(48))'"


def check(config: Configuration, settings: Mapping[str, Any]) -> None:
    """Notes what production refuses; nothing elsewhere."""
    if not config.production:
        return
    _web(config, settings)
    _counterparties(config, settings)
    _intake(config, settings)
    _keys(config, settings)
    _servers(config, settings)


def _web(config: Configuration, settings: Mapping[str, Any]) -> None:
    if settings["DEBUG"]:
        config.refuse("DEBUG", "DEBUG is on in production: unset it, since its pages show settings and source to everybody")
    if "*" in settings["ALLOWED_HOSTS"]:
        config.refuse("ALLOWED_HOSTS", "ALLOWED_HOSTS holds *, which lets links in pages and mails lead anywhere: set it to the admin's names")
    if not config.is_set("PROXY_COUNT"):
        number = "how many proxies in front of web append to X-Forwarded-For, 0 for none (a wrong one lets a stranger lock everybody out)"
        config.refuse("PROXY_COUNT", f"PROXY_COUNT is not set: production needs it; set it to {number}")


def _counterparties(config: Configuration, settings: Mapping[str, Any]) -> None:
    urls = {f"{name.upper()}_URL": url for name, url in settings["COUNTERPARTY_URLS"].items()}
    for name, url in {**urls, "ALARM_WEBHOOK_URL": settings["ALARM_WEBHOOK_URL"]}.items():
        if is_plain_http(url):
            config.refuse(name, f"{name} is plain HTTP, which anybody on the way can answer: set it to https://… (on this machine http:// is right)")
    toys = [name for name, url in urls.items() if _is_sandbox(url)]
    if toys and len(toys) < len(urls):
        real = [name for name in urls if name not in toys]
        verb = "leads" if len(toys) == 1 else "lead"
        config.refuse(toys[0], f"{', '.join(toys)} {verb} to a sandbox, {', '.join(real)} not: set all three to real services, or none", *urls)
    if settings["GATEWAY_KIND"] != "http":
        config.refuse("GATEWAY_KIND", "GATEWAY_KIND is not http: unset it, since production calls the real counterparties")


def _intake(config: Configuration, settings: Mapping[str, Any]) -> None:
    if not settings["INTAKE_MAC"]:
        later = "while the counter writes no MACs yet, set INTAKE_MAC_SINCE to the moment from which it will"
        config.refuse("INTAKE_MAC", f"INTAKE_MAC is off: unset it, since who can write to the topic could make orders; {later}")
    elif settings["INTAKE_MAC_SINCE"] is None:
        when = "the moment from which each row has the counter's MAC and no process of release 0.1.0 runs; of a new service INTAKE_SINCE"
        config.refuse("INTAKE_MAC_SINCE", f"INTAKE_MAC_SINCE is not set: production needs it; set it to {when}")
    if settings["INTAKE_MAC"] and not settings["INTAKE_KEYS"]:
        config.refuse(
            "INTAKE_KEYS", "INTAKE_KEYS is not set: production needs it; set it to ID:KEY, the key that the counter makes its rows' MACs with"
        )


def _is_sandbox(url: str) -> bool:
    parts = split(url)
    return parts is not None and SANDBOX in (parts.hostname or "").split(".")


def _keys(config: Configuration, settings: Mapping[str, Any]) -> None:
    """Neither a value nor its length is shown."""
    keys = {f"{name.upper()}_KEY": key for name, key in settings["COUNTERPARTY_KEYS"].items()}
    keys |= {f"INTAKE_KEYS ({key_id})": key for key_id, key in settings["INTAKE_KEYS"].items()}
    keys["ALARM_WEBHOOK_KEY"] = settings["ALARM_WEBHOOK_KEY"]
    keys = {name: key for name, key in keys.items() if key}
    for name, key in keys.items():
        if len(key) < KEY_CHARACTERS_MIN:
            config.refuse(
                name, f"{name} is too short to keep anybody from guessing it: set it to {KEY_CHARACTERS_MIN} random characters or more ({HOW})"
            )
    keys["SECRET_KEY"] = settings["SECRET_KEY"]
    if len(settings["SECRET_KEY"]) < SECRET_KEY_CHARACTERS_MIN:
        config.refuse("SECRET_KEY", f"SECRET_KEY is too short: set it to {SECRET_KEY_CHARACTERS_MIN} random characters or more ({HOW})")
    for (first, one), (second, other) in combinations(keys.items(), 2):
        if one == other:
            config.refuse(
                second, f"{second} is the same as {first}: set each to a secret of its own, since who holds one could act as the other", first
            )


def _servers(config: Configuration, settings: Mapping[str, Any]) -> None:
    _plain_kafka(config, settings)
    _plain_database(config, settings)
    _plain_broker(config, settings)
    _plain_zookeeper(config, settings)


def _plain_kafka(config: Configuration, settings: Mapping[str, Any]) -> None:
    remote = not all(is_loopback(host) for host in hosts_of(settings["KAFKA_BOOTSTRAP_SERVERS"]))
    if remote and not settings["KAFKA_SECURITY"].encrypted and not settings["KAFKA_PLAINTEXT"]:
        form = f"set it to SSL or SASL_SSL{_closed('KAFKA')}"
        said = "set: production needs it" if not settings["KAFKA_SECURITY_PROTOCOL"] else "encrypted, and Kafka's rows move money"
        config.refuse("KAFKA_SECURITY_PROTOCOL", f"KAFKA_SECURITY_PROTOCOL is not {said}; {form}", "KAFKA_BOOTSTRAP_SERVERS", *_KAFKA)


_KAFKA: Final = tuple(f"KAFKA_{name}" for name in ("SASL_MECHANISM", "SASL_USERNAME", "SASL_PASSWORD", "SSL_CAFILE", "SSL_CERTFILE", "SSL_KEYFILE"))


def _plain_database(config: Configuration, settings: Mapping[str, Any]) -> None:
    database = settings["DATABASES"]["default"]
    host = database.get("HOST") or ""
    here = not host or host.startswith("/") or is_loopback(host)
    if not here and database["OPTIONS"].get("sslmode") != "verify-full" and not settings["DATABASE_PLAINTEXT"]:
        form = "add ?sslmode=verify-full&sslrootcert=/path/to/authority.pem to it"
        config.refuse("DATABASE_URL", f"DATABASE_URL doesn't ask who the server is: {form}{_closed('DATABASE')}")


def _plain_broker(config: Configuration, settings: Mapping[str, Any]) -> None:
    """Without `ssl_cert_reqs=required` kombu takes any certificate."""
    parts = split(settings["BROKER_URL"])
    if parts is None or is_loopback(parts.hostname):
        return
    asks = parts.scheme == "rediss" and "ssl_cert_reqs=required" in parts.query.split("&")
    wrong = [] if asks or settings["BROKER_PLAINTEXT"] else ["doesn't ask who the server is"]
    wrong += [] if parts.password or "ssl_certfile=" in parts.query else ["holds no password"]
    if wrong:
        form = "set it to rediss://:password@host:6379/0?ssl_cert_reqs=required"
        config.refuse("BROKER_URL", f"BROKER_URL {' and '.join(wrong)}: {form}{'' if asks else _closed('BROKER')}")


def _plain_zookeeper(config: Configuration, settings: Mapping[str, Any]) -> None:
    address = settings["LEADERSHIP"]
    if address is None or address.tls or settings["ZOOKEEPER_PLAINTEXT"] or all(is_loopback(host) for host in hosts_of(list(address.servers))):
        return
    config.refuse(
        "ZOOKEEPER_SSL_CAFILE", f"ZOOKEEPER_SSL_CAFILE is not set: set it to the authority of ZooKeeper's certificates{_closed('ZOOKEEPER')}"
    )


def _closed(server: str) -> str:
    return f", or {server}_PLAINTEXT=true where nobody else can listen"
