"""How we reach Kafka: encryption and credentials, as kafka-python's clients take them, checked
where the settings are read.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

PROTOCOLS: Final = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
MECHANISMS: Final = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")


class WrongSecurity(ValueError):  # noqa: N818 - named by what it tells
    """The settings don't go together: `args` has a text for each problem, with what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaSecurity:
    """The variables KAFKA_SECURITY_PROTOCOL, KAFKA_SASL_… and KAFKA_SSL_…; empty where one isn't
    set. Raises WrongSecurity.
    """

    protocol: str = "PLAINTEXT"
    mechanism: str = ""
    username: str = ""
    password: str = field(default="", repr=False)
    cafile: str = ""
    certfile: str = ""
    keyfile: str = ""
    key_password: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        if self.protocol not in PROTOCOLS:
            raise WrongSecurity(f"KAFKA_SECURITY_PROTOCOL is {self.protocol!r}: set it to one of {', '.join(PROTOCOLS)}")
        problems = [*self._sasl_problems(), *self._ssl_problems()]
        if problems:
            raise WrongSecurity(*problems)

    @property
    def encrypted(self) -> bool:
        return self.protocol.endswith("SSL")

    @property
    def authenticated(self) -> bool:
        return self.protocol.startswith("SASL")

    def client_options(self) -> dict[str, Any]:
        """Keyword arguments of KafkaConsumer and KafkaProducer."""
        options: dict[str, Any] = {"security_protocol": self.protocol}
        if self.authenticated:
            options |= {"sasl_mechanism": self.mechanism, "sasl_plain_username": self.username, "sasl_plain_password": self.password}
        if self.encrypted:
            files = {"ssl_cafile": self.cafile, "ssl_certfile": self.certfile, "ssl_keyfile": self.keyfile, "ssl_password": self.key_password}
            options |= {name: value or None for name, value in files.items()}
        return options

    def _sasl_problems(self) -> Iterator[str]:
        given = {"KAFKA_SASL_MECHANISM": self.mechanism, "KAFKA_SASL_USERNAME": self.username, "KAFKA_SASL_PASSWORD": self.password}
        missing = [name for name, value in given.items() if not value]
        if self.authenticated and missing:
            yield f"KAFKA_SECURITY_PROTOCOL is {self.protocol}: set {', '.join(missing)}, too"
        if not self.authenticated and len(missing) < len(given):
            yield f"{_which(given)}, but KAFKA_SECURITY_PROTOCOL is {self.protocol}: it sends no credentials; set it to SASL_SSL"
        if self.mechanism and self.mechanism not in MECHANISMS:
            yield f"KAFKA_SASL_MECHANISM is {self.mechanism!r}: set it to one of {', '.join(MECHANISMS)}"

    def _ssl_problems(self) -> Iterator[str]:
        files = {"KAFKA_SSL_CAFILE": self.cafile, "KAFKA_SSL_CERTFILE": self.certfile, "KAFKA_SSL_KEYFILE": self.keyfile}
        if not self.encrypted and any(files.values()):
            yield f"{_which(files)}, but KAFKA_SECURITY_PROTOCOL is {self.protocol}: it encrypts nothing; set it to SSL or SASL_SSL"
        for name, path in files.items():
            if path and not Path(path).is_file():
                yield f"{name} is {path!r}: there is no such file"
        if self.keyfile and not self.certfile:
            yield "KAFKA_SSL_KEYFILE is set: set KAFKA_SSL_CERTFILE, too"


def _which(variables: dict[str, str]) -> str:
    names = [name for name, value in variables.items() if value]
    return f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} set"
