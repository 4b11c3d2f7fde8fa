"""Strikes a program at a chosen moment from outside: Python runs this file at the start of what `strike` starts.

The moment is the COUNTth audit event of a name with an argument that holds a text: ("os.rename", "last.pth") is just
before a checkpoint replaces the last one, ("open", "/val/") while an evaluation reads its images. Processes that are
forked later count by themselves and strike the same target. Of several processes under torchrun, the first strikes.
"""

import os
import signal
import sys
from pathlib import Path


def parents() -> dict[int, int]:
    """The parent of every process."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                found[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue  # it has just ended
    return found


def kill_family(root: int) -> None:
    """SIGKILL to a process, first, and to all that descend from it."""
    family, parent_of = [root], parents()
    for member in family:
        family += [pid for pid, parent in parent_of.items() if parent == member]
    for pid in family:
        os.kill(pid, signal.SIGKILL)


def arm(event: str, text: str, count: int, number: int, target: int) -> None:
    def hook(name: str, arguments: tuple) -> None:
        nonlocal count
        if name != event or count <= 0 or not any(text in str(argument) for argument in arguments[:2]):
            return
        count -= 1
        if count == 0 and number == signal.SIGKILL:
            kill_family(target)
        elif count == 0:
            os.kill(target, number)

    sys.addaudithook(hook)


is_launcher = "torch.distributed.run" in sys.orig_argv
if "STRIKE" in os.environ and not is_launcher and os.environ.get("RANK", "0") == "0":
    event, text, count, number = os.environ["STRIKE"].split("|")
    arm(event, text, int(count), int(number), os.getppid() if "RANK" in os.environ else os.getpid())
