# ruff: noqa: E501 - tables and grammars of invalid input
"""A seccomp filter: once it is set, the kernel kills the process if it opens a file or socket, or starts a program.

Python's audit hooks see only what Python does; the filter sees every library. Linux only, like the tests' servers.
"""

from __future__ import annotations

import ctypes
import platform
import struct

_NUMBERS = {
    "x86_64": (2, 257, 437, 41, 42, 49, 50, 59, 322, 87, 263, 85, 82, 264, 316),
    "aarch64": (56, 437, 198, 203, 200, 201, 221, 281, 35, 276),
}
"""System call numbers by machine: open, openat, openat2, socket, connect, bind, listen, execve, execveat, unlink, creat, rename."""
_LOAD, _JUMP_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _KILL = 0x7FFF0000, 0x80000000
_NO_NEW_PRIVILEGES, _SECCOMP, _SET_FILTER, _ALL_THREADS = 38, {"x86_64": 317, "aarch64": 277}, 1, 1


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def lock() -> None:
    """Set the filter for all threads; it cannot be removed."""
    machine = platform.machine()
    numbers = _NUMBERS[machine]
    lines = [(_LOAD, 0, 0, 0)]
    lines += [(_JUMP_EQUAL, len(numbers) - at, 0, number) for at, number in enumerate(numbers)]
    lines += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _KILL)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in lines))
    program = _Program(len(lines), ctypes.cast(code, ctypes.c_void_p))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) or libc.syscall(
        _SECCOMP[machine], _SET_FILTER, _ALL_THREADS, ctypes.byref(program)
    ):
        raise OSError(ctypes.get_errno(), "the kernel did not accept the filter")
