"""Pins processes to cores: the measured process has one for itself; the servers and the measuring
process share the other.
"""

import os
from collections.abc import Sequence
from contextlib import suppress

import psutil


def pin(core: int, *pids: int) -> None:
    """Those processes with their threads and children, and what they start from now on, run on that
    core alone.
    """
    for pid in pids:
        process = psutil.Process(pid)
        for member in (process, *process.children(recursive=True)):
            for thread in member.threads():
                with suppress(ProcessLookupError):
                    os.sched_setaffinity(thread.id, {core})


def pin_servers(servers: Sequence[int]) -> tuple[int, str]:
    """Pins the servers and this process to the second core. Returns the first, for what is
    measured, and the arrangement in words.
    """
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) == 1:
        return cores[0], "everything on one core"
    pin(cores[1], os.getpid(), *servers)
    there = "PostgreSQL, Kafka and broker" if servers else "servers that the environment names anywhere, the measuring process"
    return cores[0], f"the measured process on core {cores[0]}; {there} on core {cores[1]}"
