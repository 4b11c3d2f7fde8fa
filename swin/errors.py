"""The errors that users see. Each message says what was found, what was expected and what to do.

`main.py` and the tools print such an error as one message and exit with its `exit_code`; anything else that escapes
is a bug in this project.
"""


class SwinError(Exception):
    """Base of all errors meant for users."""

    exit_code = 2


class ConfigError(SwinError):
    """A configuration file, option or flag that cannot be used."""


class DataError(SwinError):
    """A data set, archive or image that cannot be used."""


class CheckpointError(SwinError):
    """A checkpoint or weight file that cannot be read, or does not fit the model."""


class NonFiniteError(SwinError):
    """Training was stopped because losses or gradients stayed infinite or NaN."""

    exit_code = 4


class ProcessGroupError(SwinError):
    """Another process of a distributed run ended, or did not answer in time."""

    exit_code = 1


class RunStoppedError(SwinError):
    """Training was stopped by a signal after everything was saved."""

    exit_code = 3
