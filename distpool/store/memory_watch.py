"""Has a range of this process' memory been written to since?  Asked of the kernel, which sees every write.

Called by ``broadcast``, so that the same large buffer need not be compared byte by byte at each submit.  Linux 6.7 and
newer can write-protect pages and note, instead of reporting, the first write to each (``userfaultfd`` in asynchronous
mode, read through ``PAGEMAP_SCAN``).  Whoever writes is seen: other views of the memory, C code, other threads, system
calls.  Measured (2 cores, 100 MB): to begin watching 0.1 ms with huge pages and 1 ms without, to ask 0.03 and 1 ms;
comparing the same takes 5-20 ms.  Price: the first write to each watched page is a page fault, 17 ms for all of 100 MB,
and huge pages are split by it; so only what was sent twice unchanged is watched at all.

When in doubt the answer is "changed".  A page counts as unchanged only if the kernel positively reports it there,
anonymous and still protected in a region still registered by us: memory that was unmapped, mapped anew, moved or
discarded (``munmap``, ``mremap``, ``MADV_DONTNEED``) fails that, whatever is at its address now.  Not watched are

* memory that others can write without a fault here: files, shared memory;
* any memory while devices or the kernel may write into pinned pages (a graphics or InfiniBand driver is mapped, or
  pages are pinned for RDMA or io_uring): a pin that is made *later* is a write, and is seen;
* the first and the last page of a range that does not fill them: their other tenants would be seen, too.

``soft-dirty`` bits, the older way, were not tried: they can only be cleared for the whole process at once, which takes
them from whoever else uses them, and kernels may be built without (``CONFIG_MEM_SOFT_DIRTY``), as that of the machine
was on which this was measured.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import platform
import struct
import sys

from distpool.store.mapping import PAGE

#: Less memory than this is compared as fast as the kernel is asked.
LEAST_BYTES = 4 << 20

_SYSTEM_CALL = {"x86_64": 323, "aarch64": 282, "riscv64": 282}.get(platform.machine(), 0)
#: From <linux/userfaultfd.h>: flags of the system call, features, requests.
_USER_MODE_ONLY = 1
_API, _WP_UNPOPULATED, _WP_ASYNC = 0xAA, 1 << 13, 1 << 15
_MODE_WP = 2
_UFFDIO_API = (3 << 30) | (24 << 16) | (0xAA << 8) | 0x3F
_UFFDIO_REGISTER = (3 << 30) | (32 << 16) | (0xAA << 8) | 0x00
_UFFDIO_UNREGISTER = (2 << 30) | (16 << 16) | (0xAA << 8) | 0x01
_UFFDIO_WRITEPROTECT = (3 << 30) | (24 << 16) | (0xAA << 8) | 0x06
#: From <linux/fs.h>: ``PAGEMAP_SCAN`` and the properties of pages.
_PAGEMAP_SCAN = (3 << 30) | (96 << 16) | (ord("f") << 8) | 16
_CHECK_WPASYNC = 2
_IS_WPALLOWED, _IS_WRITTEN, _IS_FILE, _IS_PRESENT, _IS_SWAPPED = 1, 2, 4, 8, 16
#: Mappings that show that a device may write to memory of this process.
_DEVICES = ("/dev/nvidia", "/dev/kfd", "/dev/dri", "/dev/infiniband", "/dev/vfio", "/dev/accel", "/dev/habanalabs")


class Watched:
    """Whole pages, ``first`` to ``end``; ``lost`` when they can no longer be vouched for."""

    __slots__ = ("end", "first", "lost")

    def __init__(self, first: int, end: int) -> None:
        self.first = first
        self.end = end
        self.lost = False


class MemoryWatch:
    """All watched ranges of this process; they never overlap.  Not thread-safe."""

    def __init__(self) -> None:
        self._fd = -1
        self._pagemap = -1
        self._usable: bool | None = None if sys.platform == "linux" and _SYSTEM_CALL else False
        self._ranges: list[Watched] = []
        self._regions = (ctypes.c_uint64 * 12)()

    @property
    def usable(self) -> bool:
        """Whether this kernel can do it and lets us."""
        if self._usable is None:
            self._usable = self._open()
        return self._usable

    def begin(self, address: int, size_bytes: int) -> Watched | None:
        """Watch the whole pages of a range from now on; whatever overlaps is no longer watched.

        The caller then compares: what is written from here on is seen, what was written before is not.

        :returns: None when this memory cannot be watched.
        """
        first, end = -(-address // PAGE) * PAGE, (address + size_bytes) // PAGE * PAGE
        if end - first < LEAST_BYTES or not self.usable or not _is_private(first, end):
            return None
        for known in [known for known in self._ranges if known.first < end and first < known.end]:
            self.end(known)
        watched = Watched(first, end)
        try:
            fcntl.ioctl(self._fd, _UFFDIO_REGISTER, bytearray(struct.pack("4Q", first, end - first, _MODE_WP, 0)))
        except OSError:
            return None
        self._ranges.append(watched)
        try:
            fcntl.ioctl(self._fd, _UFFDIO_WRITEPROTECT, bytearray(struct.pack("3Q", first, end - first, 1)))
        except OSError:
            self.end(watched)
            return None
        return watched

    def unchanged(self, watched: Watched) -> bool:
        """Whether nothing was written there since ``begin``."""
        if watched.lost or not self._all_protected(watched.first, watched.end):
            self.end(watched)
            return False
        return True

    def end(self, watched: Watched) -> None:
        """Watch it no longer; harmless when repeated."""
        if watched.lost:
            return
        watched.lost = True
        self._ranges.remove(watched)
        try:
            fcntl.ioctl(
                self._fd, _UFFDIO_UNREGISTER, bytearray(struct.pack("2Q", watched.first, watched.end - watched.first))
            )
        except OSError:
            pass  # the memory is gone

    def close(self) -> None:
        """Watch nothing any more, for good."""
        for watched in self._ranges:
            watched.lost = True
        self._ranges.clear()
        for fd in (self._fd, self._pagemap):
            if fd >= 0:
                os.close(fd)  # ends all registrations
        self._fd = self._pagemap = -1
        self._usable = False

    def _all_protected(self, first: int, end: int) -> bool:
        # Properties in ``inverted`` count as set when they are not.  Regions are joined as long as what is asked for in
        # the last word is equal, so a range that is all right is one region.
        inverted = _IS_WRITTEN | _IS_FILE
        regions = self._regions
        request = (ctypes.c_uint64 * 12)(
            96, _CHECK_WPASYNC, first, end, 0, ctypes.addressof(regions), 4, 0,
            inverted, inverted | _IS_WPALLOWED, _IS_PRESENT | _IS_SWAPPED, _IS_WPALLOWED,
        )  # fmt: skip
        try:
            found = fcntl.ioctl(self._pagemap, _PAGEMAP_SCAN, request)
        except OSError:
            return False
        return found == 1 and regions[0] == first and regions[1] == end

    def _open(self) -> bool:
        libc = ctypes.CDLL(None, use_errno=True)
        fd = libc.syscall(_SYSTEM_CALL, os.O_CLOEXEC | os.O_NONBLOCK | _USER_MODE_ONLY)
        if fd < 0:
            return False
        self._fd = fd
        try:
            fcntl.ioctl(fd, _UFFDIO_API, bytearray(struct.pack("3Q", _API, _WP_UNPOPULATED | _WP_ASYNC, 0)))
            self._pagemap = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self.close()
            return False
        if not self._works():
            self.close()
            return False
        return True

    def _works(self) -> bool:
        """Try it: a kernel may know the calls and see less than is needed."""
        import mmap

        with mmap.mmap(-1, 2 * PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
            anchor = ctypes.c_char.from_buffer(memory)
            address = ctypes.addressof(anchor)
            size = struct.pack("2Q", address, 2 * PAGE)
            memory[PAGE] = 1
            try:
                fcntl.ioctl(self._fd, _UFFDIO_REGISTER, bytearray(size + struct.pack("2Q", _MODE_WP, 0)))
                fcntl.ioctl(self._fd, _UFFDIO_WRITEPROTECT, bytearray(size + struct.pack("Q", 1)))
                protected = self._all_protected(address, address + 2 * PAGE)
                memory[PAGE] = 2
                return protected and not self._all_protected(address, address + 2 * PAGE)
            except OSError:
                return False
            finally:
                del anchor


def _is_private(first: int, end: int) -> bool:
    """Whether only this process' own instructions and system calls can write to a range."""
    try:
        with open("/proc/self/status") as file:
            pinned = next((line for line in file if line.startswith("VmPin:")), "VmPin: 0 kB")
        with open("/proc/self/maps") as file:
            lines = file.readlines()
    except OSError:
        return False
    if int(pinned.split()[1]):
        return False
    covered = first
    for line in lines:
        if "/dev/" in line and any(device in line for device in _DEVICES):
            return False
        addresses, mode, _, _, inode, *name = line.split(None, 5)
        low, _, high = addresses.partition("-")
        start, stop = int(low, 16), int(high, 16)
        if stop <= first or start >= end:
            continue
        named = name[0].strip() if name else ""
        if inode != "0" or mode != "rw-p" or start > covered:
            return False
        if named and not named.startswith(("[heap]", "[anon", "[stack")):
            return False
        covered = stop
    return covered >= end
