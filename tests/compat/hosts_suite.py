"""A suite whose only test says where it runs."""

from __future__ import annotations

import socket
import time
from typing import Any

from compat_tests.runner.verdict import SKIPPED, Verdict
from tests.compat import sample_suite


def _host(number: int) -> str:
    time.sleep(0.05)
    return socket.gethostname()


def says_where_it_works() -> Verdict:
    import distpool

    with distpool.DistExecutor(3) as executor:
        hosts = sorted(set(executor.map(_host, range(30))))
    return Verdict(SKIPPED, f"{socket.gethostname()} works with {distpool.cpu_count()} CPUs of {hosts}")


class OnHosts(sample_suite.Sample):
    name = "tests.compat.hosts_suite"

    def serve(self, nursery: Any, target: str) -> None:
        nursery.serve(["says_where_it_works"], lambda name: says_where_it_works())


SUITE = OnHosts()
