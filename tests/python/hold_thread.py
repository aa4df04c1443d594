"""Holds one thread of a process, as a core that is taken away would, until standard input ends.

    hold_thread.py PID NAME

Prints `held` as soon as it is. Whatever ends this program, the thread goes on.
"""

import ctypes
import os
import sys

PTRACE_SEIZE, PTRACE_INTERRUPT = 0x4206, 0x4207
WAIT_FOR_THREADS = 0x40000000


def thread_named(pid, name):
    for thread in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{thread}/comm", encoding="ascii") as comm:
            if comm.read().strip() == name:
                return int(thread)
    sys.exit(f"process {pid} has no thread {name}")


def ptrace(request, thread):
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    libc.ptrace.restype = ctypes.c_long
    if libc.ptrace(request, thread, None, None) != 0:
        sys.exit(f"ptrace({request:#x}): {os.strerror(ctypes.get_errno())}")


if __name__ == "__main__":
    held = thread_named(int(sys.argv[1]), sys.argv[2])
    ptrace(PTRACE_SEIZE, held)
    ptrace(PTRACE_INTERRUPT, held)
    os.waitpid(held, WAIT_FOR_THREADS)
    print("held", flush=True)
    sys.stdin.read()
