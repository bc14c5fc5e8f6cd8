"""What a function or class says about types, for its definition by value."""

from __future__ import annotations

from typing import Any


def annotations_of(owner: Any) -> dict[str, Any]:
    """A copy of its annotations; as text, where some name in them stands for nothing yet.

    Since Python 3.14 they are evaluated when somebody asks for them.  A function whose annotations name what only type
    checkers import can be called all the same, and so it can be carried.
    """
    try:
        return dict(owner.__annotations__)
    except NameError:
        import annotationlib  # type: ignore[import-not-found, unused-ignore]

        return dict(annotationlib.get_annotations(owner, format=annotationlib.Format.STRING))
