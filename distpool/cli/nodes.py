"""``distpool drain`` and ``distpool autoscale``."""

from __future__ import annotations

import argparse
import os
import signal

from distpool.errors import ConnectError
from distpool.node import machine, statefolder
from distpool.wire.resources import Shape, words


def add_drain(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The grammar of ``distpool drain``."""
    parser = commands.add_parser(
        "drain",
        help="let a node end its work and leave",
        description="Give a node no more work; when what runs there has ended, it leaves the cluster and ends.",
    )
    parser.add_argument("nodes", nargs="+", metavar="NODE", help="as distpool status names it")
    _add_address(parser)
    parser.set_defaults(run=drain)


def drain(arguments: argparse.Namespace) -> int:
    """Run ``distpool drain``."""
    from distpool.provision.link import OperatorLink

    failed = 0
    with OperatorLink(_address(arguments)) as link:
        for node in arguments.nodes:
            answer = link.drain(node)
            if answer.problem:
                print(f"Node {node} was not drained: {answer.problem}.")
                failed = 1
            elif answer.workers:
                print(f"Node {node} gets no more work; it leaves when its {answer.workers} workers have ended.")
            else:
                print(f"Node {node} is idle and leaves.")
    return failed


def add_autoscale(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The grammar of ``distpool autoscale``."""
    parser = commands.add_parser(
        "autoscale",
        help="start nodes on this machine while they are needed",
        description="Start nodes, as processes of this machine, while work waits for them, and end those that are idle."
        " Runs until Ctrl-C, which ends them all.",
    )
    parser.add_argument("--min", type=int, default=0, metavar="N", help="keep at least so many (default 0)")
    parser.add_argument("--max", type=int, default=1, metavar="N", help="never more than so many (default 1)")
    parser.add_argument("--num-cpus", type=float, default=1.0, metavar="N", help="CPUs of each (default 1)")
    parser.add_argument("--num-gpus", type=float, default=0.0, metavar="N", help="GPUs of each (default 0)")
    parser.add_argument("--memory-bytes", type=int, default=0, metavar="N", help="memory of each")
    parser.add_argument("--resources", default="", metavar="NAME=AMOUNT,...", help="further resources of each")
    parser.add_argument(
        "--idle-s", type=float, default=60.0, metavar="S", help="end those idle for so long (default 60)"
    )
    parser.add_argument("--patience-s", type=float, default=1.0, metavar="S", help="how long work waits (default 1)")
    _add_address(parser)
    parser.set_defaults(run=autoscale)


def autoscale(arguments: argparse.Namespace) -> int:
    """Run ``distpool autoscale``."""
    from distpool.provision.autoscaler import Autoscaler
    from distpool.provision.interface import NodeType
    from distpool.provision.local import LocalProvisioner

    if not 0 <= arguments.min <= arguments.max:
        raise ConnectError(f"--min {arguments.min} --max {arguments.max}: 0 <= min <= max")
    try:
        custom = machine.parse_resources(arguments.resources)
    except ValueError as error:
        raise ConnectError(f"--resources: {error}") from error
    capacity = Shape(arguments.num_cpus, arguments.num_gpus, arguments.memory_bytes, custom)
    address = _address(arguments)
    kind = NodeType("local", capacity, arguments.max, start_s=2.0)
    provisioner = LocalProvisioner(statefolder.find_token(address), kind)
    scaler = Autoscaler(
        address,
        provisioner,
        arguments.min,
        arguments.max,
        patience_s=arguments.patience_s,
        idle_s=arguments.idle_s,
        say=lambda line: print(line, flush=True),
    )
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: scaler.stop())
    print(f"Between {arguments.min} and {arguments.max} nodes with {words(capacity)} each.", flush=True)
    try:
        scaler.run()
    finally:
        scaler.close()
        provisioner.close()
    return 0


def _add_address(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--address",
        metavar="ADDRESS",
        help="host:port of a scheduler, or a token file (default: DISTPOOL_ADDRESS, or the cluster of a node here)",
    )


def _address(arguments: argparse.Namespace) -> str:
    chosen = arguments.address or os.environ.get("DISTPOOL_ADDRESS")
    if chosen:
        return str(chosen)
    addresses = list(dict.fromkeys(node.address for node in statefolder.running_nodes()))
    if len(addresses) == 1:
        return addresses[0]
    found = f"nodes of {len(addresses)} clusters run here" if addresses else "no node of yours runs on this machine"
    raise ConnectError(f"which cluster? Name it with --address or DISTPOOL_ADDRESS: {found}")
