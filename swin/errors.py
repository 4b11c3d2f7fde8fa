"""The errors that users see. Each message says what was found, what was expected and what to do.

`main.py` and the tools print such an error as one message and exit with its `exit_code`; anything else that escapes
is a bug in this project.
"""

import re

# Control characters, separators of lines, and what stands for bytes that are no UTF-8.
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def printable(text: str) -> str:
    """Escape what a file's name may hold, and no terminal, log or list of a name a line can."""
    return UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class SwinError(Exception):
    """Base of all errors meant for users.

    Attributes:
        exit_code: of the program that ends with it.
        is_shared: whether every process of a run raises it, so that the main one alone need say it.
    """

    exit_code = 2
    is_shared = False

    def __init__(self, message: str, *, is_shared: bool | None = None) -> None:
        """Make an error; `is_shared` only where it differs from the class's."""
        super().__init__(message)
        if is_shared is not None:
            self.is_shared = is_shared


class ConfigError(SwinError):
    """A configuration file, option or flag that cannot be used."""

    is_shared = True


class DataError(SwinError):
    """A data set, archive or image that cannot be used; its message is one printable line, whatever names it quotes."""

    def __init__(self, message: str, *, is_shared: bool | None = None) -> None:
        super().__init__(printable(message), is_shared=is_shared)


class CheckpointError(SwinError):
    """A checkpoint or weight file that cannot be read, or does not fit the model."""


class NonFiniteError(SwinError):
    """Training was stopped because losses or gradients stayed infinite or NaN."""

    exit_code = 4
    is_shared = True


class ProcessGroupError(SwinError):
    """Another process of a distributed run ended, or did not answer in time."""

    exit_code = 1


class RunStoppedError(SwinError):
    """The run was stopped by a signal, with everything saved that there was."""

    exit_code = 3
    is_shared = True


class InterruptedRunError(SwinError):
    """The run was ended at once, by a second Ctrl-C: what came after the last checkpoint is lost."""

    exit_code = 130  # what a shell reports of a program that SIGINT ended
