"""Every code and message that a person may meet and look up in the runbook, as the code itself has
them: read from its syntax trees, so that a new one can't be forgotten.
"""

import ast
import importlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[2]
ROOMS: Final = ("base", "orders", "clearing", "ops")
# What is called with a code as its first argument; and names of arguments that are one.
RAISED: Final = {
    *("alarm", "Blocked", "UnknownOutcome", "Retryable", "Rejected", "KeyReused", "KeyExpired", "Held", "NotSent", "AnswerLost"),
    *("Refused", "Parks"),
}
NAMED: Final = {"code", "parks", "error_code", "reason"}
# Where the first argument isn't written down in its place: it is passed on from one of the others,
# or comes from the counterparty.
PASSED_ON: Final = {
    *("code", "error.code", "recorded.hold_code", "answer.code", "unreadable.code", "work.hold_code", "detail"),
    *("read_problem_body(status.status, bytes(status.problem)).code", "_UNCONNECTED[code]", "_LOST.get(code, 'transfer_failed')"),
}


@dataclass(frozen=True, slots=True)
class Found:
    """A code, or an expression that gave none, and where it stands."""

    code: str
    where: str


def modules() -> Iterator[tuple[str, ast.Module]]:
    """Every module of the service, but migrations and generated ones, by its dotted name."""
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            dotted = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            if "migrations" not in path.parts and not path.stem.endswith(("_pb2", "fake")) and path.stem != "__init__":
                yield dotted, ast.parse(path.read_text())


def calls(names: set[str]) -> Iterator[tuple[str, ast.Call]]:
    """Each call of one of these, by its last name, with its module."""
    for dotted, tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and node.args and _last_name(node.func) in names:
                yield dotted, node


def raised() -> tuple[list[Found], list[Found]]:
    """(codes of alarms and errors, expressions that are none and aren't known to be passed on)."""
    codes, dark = [], []
    for dotted, call in calls(RAISED):
        first = call.args[0]
        for option in (first.body, first.orelse) if isinstance(first, ast.IfExp) else (first,):
            value = _value(option, dotted)
            if value is not None:
                codes.append(Found(value, f"{dotted}:{call.lineno}"))
            elif ast.unparse(option) not in PASSED_ON:
                dark.append(Found(ast.unparse(option), f"{dotted}:{call.lineno}"))
    return codes, dark


def named() -> list[Found]:
    """Codes that are given by the name of their argument."""
    found = [
        Found(value, f"{dotted}:{node.value.lineno}")
        for dotted, tree in modules()
        for node in ast.walk(tree)
        if dotted.startswith("clearing") and isinstance(node, ast.keyword) and node.arg in NAMED and (value := _value(node.value, dotted))
    ]
    return [one for one in found if re.fullmatch(r"[a-z]+(_[a-z]+)*", one.code)]


def refusals() -> list[Found]:
    """What people are told when something that they ask for can't be done: the longest part of each
    message that is the same every time.
    """
    from clearing.interventions.requests import CHANGED, PROBLEMS
    from clearing.store.interventions import Busy

    found = [Found(message, "clearing.interventions.requests") for message in (*PROBLEMS.values(), CHANGED, str(Busy()))]
    for dotted, call in calls({"NotPossible", "Unfit"}):
        if text := _text(call.args[-1]):
            found.append(Found(text, f"{dotted}:{call.lineno}"))
    for dotted, tree in modules():
        if dotted == "clearing.interventions.eligibility":
            returned = [node.value for node in ast.walk(tree) if isinstance(node, ast.Return) and isinstance(node.value, ast.Tuple)]
            found += [Found(_text(value.elts[1]), f"{dotted}:{value.lineno}") for value in returned]
    return found


def in_sql() -> list[Found]:
    """Codes that the functions of the database give by themselves."""
    found = []
    for path in sorted((ROOT / "clearing" / "sql").glob("*.sql")):
        text = path.read_text()
        for pattern in (r"v_parks := CASE.*?;", r"'lost', '\w+'", r"error_code = CASE error_code.*?END"):
            for part in re.findall(pattern, text, re.DOTALL):
                found += [Found(word, path.name) for word in re.findall(r"'([a-z]+(?:_[a-z]+)*)'", part)]
    states = {"lost", "running", "retrying", "planned", "dead"}  # in the same expressions
    return [one for one in found if one.code not in states]


def tables() -> list[Found]:
    """Codes that stand in tables, enums and constants."""
    from base import http
    from clearing.gateways import circuit_breaker
    from clearing.policy import outcomes
    from orders.intake import classify, faults, ingest, mapping

    found = [Found(code, "clearing.policy.outcomes") for _, code in outcomes.TABLE if code not in {"", outcomes.ANY}]
    found += [Found(code, "base.http") for code in (*http._UNCONNECTED.values(), *http._LOST.values(), "transfer_failed")]
    found += [Found(code.value, "orders.intake.mapping") for code in mapping.RefusalCode]
    for module in (classify, faults, circuit_breaker, ingest):
        values = {name: value for name, value in vars(module).items() if name.isupper() and isinstance(value, str)}
        found += [Found(value, module.__name__) for value in values.values() if re.fullmatch(r"[a-z]+(_[a-z]+)+|unreadable", value)]
    return found


def _last_name(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else function.id if isinstance(function, ast.Name) else ""


def _value(node: ast.expr, dotted: str) -> str | None:
    """What a literal, or a name of the module, is; None for what is known only when it runs."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if not isinstance(node, (ast.Name, ast.Attribute)):
        return None
    found: Any = importlib.import_module(dotted)
    for name in ast.unparse(node).split("."):
        found = getattr(found, name, None)
    return str(found) if isinstance(found, str) else None


def _text(node: ast.expr) -> str:
    if isinstance(node, ast.JoinedStr):
        parts = [part.value for part in node.values if isinstance(part, ast.Constant) and isinstance(part.value, str)]
        return max((piece for part in parts for piece in re.split(r"[:;]", part)), key=len).strip(" ,()")
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
