"""Mapped memory in its rawest form: map, unmap, forget private changes, and export as a Python buffer.

Used by ``segments`` (writers, shared) and ``views`` (readers, copy-on-write); knows nothing of objects.

The C library is called directly because ``mmap.mmap`` keeps a duplicate of the file descriptor for as long as the
mapping lives (up to Python 3.12), which would limit a process to as many live objects as it may open files.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import sys
import time
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:

    class Watcher(Protocol):
        """Who wants to know when the last view of an export is gone."""

        def on_last_view_gone(self) -> None:
            """Called from a finalizer: in any thread, at any moment, perhaps while that thread holds any lock."""


PAGE = mmap.PAGESIZE

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [
    ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64,
]  # fmt: skip
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.memmove.restype = ctypes.c_void_p
_libc.memmove.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]

_MAP_FAILED = ctypes.c_void_p(-1).value
_READ_WRITE = mmap.PROT_READ | mmap.PROT_WRITE
#: Linux: do not count a copy-on-write mapping against the commit limit; hardly any of its pages is ever written.
_NORESERVE = 0x4000 if sys.platform == "linux" else 0
#: Not in ``mmap``.
_FIXED, _NO_ACCESS = 0x10, 0
_DONTNEED = getattr(mmap, "MADV_DONTNEED", 4)
_POPULATE_READ = getattr(mmap, "MADV_POPULATE_READ", 22)
_COLLAPSE = getattr(mmap, "MADV_COLLAPSE", 25)
#: What the processor maps with a single entry, as x86 and most others have it.
HUGE_PAGE = 2 << 20
#: Seconds. One at hand takes 0.1 ms, as many small pages 0.8 ms.
_LONG_FOR_HUGE_PAGE = 1e-3


def map_shared(fd: int, size_bytes: int) -> int:
    """Address of a writer's mapping of the whole file."""
    return _map(fd, size_bytes, mmap.MAP_SHARED)


def map_private(fd: int, size_bytes: int) -> int:
    """Address of a reader's copy-on-write mapping of the whole file."""
    return _map(fd, size_bytes, mmap.MAP_PRIVATE | _NORESERVE)


def _map(fd: int, size_bytes: int, flags: int) -> int:
    if size_bytes < HUGE_PAGE:
        return _mmap(None, size_bytes, _READ_WRITE, flags, fd)
    # The file's huge pages are mapped as such only where the address is a multiple of theirs.
    reserved_bytes = size_bytes + HUGE_PAGE
    reserved = _mmap(None, reserved_bytes, _NO_ACCESS, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NORESERVE, -1)
    start = (reserved + HUGE_PAGE - 1) & -HUGE_PAGE
    try:
        _mmap(start, size_bytes, _READ_WRITE, flags | _FIXED, fd)
    except BaseException:
        _libc.munmap(reserved, reserved_bytes)
        raise
    end = (start + size_bytes + PAGE - 1) & -PAGE
    if start > reserved:
        _libc.munmap(reserved, start - reserved)
    if reserved + reserved_bytes > end:
        _libc.munmap(end, reserved + reserved_bytes - end)
    return start


def _mmap(address: int | None, size_bytes: int, protection: int, flags: int, fd: int) -> int:
    mapped = _libc.mmap(address, size_bytes, protection, flags, fd, 0)
    if mapped == _MAP_FAILED or mapped is None:
        code = ctypes.get_errno()
        if code == errno.ENOMEM:
            raise MemoryError(f"cannot map {size_bytes} bytes: {os.strerror(code)}")
        raise OSError(code, os.strerror(code))
    return int(mapped)


def unmap(address: int, size_bytes: int) -> None:
    """End a mapping; nobody may look at it any more."""
    _libc.munmap(address, size_bytes)


def enter_pages(address: int, size_bytes: int) -> None:
    """Have the processor know the pages of a writer's (page-aligned) range, all of which the file has already.

    Otherwise the first write to each is a fault of its own, which takes as long as copying the page twice over.  By
    reading, because the kernel enters the pages around one that is read together with it, and writable.
    """
    _libc.madvise(address, size_bytes, _POPULATE_READ)  # a kernel that knows nothing of it (Linux < 5.14) goes without


def provide_huge_pages(address: int, fd: int, size_bytes: int) -> int:
    """Give the beginning of an empty file, and of its mapping, huge pages: provided and mapped much faster than small
    ones, as long as the kernel has them at hand.

    :param size_bytes: a multiple of ``HUGE_PAGE``.
    :returns: how many bytes have got some.  Less than ``size_bytes`` when there are none (Linux 6.1 or newer grants an
        explicit request unless the system denies them altogether), or when the kernel has to look for them, or a
        virtual machine's host for memory, for longer than small pages take.
    :raises OSError: when the file system is full.
    """
    for offset in range(0, size_bytes, HUGE_PAGE):
        started = time.monotonic()
        os.pwrite(fd, b"\0", offset)  # the kernel leaves alone what has no page at all
        if _libc.madvise(address + offset, HUGE_PAGE, _COLLAPSE):
            return offset
        if time.monotonic() - started > _LONG_FOR_HUGE_PAGE:
            return offset + HUGE_PAGE
    return size_bytes


def copy(address: int, source: memoryview, size_bytes: int) -> None:
    """Copy the first bytes of a contiguous buffer to mapped memory.

    In one call of the C library, which copies large pieces past the processor's caches, and without the interpreter's
    lock: it takes milliseconds.
    """
    _libc.memmove(address, address_of(source), size_bytes)


class _Buffer(ctypes.Structure):
    """``Py_buffer``."""

    _fields_ = [
        ("buf", ctypes.c_void_p), ("obj", ctypes.py_object), ("len", ctypes.c_ssize_t), ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int), ("ndim", ctypes.c_int), ("format", ctypes.c_char_p), ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p), ("suboffsets", ctypes.c_void_p), ("internal", ctypes.c_void_p),
    ]  # fmt: skip


_get_buffer = ctypes.pythonapi.PyObject_GetBuffer
_get_buffer.argtypes = [ctypes.py_object, ctypes.POINTER(_Buffer), ctypes.c_int]
_release_buffer = ctypes.pythonapi.PyBuffer_Release
_release_buffer.argtypes = [ctypes.POINTER(_Buffer)]


def address_of(buffer: memoryview) -> int:
    """Where the bytes are; valid as long as the buffer."""
    raw = _Buffer()
    _get_buffer(buffer, raw, 0)
    address: int = raw.buf or 0
    _release_buffer(raw)
    return address


class PrivateChanges:
    """Forgets what readers wrote into their copy-on-write mappings, so that a mapping can be used again.

    A mapping whose pages are known to the processor already is read three times as fast as a new one, so only the
    pages that were really written are dropped, where the kernel (Linux 6.7 or newer) tells which.
    """

    _REGIONS = 256
    #: ``PAGEMAP_SCAN`` of <linux/fs.h>: ``_IOWR('f', 16, struct pm_scan_arg)``.
    _SCAN = (3 << 30) | (96 << 16) | (ord("f") << 8) | 16
    _IS_FILE, _IS_PRESENT, _IS_SWAPPED = 1 << 2, 1 << 3, 1 << 4

    def __init__(self) -> None:
        #: Of ``/proc/self/pagemap``; opened when first needed, -1 when that is of no use.
        self._fd: int | None = None if sys.platform == "linux" else -1
        self._regions = (ctypes.c_uint64 * (3 * self._REGIONS))()

    def forget(self, address: int, size_bytes: int) -> None:
        """Make the (page-aligned) range show the file's bytes again."""
        if self._fd is None:
            try:
                self._fd = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                self._fd = -1
        if self._fd < 0 or not self._forget_written(self._fd, address, size_bytes):
            _libc.madvise(address, size_bytes, _DONTNEED)

    def _forget_written(self, fd: int, address: int, size_bytes: int) -> bool:
        # A page of a private file mapping that is there, or swapped, and is *not* the file's, is a private copy.
        request = (ctypes.c_uint64 * 12)(
            96, 0, address, address + size_bytes, 0, ctypes.addressof(self._regions), self._REGIONS, 0,
            self._IS_FILE, self._IS_FILE, self._IS_PRESENT | self._IS_SWAPPED, self._IS_PRESENT | self._IS_SWAPPED,
        )  # fmt: skip
        try:
            found = fcntl.ioctl(fd, self._SCAN, request)
        except OSError:
            self.close()
            return False
        if found >= self._REGIONS:
            return False
        regions = self._regions
        for i in range(0, 3 * found, 3):
            _libc.madvise(regions[i], regions[i + 1] - regions[i], _DONTNEED)
        return True

    def close(self) -> None:
        """Give the descriptor back; ``forget`` goes on working, in the slower way."""
        if self._fd is not None and self._fd >= 0:
            os.close(self._fd)
        self._fd = -1


_export_types: dict[int, Any] = {}


def export(address: int, size_bytes: int, watcher: Watcher | None = None) -> memoryview:
    """A writable buffer over mapped memory.

    Every buffer made from it (slices, arrays over it, views of those) keeps the exporting object alive through the
    buffer protocol; when the last one is gone, ``watcher`` is told.  A memoryview alone could not do that: a slice of
    it does not keep it alive, only the object below it.
    """
    # Exporting types exist per power of two, because ctypes keeps a type per length for good; the slice hides the rest.
    bits = size_bytes.bit_length()
    kind: Any = _export_types.get(bits)
    if kind is None:
        kind = _export_types[bits] = type("MappedMemory", (_Exporter, ctypes.c_char * (1 << bits)), {})
    exporter = kind.from_address(address)
    exporter.watcher = watcher
    return memoryview(exporter).cast("B")[:size_bytes]


class _Exporter:
    watcher: Watcher | None

    def __del__(self) -> None:
        watcher = self.watcher
        if watcher is not None:
            watcher.on_last_view_gone()
