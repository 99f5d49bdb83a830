"""An annotator as a reward, such as judge:openai:gpt-4o: the mean of its scores on all aspects.

A call shows one picture, and asks about all aspects. Only tune-ppo and tune-dpo take a judge: they have limits for its
cost, and keep its answers. The scores of language models are coarse: levels from 1 to 5. tune-ppo and tune-dpo
therefore do not use them as they are: the reward of a picture is its win rate against the other pictures of its prompt
(Pref-GRPO, Wang et al. 2025, arXiv 2508.20751). A picture that the annotator gave no score has the reward of an average
one.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .. import plugins
from ..configs import ServerConfig
from ..contracts import WITHOUT_GRADIENT
from ..errors import UserError

if TYPE_CHECKING:
    from ..judging.reward import JudgeReward

ARGUMENTS = "annotator"


def check(argument: str, *, gradient: bool = False, server: ServerConfig | None = None) -> None:
    """Raise `UserError` if `argument` does not name an annotator, or names one that cannot be used.

    A command without the options of a `server` cannot limit the cost, so it cannot use a judge. With them, a packaged
    annotator that asks a server must have its key: it is opened, which takes no time. No annotator has the `gradient`.
    """
    if gradient:
        raise UserError(f"--reward judge:{argument}: {WITHOUT_GRADIENT}")
    if server is None:
        raise UserError(
            f"--reward judge:{argument}: only tune-ppo and tune-dpo ask a judge; to score pictures with it, use "
            f"annotate --annotator {argument or 'SPEC'}"
        )
    if not argument:
        known = ", ".join(f"judge:{name}" for name in plugins.catalog("annotator"))
        raise UserError(f"--reward judge: name an annotator: {known}, or your own file as judge:PATH.py")
    with _named():
        plugins.check("annotator", argument)
        own_file = plugins.split(argument)[0].endswith(".py")  # which may take time, and is opened later
        if not own_file and plugins.takes("annotator", argument, "server"):
            plugins.load("annotator", argument, server=server).check()


def load(
    argument: str,
    *,
    device: str = "auto",
    server: ServerConfig | None = None,
    aspects: Sequence[str] = (),
    answers: str = "",
    others: Sequence[str] = (),
) -> "JudgeReward":
    """The annotator that `argument` names, as in ``--annotator``. Its answers are kept in the file `answers`.

    The files `others`, of other processes, are only read. Without the options of a `server` they have their defaults.
    """
    server = server or ServerConfig()
    check(argument, server=server)
    from ..judging.reward import open_judge

    with _named():
        return open_judge(argument, aspects, server, answers, others=others, device=device)


@contextmanager
def _named() -> Iterator[None]:
    """A context in which errors about the annotator name the option of the reward. They keep their types."""
    try:
        yield
    except UserError as error:
        error.args = (str(error).replace("--annotator ", "--reward judge:"),)
        raise
