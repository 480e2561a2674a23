"""A seccomp filter: the process can from now on only compute and use its open sockets.

The kernel refuses every other system call with ENOSYS, so a library takes the failure for a call
that the kernel lacks. The calls are numbered by the machine's architecture; on others than x86-64
and ARM64, and on a kernel without seccomp, there is no filter.
Source: the kernel's Documentation/userspace-api/seccomp_filter.rst.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import struct
from typing import NamedTuple

_PR_SET_NO_NEW_PRIVS = 38
_PR_SET_SECCOMP = 22
_SECCOMP_MODE_FILTER = 2
_RET_ALLOW = 0x7FFF0000
_RET_ERRNO = 0x00050000

# Classic BPF: load a word of seccomp_data, jump if equal, return.
_LOAD, _JUMP_EQUAL, _RETURN = 0x20, 0x15, 0x06
_INSTRUCTION = struct.Struct("=HBBI")
_NUMBER_OFFSET, _ARCHITECTURE_OFFSET, _ARGUMENT_OFFSET = 0, 4, 16


class _Machine(NamedTuple):
    """``audit``: the number of the architecture. ``calls``: those that are allowed.

    ``prlimit``: allowed for the processor time of the process itself.
    """

    audit: int
    calls: tuple[int, ...]
    prlimit: int


# read, write, close, fstat, lseek, mmap, mprotect, munmap, brk, rt_sigaction, rt_sigprocmask,
# rt_sigreturn, sched_yield, mremap, madvise, nanosleep, getpid, sendto, recvfrom, getsockname,
# getpeername, exit, getrusage, sysinfo, sigaltstack, gettid, futex, sched_getaffinity,
# clock_gettime, clock_getres, clock_nanosleep, exit_group, getrandom, rseq
_MACHINES = {
    "x86_64": _Machine(
        0xC000003E,
        (0, 1, 3, 5, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 28, 35, 39, 44, 45, 51, 52, 60, 98,
         99, 131, 186, 202, 204, 228, 229, 230, 231, 318, 334),
        302,
    ),
    "aarch64": _Machine(
        0xC00000B7,
        (63, 64, 57, 80, 62, 222, 226, 215, 214, 134, 135, 139, 124, 216, 233, 101, 172, 206, 207,
         204, 205, 93, 165, 179, 132, 178, 98, 123, 113, 114, 115, 94, 278, 293),
        261,
    ),
}  # fmt: skip


def _program(machine: _Machine) -> bytes:
    deny, allow = _RET_ERRNO | errno.ENOSYS, _RET_ALLOW
    count = len(machine.calls)
    instructions = [
        (_LOAD, 0, 0, _ARCHITECTURE_OFFSET),
        (_JUMP_EQUAL, 1, 0, machine.audit),
        (_RETURN, 0, 0, deny),
        (_LOAD, 0, 0, _NUMBER_OFFSET),
        *((_JUMP_EQUAL, count - row + 5, 0, call) for row, call in enumerate(machine.calls)),
        (_JUMP_EQUAL, 0, 4, machine.prlimit),
        (_LOAD, 0, 0, _ARGUMENT_OFFSET),
        (_JUMP_EQUAL, 0, 2, 0),  # the process itself
        (_LOAD, 0, 0, _ARGUMENT_OFFSET + 8),
        (_JUMP_EQUAL, 1, 0, int(resource.RLIMIT_CPU)),
        (_RETURN, 0, 0, deny),
        (_RETURN, 0, 0, allow),
    ]
    return b"".join(_INSTRUCTION.pack(*instruction) for instruction in instructions)


class _SockFprog(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def filter_calls() -> bool:
    """Filters the system calls of this process, for good; whether that was possible."""
    machine = _MACHINES.get(os.uname().machine)
    if machine is None:
        return False
    program = _program(machine)
    argument = _SockFprog(len(program) // _INSTRUCTION.size, program)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        return False
    pointer = ctypes.byref(argument)
    return bool(libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, pointer, 0, 0) == 0)
