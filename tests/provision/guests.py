"""What the tests of engines that hold agents inside of processes of their own have in common: fixtures to import."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from distpool.provision.link import OperatorLink
from tests.provision.contract import eventually
from tests.provision.gate import Gate
from tests.support.head import running_head


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A cluster that has no node but its head."""
    with running_head(tmp_path_factory.mktemp("state")) as address:
        yield address


@pytest.fixture
def link(address: str) -> Iterator[OperatorLink]:
    with OperatorLink(address) as link:
        eventually(lambda: len(link.load().nodes) == 1)  # those of the test before are gone
        yield link


@pytest.fixture
def harness(tmp_path: Path) -> Gate:
    return Gate(tmp_path / "gate", sys.executable)


@pytest.fixture
def python(request: pytest.FixtureRequest) -> str:
    """What nodes are run with: the harness's where a test has one."""
    return str(request.getfixturevalue("harness").script) if "harness" in request.fixturenames else ""


#: Format it with a module of ``distpool.provision`` and the call that makes its engine; it prints what is refused.
REFUSED = """
import distpool.provision.{module} as engine
from distpool.wire.security import Token
try:
    engine.{call}.provisioner(Token("127.0.0.1:1", bytes(32)))
except engine.ProvisionError as error:
    print(error)
    assert error.hopeless
"""
