"""Errors that a user can fix. Any other exception is a bug; it ends with a traceback and exit code 1."""

from collections.abc import Mapping


class UserError(Exception):
    """One line that says where the problem is, what it is, and how to fix it.

    `main` prints it and exits with `exit_code`.
    """

    exit_code = 2


class OutputLocked(UserError):
    """Another run holds the lock of the output. A later run may succeed."""

    exit_code = 75


class LimitReached(UserError):
    """A budget or a time limit of the user is reached. Finished work is kept."""

    exit_code = 5


class Exhausted(LimitReached):
    """The account on a server is used up: its quota of the day, its credit, or a limit of its spending."""


class CommandEnded(Exception):
    """The command has finished and has printed everything it had to say. `main` exits with `exit_code`."""

    exit_code = 1


class SomeFailed(CommandEnded):
    """Some records failed. The next run tries those again that were not written."""

    exit_code = 3


class GateFailed(CommandEnded):
    """A measured number does not keep a gate that the user set."""

    exit_code = 4


class Stopped(Exception):
    """No new work may start: the run was interrupted, or a limit was reached."""


class Interrupted(KeyboardInterrupt):
    """The user interrupted the run. The message says what is kept and how to continue."""


class OutputClosed(Exception):
    """The reader of standard output has closed it. Nothing more is needed, and this is not an error."""


class RecordFailed(Exception):
    """One record failed. It is counted and reported, the other records continue, and the exit code is 3."""


class Unusable(RecordFailed):
    """A model answered, and the answer was paid for, but it cannot be used.

    A judgement keeps the answer's `raw` text, its `usage`, and how it was `asked`. The question is not asked again
    unless the user asks for it.
    """

    def __init__(self, reason: str, raw: str = "", usage: Mapping[str, float] | None = None) -> None:
        super().__init__(reason)
        self.raw, self.usage = raw, dict(usage or {})
        self.asked: Mapping[str, str] = {}


class Inconclusive(Unusable):
    """A server rejected a request, or cut an answer off, and may do so with every record.

    It is recorded only after another record was answered. Until then the cause may be an option.
    """


class Refused(Exception):
    """An annotator refused to judge; the message is its reason. A refusal is an answer and is recorded."""

    def __init__(self, reason: str, usage: Mapping[str, float] | None = None) -> None:
        super().__init__(reason)
        self.usage = dict(usage or {})
        self.asked: Mapping[str, str] = {}


def os_reason(error: OSError) -> str:
    """The operating system's reason in lower case, such as ``no space left on device``, for the end of a message."""
    return (error.strerror or str(error)).lower()


_OUT_OF_MEMORY = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "MPS backend out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)
"""Parts of the messages of torch's RuntimeErrors. On a CPU, and on Apple's GPUs, there is no class of its own."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, CUDA or torch ran out of memory. torch need not be loaded."""
    own = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return own or (isinstance(error, RuntimeError) and any(text in str(error) for text in _OUT_OF_MEMORY))
