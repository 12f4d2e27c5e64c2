"""The runbook has an entry for whatever a person may meet, and names nothing that doesn't exist."""

import inspect
import re
from typing import Any

import pytest
from django.core.management import get_commands

from base import metrics
from clearing.status import State
from ops.audit.report import Report
from ops.monitoring import health
from orders.stream.consumer import ExitCode
from tests.docs import codes
from tests.docs.codes import ROOT, Found

TEXT = (ROOT / "docs" / "runbook.md").read_text()
LOGGED = {"table_changed"}  # no code of an order, an alarm or a message: a line of the log


def entries() -> set[str]:
    """What the runbook has an entry for: the words in the first cells of its tables, and in its
    headings.
    """
    cells = re.findall(r"^\| ([^|]*) \|", TEXT, re.MULTILINE)
    headings = re.findall(r"^#+ (.*)$", TEXT, re.MULTILINE)
    return {word.removeprefix("refused:") for place in (*cells, *headings) for word in re.findall(r"`([^`]+)`", place)}


def missing(found: list[Found]) -> set[Found]:
    return {one for one in found if one.code not in entries() | LOGGED}


class TestCodes:
    def test_every_alarm_and_error_that_is_raised(self) -> None:
        found, _ = codes.raised()

        assert missing(found) == set()
        assert {"parked", "no_leader", "counterparty_down", "connection_refused", "zookeeper_lost", "flow_unknown"} <= {
            one.code for one in [*found, *codes.tables()]
        }

    def test_none_is_raised_that_can_not_be_read_from_the_code(self) -> None:
        _, dark = codes.raised()

        assert dark == []

    def test_every_code_of_a_table(self) -> None:
        found = codes.tables()

        assert missing(found) == set()
        assert {"bad_scale", "deleted_unknown", "counterparty_limited", "intake_fault", "timeout", "below_min_lot"} <= {one.code for one in found}

    def test_every_code_that_is_given_by_name(self) -> None:
        found = codes.named()

        assert missing(found) == set()
        assert {"worker_stopping", "internal_error", "slippage_exceeded"} <= {one.code for one in found}

    def test_every_code_of_the_databases_own(self) -> None:
        found = codes.in_sql()

        assert missing(found) == set()
        assert {"poison", "claim_lost"} <= {one.code for one in found}

    def test_every_state_that_waits_for_something(self) -> None:
        assert [state for state in (State.RETRYING, State.PENDING, State.UNKNOWN, State.PARKED) if f"### {state.value.title()}\n" not in TEXT] == []


class TestRefusals:
    def test_every_answer_to_a_person(self) -> None:
        plain = " ".join(TEXT.replace("*", "").split())

        assert {one for one in codes.refusals() if one.code.split(":")[0] not in plain} == set()
        assert len(codes.refusals()) > 25


class TestTheRest:
    @pytest.mark.parametrize("code", [code for code in ExitCode if code])
    def test_every_way_that_the_consumer_ends(self, code: ExitCode) -> None:
        assert re.search(rf"^\| {code.value} \|", TEXT, re.MULTILINE)

    def test_every_finding_of_the_audit(self) -> None:
        passed: Any = Report.passed  # a property
        judged = set(re.findall(r"self\.(\w+)", inspect.getsource(passed.fget)))

        shown = {"broken": "ledger"}  # as its report calls it
        assert {shown.get(name, name).replace("_", " ") for name in judged} <= entries()
        assert len(judged) == 6

    def test_every_probe(self) -> None:
        assert {probe.name for probe in health.PROBES} <= entries()

    def test_the_metrics_that_it_names_exist(self) -> None:
        known = {family.name for family in metrics.REGISTRY.collect()} | {scraped.name for scraped in metrics.SCRAPED}
        said = set(re.findall(r"acceptance_\w+", TEXT))

        assert {name for name in said if name.removesuffix("_total").removesuffix("_seconds_count") not in known} == set()

    def test_the_commands_that_it_names_exist(self) -> None:
        said = set(re.findall(r"manage\.py (\w+)", TEXT))

        assert said - set(get_commands()) == set()

    def test_its_links_lead_somewhere(self) -> None:
        anchors = {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in re.findall(r"^#+ (.*)$", TEXT, re.MULTILINE)}

        assert {link for link in re.findall(r"\]\(#([^)]+)\)", TEXT) if link not in anchors} == set()
