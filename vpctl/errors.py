"""The errors a user can mend. Anything else that is raised is a bug and ends in a traceback and exit 1."""

from collections.abc import Mapping


class UserError(Exception):
    """One line that says where, what, and the way out; `main` prints it and exits with `exit_code`."""

    exit_code = 2


class OutputLocked(UserError):
    """Another run holds the output; the next one may find it free."""

    exit_code = 75


class LimitReached(UserError):
    """A budget or a time that the user set is spent; what is finished is kept."""

    exit_code = 5


class Ended(Exception):
    """The command has finished and has said all there is to say; `main` exits with `exit_code`."""

    exit_code = 1


class SomeFailed(Ended):
    """Some records could not be done; the next run tries them again."""

    exit_code = 3


class GateNotMet(Ended):
    """An evaluation is below the gate that the user set."""

    exit_code = 4


class Stopped(Exception):
    """Nothing new is begun any more: the run is being interrupted, or a limit has been reached."""


class Interrupted(KeyboardInterrupt):
    """The user ended the run; the text says what is kept and how to continue."""


class OutputClosed(Exception):
    """Whoever read our standard output has closed it: nothing more is wanted, and nothing is wrong."""


class RecordFailed(Exception):
    """One record could not be done. It is counted and reported, the others go on, and the exit is 3."""


class Unusable(RecordFailed):
    """An answer came and was paid for, and nothing can be made of it.

    It is recorded with its `raw` text and its `usage`, and is not asked for again without being told to.
    """

    def __init__(self, reason: str, raw: str = "", usage: Mapping[str, float] | None = None) -> None:
        super().__init__(reason)
        self.raw, self.usage = raw, dict(usage or {})


class Refused(Exception):
    """An annotator would not judge; the text is its reason. This is an answer, and is recorded as one."""

    def __init__(self, reason: str, usage: Mapping[str, float] | None = None) -> None:
        super().__init__(reason)
        self.usage = dict(usage or {})


def os_reason(error: OSError) -> str:
    """The system's reason in small letters, such as ``no space left on device``, for the end of a message."""
    return (error.strerror or str(error)).lower()
