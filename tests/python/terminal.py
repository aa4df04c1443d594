"""Runs a program on a terminal of its own, as told line by line.

    terminal.py PROGRAM ARGUMENT...

Each line of standard input is a step in JSON, and each is answered by a line:
{"wait": TEXT}          until the program has written this, after what was waited for before
{"send": TEXT}          keys
{"resize": [COLUMNS, LINES]}
{"signal": NAME}        to the program
{"end": true}           until the program has ended: its status, whether the terminal is as it was, and what was written last
"""

import fcntl
import json
import os
import select
import signal
import struct
import subprocess
import sys
import termios
import time

DEADLINE_SECONDS = 90


def resize(terminal, columns, lines):
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))


def settings(terminal):
    told = termios.tcgetattr(terminal)
    return told[:6] + [[bytes(code) if isinstance(code, bytes) else code for code in told[6]]]


class Program:
    def __init__(self, command):
        self.ours, self.its = os.openpty()
        resize(self.its, 120, 30)
        self.before = settings(self.its)
        self.written, self.all = "", ""
        self.process = subprocess.Popen(
            command,
            stdin=self.its,
            stdout=self.its,
            stderr=self.its,
            start_new_session=True,
            # Its controlling terminal: that is who hears of a resize.
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )

    def read(self, seconds):
        """What was written meanwhile; empty: nothing."""
        if not select.select([self.ours], [], [], seconds)[0]:
            return ""
        text = os.read(self.ours, 65536).decode(errors="replace")
        self.written += text
        self.all = (self.all + text)[-20000:]
        return text

    def wait(self, text):
        end = time.monotonic() + DEADLINE_SECONDS
        while text not in self.written:
            if time.monotonic() > end or (self.process.poll() is not None and not self.read(0)):
                return {"missing": text, "written": self.all}
            self.read(0.05)
        self.written = self.written[self.written.index(text) + len(text) :]
        return {}

    def end(self):
        end = time.monotonic() + DEADLINE_SECONDS
        while self.process.poll() is None:
            if time.monotonic() > end:
                self.process.kill()
                return {"missing": "its end", "written": self.all}
            self.read(0.05)
        while self.read(0.05):
            pass
        restored = settings(self.its) == self.before
        return {"status": self.process.returncode, "restored": restored, "written": self.all}


def main():
    program = Program(sys.argv[1:])
    for line in sys.stdin:
        step, answer = json.loads(line), {}
        if "wait" in step:
            answer = program.wait(step["wait"])
        elif "send" in step:
            os.write(program.ours, step["send"].encode())
        elif "resize" in step:
            resize(program.its, *step["resize"])
        elif "signal" in step:
            program.process.send_signal(getattr(signal, "SIG" + step["signal"]))
        else:
            answer = program.end()
        print(json.dumps(answer), flush=True)
    if program.process.poll() is None:
        program.process.kill()


if __name__ == "__main__":
    main()
