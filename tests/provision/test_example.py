"""The engine that ``docs/how-to/engines/another.md`` shows is one: it passes the contract."""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from distpool.node.statefolder import find_token
from distpool.provision.interface import Phase
from distpool.provision.link import OperatorLink
from tests.provision.contract import ProvisionerContract, eventually
from tests.provision.gate import Gate
from tests.provision.test_local import address, link

__all__ = ["address", "link"]

pytestmark = pytest.mark.watchdog(240)

PAGE = Path(__file__).parents[2] / "docs/how-to/engines/another.md"


@pytest.fixture(scope="module")
def module() -> Iterator[Any]:
    found = re.search(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert found is not None
    module = types.ModuleType("distpool_prefix")
    sys.modules["distpool_prefix"] = module
    exec(compile(found[1], str(PAGE), "exec"), module.__dict__)
    yield module
    del sys.modules["distpool_prefix"]


@pytest.fixture
def harness(tmp_path: Path) -> Gate:
    return Gate(tmp_path / "gate", sys.executable)


@pytest.fixture
def provisioner(module: Any, address: str, harness: Gate) -> Iterator[Any]:
    engine = module.Prefix.from_address(f"prefix://env,NODE=1?nodes=2&cpus=1&python={harness.script}")
    provisioner = engine.provisioner(find_token(address))
    yield provisioner
    provisioner.close()


@pytest.mark.parametrize("name", ["test_slow", "test_killed_while_starting"])
def test_an_engine_that_fails(name: str, harness: Gate, provisioner: Any, link: OperatorLink) -> None:
    getattr(ProvisionerContract(), name)(harness, provisioner, link)


def test_the_rest_of_the_contract(harness: Gate, provisioner: Any, link: OperatorLink, address: str) -> None:
    """On one cluster one after the other, since an example shall not cost as much as an engine."""
    contract = ProvisionerContract()
    contract.test_types_say_what_they_offer_and_cost(provisioner)
    contract.test_what_does_not_exist_can_be_released(provisioner)
    contract.test_refused(harness, provisioner, link)
    harness.kill_node()
    eventually(lambda: provisioner.list()["one"].phase is Phase.FAILED)
    provisioner.release("one")
    contract.test_a_machine_from_start_to_release(provisioner, link, address)
    provisioner.release("one")
    contract.test_what_cannot_be_had_is_refused(provisioner)
