"""Runs a program under a seccomp filter that refuses io_uring, as container runtimes do by default.

    without_io_uring.py PROGRAM ARGUMENT...
"""

import ctypes
import os
import struct
import sys

PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, SECCOMP_MODE_FILTER = 22, 38, 2
LOAD_WORD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, REFUSE_WITH_EPERM = 0x7FFF0000, 0x00050000 | 1
# The same numbers on x86-64 and on ARM.
IO_URING = [425, 426, 427]


def instruction(code, value, if_true=0, if_false=0):
    return struct.pack("=HBBI", code, if_true, if_false, value)


def program():
    """The number of the system call is the filter's first word."""
    lines = [instruction(LOAD_WORD, 0)]
    for at, number in enumerate(IO_URING):
        lines.append(instruction(JUMP_IF_EQUAL, number, if_true=len(IO_URING) - at))
    return b"".join([*lines, instruction(RETURN, ALLOW), instruction(RETURN, REFUSE_WITH_EPERM)])


def install():
    code = ctypes.create_string_buffer(program())
    lines = (len(code) - 1) // 8
    filter_program = struct.pack("@HP", lines, ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    zero = ctypes.c_ulong(0)
    for arguments in [
        (PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), zero, zero, zero),
        (PR_SET_SECCOMP, ctypes.c_ulong(SECCOMP_MODE_FILTER), ctypes.create_string_buffer(filter_program), zero, zero),
    ]:
        if libc.prctl(*arguments) != 0:
            sys.exit(f"prctl({arguments[0]}): {os.strerror(ctypes.get_errno())}")


if __name__ == "__main__":
    install()
    os.execv(sys.argv[1], sys.argv[1:])
