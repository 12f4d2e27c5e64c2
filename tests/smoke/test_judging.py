"""What counts as working: JSON that is JSON, ratios that are finite, an exit code of 0."""

import pytest

from tests.smoke.judging import (
    CheckError,
    Ended,
    SkippedError,
    documents,
    has_figures,
    has_json,
    helps,
    raise_if_skipped,
    says_who_knows,
    succeeded,
)


def ended(output: str = "", errors: str = "", exit_code: int = 0) -> Ended:
    return Ended(exit_code, output, errors)


def test_several_documents_between_other_lines_are_read() -> None:
    assert documents('noise\n{"a": 1}\n[2,\n 3]\nmore\n') == [{"a": 1}, [2, 3]]


@pytest.mark.parametrize(
    ("output", "why"),
    [
        ('{"ratios": {"x": NaN}}', "NaN"),
        ('{"ms": Infinity}', "Infinity"),
        ('{"ratios": {"x": 0}}', "ratios.x is 0"),
        ('{"cases": {"a": {"time_over_floor": -1.5}}}', "time_over_floor"),
        ("no figures", "no JSON"),
        ('{"cut": ', "can't be read"),
    ],
)
def test_figures_that_are_none_are_refused(output: str, why: str) -> None:
    with pytest.raises(CheckError, match=why):
        has_figures(ended(output))


def test_finite_ratios_pass() -> None:
    has_figures(ended('{"ratios": {"p50_over_floor": 1.2}, "floor": {"zero": 0}}'))


@pytest.mark.parametrize("judge", [succeeded, has_json, has_figures, helps])
def test_an_exit_code_is_told_with_the_last_line_that_says_something(judge: object) -> None:
    with pytest.raises(CheckError, match="exit code 2: overhead failed: no floor"):
        judge(ended("{}", "overhead failed: no floor\nmake: *** [Makefile:1: bench] Error 1\n", 2))  # type: ignore[operator]


def test_a_help_without_usage_is_none() -> None:
    with pytest.raises(CheckError, match="usage"):
        helps(ended("hello"))


def test_a_skipped_target_gives_its_reason() -> None:
    with pytest.raises(SkippedError, match="apt install libzookeeper-java"):
        raise_if_skipped(ended("outages is skipped, for the reason above\n", "ZooKeeper isn't here: apt install libzookeeper-java\n"))
    raise_if_skipped(ended("all ran"))


class TestAdvisories:
    def test_no_source_of_them_is_a_reason_to_skip(self) -> None:
        with pytest.raises(SkippedError, match="nobody can say"):
            says_who_knows(ended("", "advisories: nobody can say, for x\nmake: *** [advisories] Error 3\n", 2))

    @pytest.mark.parametrize("code", [0, 2])
    def test_an_answer_is_none(self, code: int) -> None:
        says_who_knows(ended("[]", exit_code=code))

    @pytest.mark.parametrize(("errors", "code"), [("make: *** Error 3", 2), ("advisories: nobody can say, for x", 0)])
    def test_no_answer_without_a_reason_is_a_fault(self, errors: str, code: int) -> None:
        with pytest.raises(CheckError):
            says_who_knows(ended("", errors, code))
