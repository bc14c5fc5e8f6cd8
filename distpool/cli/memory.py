"""``distpool memory``: what is in the object stores of this machine, and why it is still there."""

from __future__ import annotations

import argparse

_ANSWER_S = 10.0


def add_memory(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The grammar of ``distpool memory``."""
    parser = commands.add_parser(
        "memory",
        help="show what is in the object stores of this machine",
        description="Show the large values that your programs on this machine, and nodes of yours that run on it, have "
        "in shared memory and on disk: size, where, references, and why each is still there.",
    )
    parser.set_defaults(run=memory)


def memory(arguments: argparse.Namespace) -> int:
    """Run ``distpool memory``."""
    from distpool.memory import report
    from distpool.node.folders import store_folders
    from distpool.store.inspection import ask_node

    found = 0
    for folder in store_folders():
        told = ask_node(folder, _ANSWER_S)
        if told is not None:
            found += 1
            name, contents = told
            print(f"Node {name}, {folder}: {report(contents, contents.clients)}")
    if not found:
        print("No program of yours on this machine, and no node, has an object store.")
    return 0
