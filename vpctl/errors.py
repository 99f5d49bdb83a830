"""The errors a user can mend. Anything else that is raised is a bug and ends in a traceback and exit 1."""

from collections.abc import Mapping


class UserError(Exception):
    """A mistake of the user. The text is one line: the place, the mistake, and how to correct it."""

    exit_code = 2


class OutputLocked(UserError):
    """Another run has locked the output."""

    exit_code = 75


class LimitReached(UserError):
    """A limit that the user set is reached. Finished records are kept."""

    exit_code = 5


class Ended(Exception):
    """The command has finished and printed its messages; `main` only exits with `exit_code`."""

    exit_code = 1


class SomeFailed(Ended):
    """Some records failed. The next run tries them again."""

    exit_code = 3


class GateNotMet(Ended):
    """A measured number is below the gate that the user set."""

    exit_code = 4


class Stopped(Exception):
    """The run must begin nothing new, because of an interrupt or a limit."""


class Interrupted(KeyboardInterrupt):
    """The user interrupted the run. The text says what is kept and how to continue."""


class OutputClosed(Exception):
    """The reader of the output pipe has closed it. This is no error: the command ends without a message."""


class RecordFailed(Exception):
    """One record could not be processed. It is counted and reported, other records continue, and the exit code is 3."""


class Unusable(RecordFailed):
    """The answer of a model is unusable.

    It is recorded with its `raw` text and its `usage`, because it was paid for. Only --retry asks again.
    """

    def __init__(self, reason: str, raw: str = "", usage: Mapping[str, float] | None = None) -> None:
        super().__init__(reason)
        self.raw, self.usage = raw, dict(usage or {})


class Refused(Exception):
    """An annotator refused to judge; the text is its reason. It is recorded like an answer. Only --retry asks again."""

    def __init__(self, reason: str, usage: Mapping[str, float] | None = None) -> None:
        super().__init__(reason)
        self.usage = dict(usage or {})


def os_reason(error: OSError) -> str:
    """The operating system's reason in lower case, such as ``no space left on device``, for the end of a message."""
    return (error.strerror or str(error)).lower()
