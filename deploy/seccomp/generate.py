"""Writes ttdust.json: the profile that Docker runs containers under by default, and io_uring, which it refuses, on top.

    generate.py /path/to/profiles/seccomp/default.json

The profile is that of Docker 26.1.5, as Debian 13 ships it (`golang-github-docker-docker-dev`, Apache-2.0, below
/usr/share/gocode/src/github.com/docker/docker). Docker 25 was the first to refuse io_uring.
"""

import hashlib
import json
import pathlib
import sys

DEFAULT = "9c1025c88ccaa517b648da571961838744ea2137f176bfe6a48b21294cae9c76"
ADDED = {
    "comment": "All that TTDust adds to the default profile of Docker.",
    "names": ["io_uring_enter", "io_uring_register", "io_uring_setup"],
    "action": "SCMP_ACT_ALLOW",
}

if __name__ == "__main__":
    text = pathlib.Path(sys.argv[1]).read_bytes()
    if hashlib.sha256(text).hexdigest() != DEFAULT:
        sys.exit(f"{sys.argv[1]} is not the profile of Docker 26.1.5: look at what changed, then change DEFAULT")
    profile = json.loads(text)
    profile["syscalls"].insert(0, ADDED)
    written = json.dumps(profile, indent="\t") + "\n"
    pathlib.Path(__file__).with_name("ttdust.json").write_text(written, encoding="ascii")
