from pathlib import Path

import pytest

from stack.errors import StackError, WrongVariable
from stack.procfile import instance_name, instance_of, read_counts, read_procfile
from stack.rundir import CHECKOUT


class TestProcfile:
    def test_names_the_processes_of_the_service_the_sandbox_first(self) -> None:
        assert list(read_procfile(CHECKOUT / "Procfile")) == ["sandbox", "web", "consumer", "worker", "worker-ops", "worker-suspects", "beat"]

    def test_the_workers_of_orders_and_of_periodic_jobs_share_no_queue(self) -> None:
        commands = read_procfile(CHECKOUT / "Procfile")

        assert " -X ops,clearing.suspects " in commands["worker"]
        assert " -Q ops " in commands["worker-ops"]

    def test_a_line_that_is_no_process_is_refused_by_its_number(self, tmp_path: Path) -> None:
        file = tmp_path / "Procfile"
        file.write_text("# a comment\nweb: serve\nnonsense\n")

        with pytest.raises(StackError, match="line 3"):
            read_procfile(file)


class TestInstances:
    def test_the_first_has_the_plain_name(self) -> None:
        assert [instance_name("worker", number) for number in (1, 2)] == ["worker", "worker.2"]
        assert [instance_of(name) for name in ("worker", "worker.1", "worker-ops.12")] == [("worker", 1), ("worker", 1), ("worker-ops", 12)]

    @pytest.mark.parametrize("name", ["worker.0", "worker.", "Worker", ".2"])
    def test_other_names_are_refused(self, name: str) -> None:
        with pytest.raises(StackError, match="no service"):
            instance_of(name)

    def test_counts_are_words(self) -> None:
        assert read_counts("worker=2 beat=0") == {"worker": 2, "beat": 0}

    @pytest.mark.parametrize("text", ["worker:2", "abc", "worker=x", "worker=-1", "worker=100000"])
    def test_other_counts_are_a_wrong_variable(self, text: str) -> None:
        with pytest.raises(WrongVariable, match="PROCESSES"):
            read_counts(text)
