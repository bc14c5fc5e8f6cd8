"""The driver's half for whole modules that a worker cannot import."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
import types
from typing import Any

from distpool.code.names import is_served_by_name
from distpool.code.origins import is_user_file
from distpool.wire.driver_to_worker import ModuleSource
from distpool.wire.system_text import to_bytes
from distpool.wire.worker_to_driver import FetchModule


def module_source(message: FetchModule) -> ModuleSource:
    """The source of a module of the user's project.

    A module that the program made in memory has none: it is found, without source and file name, and the worker asks
    for its names one by one.
    """
    name = message.name
    absent = ModuleSource(message.request, name, False, installed=_installed(name))
    module = sys.modules.get(name)
    try:
        spec: Any
        loader: Any
        if module is None:
            spec = importlib.util.find_spec(name)
            loader = None if spec is None else spec.loader
            filename = None if spec is None else spec.origin
            is_package = spec is not None and spec.submodule_search_locations is not None
        elif not isinstance(module, types.ModuleType):
            return absent
        else:
            if is_served_by_name(name):
                return ModuleSource(message.request, name, True, hasattr(module, "__path__"))
            spec = module.__spec__
            loader = getattr(module, "__loader__", None) or (spec and spec.loader)
            filename = getattr(module, "__file__", None)
            is_package = hasattr(module, "__path__")
    except Exception:
        return absent
    if is_package and filename is None:
        # A namespace package: only its name is needed, so that its modules can be asked for.
        if module is not None and not any(is_user_file(str(path)) for path in module.__path__):
            return absent
        return ModuleSource(message.request, name, True, True, b"<namespace>")
    if not isinstance(filename, str) or not is_user_file(filename):
        return absent
    source = _read_source(loader, name, filename)
    if source is None:
        return absent
    return ModuleSource(message.request, name, True, is_package, to_bytes(filename), source)


def _installed(name: str) -> str:
    """What this process has of an installed package, in words; empty: it is none."""
    top = name.partition(".")[0]
    module = sys.modules.get(top)
    try:
        spec = importlib.util.find_spec(top) if module is None else module.__spec__
    except (ImportError, ValueError, AttributeError):
        return ""
    origin = None if spec is None else spec.origin
    if not isinstance(origin, str) or is_user_file(origin):
        return ""
    version = getattr(module, "__version__", "")
    return f"{top} {version}" if isinstance(version, str) and version else top


def _read_source(loader: Any, name: str, filename: str) -> bytes | None:
    if not isinstance(loader, importlib.machinery.ExtensionFileLoader):
        try:
            text = loader.get_source(name)
            if isinstance(text, str):
                return text.encode()
        except Exception:
            pass  # a loader without sources, or of another module; the file says it as well
        try:
            if filename.endswith(".py"):
                with open(filename, "rb") as file:
                    return file.read()
        except OSError:
            pass
    return None
