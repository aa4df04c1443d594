"""Runs a program under a seccomp profile as Docker writes them, as Docker would for a container without capabilities.

    under_seccomp.py PROFILE PROGRAM ARGUMENT...
"""

import json
import os
import platform
import sys

import pyseccomp

ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
KERNEL = tuple(int(number) for number in platform.release().split(".")[:2])


def is_meant(rule):
    """Whether a rule is for this machine and for a process without capabilities."""
    included, excluded = rule.get("includes", {}), rule.get("excludes", {})
    kernel = tuple(int(number) for number in included.get("minKernel", "0.0").split("."))
    return (
        not included.get("caps")
        and KERNEL >= kernel
        and ARCHITECTURE in included.get("arches", [ARCHITECTURE])
        and ARCHITECTURE not in excluded.get("arches", [])
    )


def action(name, errno):
    return {"SCMP_ACT_ALLOW": pyseccomp.ALLOW, "SCMP_ACT_ERRNO": pyseccomp.ERRNO(errno)}[name]


def argument(wanted):
    operator = getattr(pyseccomp, wanted["op"].removeprefix("SCMP_CMP_"))
    return pyseccomp.Arg(wanted["index"], operator, wanted["value"], wanted.get("valueTwo", 0))


def load(profile):
    refused = profile["defaultErrnoRet"]
    default = action(profile["defaultAction"], refused)
    loaded = pyseccomp.SyscallFilter(default)
    for rule in filter(is_meant, profile["syscalls"]):
        wanted = action(rule["action"], rule.get("errnoRet", refused))
        for name in rule["names"]:
            try:
                if wanted != default:
                    loaded.add_rule(wanted, name, *map(argument, rule.get("args", [])))
            except (OSError, ValueError):
                # A call of another machine, or one that is newer than this library.
                if name.startswith("io_uring"):
                    raise
    loaded.load()


if __name__ == "__main__":
    with open(sys.argv[1], encoding="ascii") as file:
        load(json.load(file))
    os.execv(sys.argv[2], sys.argv[2:])
