"""Runs a command as a rank, hands signals on to it, and notes its exit code: note_exit.py DIRECTORY COMMAND..."""

import os
import signal
import subprocess
import sys

rank = os.environ.get("OMPI_COMM_WORLD_RANK") or os.environ.get("PMI_RANK")
child = None


def forward(number: int, frame: object) -> None:
    """Hand a signal on."""
    if child is not None:
        child.send_signal(number)


for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
    signal.signal(number, forward)
child = subprocess.Popen(sys.argv[2:], close_fds=False)
code = child.wait()
code = code if code >= 0 else 128 - code
with open(f"{sys.argv[1]}/{rank}", "w") as file:
    file.write(str(code))
sys.exit(code)
