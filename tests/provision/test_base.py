"""The books that are kept for engines, with an engine that only says what it is told to say."""

from __future__ import annotations

import pytest

from distpool.provision.base import BaseProvisioner, agent_words
from distpool.provision.interface import Machine, NodeType, Phase, ProvisionError
from distpool.wire.resources import Shape


class Scripted(BaseProvisioner[str]):
    """Its handles are names in capitals; nodes go on until the test says otherwise."""

    END_S = 0.0

    def __init__(self) -> None:
        super().__init__(NodeType("scripted", Shape(1.0), most=2))
        self.gone: set[str] = set()
        self.did: list[tuple[str, str]] = []
        self.refusal = ""

    def request(self, node: str) -> str:
        if self.refusal:
            raise ProvisionError(self.refusal)
        return node.upper()

    def look(self, node: str, handle: str) -> Machine | None:
        return None if handle in self.gone else self.seen(Phase.RUNNING)

    def end(self, node: str, handle: str) -> None:
        self.did.append(("end", handle))

    def has_ended(self, handle: str) -> bool:
        return handle in self.gone

    def kill(self, handle: str) -> None:
        self.did.append(("kill", handle))
        self.gone.add(handle)

    def tidy(self, handle: str) -> None:
        self.did.append(("tidy", handle))


def test_what_is_refused_is_not_held() -> None:
    engine = Scripted()
    engine.refusal = "no room"
    with pytest.raises(ProvisionError, match="no room"):
        engine.start("one", "scripted")
    assert engine.list() == {}
    assert engine.held() == []


def test_what_ends_in_order_is_released_and_tidied() -> None:
    engine = Scripted()
    engine.start("one", "scripted")
    engine.start("two", "scripted")
    engine.gone.add("ONE")
    assert list(engine.list()) == ["two"]
    assert engine.did == [("end", "ONE"), ("tidy", "ONE")]
    assert engine.held() == ["TWO"]


def test_what_does_not_end_is_killed() -> None:
    engine = Scripted()
    engine.start("one", "scripted")
    engine.close()
    assert engine.did == [("end", "ONE"), ("kill", "ONE"), ("tidy", "ONE")]
    assert engine.held() == []


@pytest.mark.parametrize(
    ("said", "advice", "hopeless"),
    [
        ("/usr/bin/python3: No module named distpool", "install distpool there", True),
        ("bash: line 1: /no/python: No such file or directory", "the option python", True),
        ("slurm_script: 2: exec: /no/python3.12: not found", "the option python", True),
        ("[Errno 2] No such file or directory: '/no/bin/python'", "the option python", True),
        ("zsh:1: no such file or directory: /no/python", "the option python", True),
        ("bash: line 1: python: command not found", "the option python", True),
        ("the cluster at h:1 refused this node: the node runs Python 3.9", "it needs Python", True),
        ("no answer from the cluster at h:1", "head_host", False),
        ("no such file or directory: '/data/table.csv'", "", False),
        ("the disk is full", "", False),
    ],
)
def test_what_to_do_is_said_behind_what_happened(said: str, advice: str, hopeless: bool) -> None:
    failed = Scripted().failed(said)
    assert failed.phase is Phase.FAILED
    assert failed.reason.startswith(said)
    assert (advice in failed.reason) if advice else failed.reason == said
    assert failed.hopeless is hopeless


def test_an_agent_is_told_what_it_offers_if_that_is_known() -> None:
    assert agent_words("n", Shape(-1.0, -1.0, -1))[-2:] == ["--node", "n"]
    words = agent_words("n", Shape(2.5, 0.0, 1 << 40), "--until-eof")
    assert words[-7:] == ["--until-eof", "--num-cpus", "2.5", "--num-gpus", "0", "--memory-bytes", str(1 << 40)]
