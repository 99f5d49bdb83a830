"""VQAScore (Lin et al. 2024, arXiv 2404.01291) of a local vision-language model: vqascore:FOLDER or vqascore:HUB-ID.

The score is the probability that the model answers "Yes" to: Does this figure show "PROMPT"? Please answer yes or no.
It is in (0, 1). The model can be any that transformers' AutoModelForImageTextToText opens and that has a chat template,
unless it always thinks before it answers. The picture and the question are one turn of the user. If the tokenizer
splits "Yes", the score is the product of the conditional probabilities of its tokens. The end of the answer is not part
of the score. Published VQAScores are of CLIP-FlanT5. The scores of different models cannot be compared.

Control tokens in a prompt are broken up, so that a prompt cannot answer for the model. Pictures are scaled down to at
most 1024 pixels a side. The model runs in float32 on a CPU and in bfloat16 on a GPU. A prompt that is longer than the
model reads gets no score.
"""

from typing import TYPE_CHECKING

from ..contracts import WITHOUT_GRADIENT, Reward
from ..errors import RecordFailed, UserError
from ..models import sources

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from ..models.vision_language import Conversation, VisionLanguageModel

ARGUMENTS = "DIR"
OPTION = "--reward vqascore:"
QUESTION = 'Does this figure show "{}"? Please answer yes or no.'
ANSWER = "Yes"


class VQAScore(Reward):
    """The probability that a vision-language model answers "Yes" when asked whether a picture shows its prompt."""

    differentiable = False

    def __init__(self, chat: "VisionLanguageModel") -> None:
        """Load the weights. Raises `UserError` if they cannot be used, or if the model cannot answer at once."""
        from ..models.vision_language import AnswerProbability

        self._chat = chat
        self._probability = AnswerProbability(chat, ANSWER)

    def __call__(self, images: "list[Image.Image] | Tensor", prompts: list[str]) -> "Tensor":
        """The probabilities (B,), in float32 and (0, 1).

        A picture or a prompt that the model cannot read, such as a prompt that is too long, gets NaN, and a warning
        says why.
        """
        import torch

        from .. import progress
        from ..models.tensors import to_pictures

        pictures = to_pictures(images) if isinstance(images, torch.Tensor) else images
        asked = [self.conversation(picture, prompt) for picture, prompt in zip(pictures, prompts, strict=True)]
        scores = []
        for found in self._probability(asked):
            if isinstance(found, RecordFailed):
                progress.warn_each("pictures have no VQAScore", f"{self._chat.where}: {found}")
            scores.append(float("nan") if isinstance(found, RecordFailed) else found)
        return torch.tensor(scores, dtype=torch.float32)

    def conversation(self, picture: "Image.Image", prompt: str) -> "Conversation":
        """The question about a picture: one turn of the user, the picture first."""
        from ..models.vision_language import Conversation, shrunk, text_part

        question = text_part(self._chat.harmless(QUESTION.format(prompt)))
        return Conversation([{"role": "user", "content": [{"type": "image"}, question]}], [shrunk(picture)])


def check(argument: str, *, gradient: bool = False) -> None:
    """Raise `UserError` if `argument` is not a folder or hub id of a vision-language model with a chat template.

    Also raises it if a `gradient` is needed.
    """
    if gradient:
        raise UserError(f"{OPTION}{argument}: {WITHOUT_GRADIENT}")
    if not argument:
        raise UserError(f"{OPTION} name a model, as in vqascore:Qwen/Qwen2.5-VL-7B-Instruct")
    sources.check("judge", argument, option=OPTION)


def load(argument: str, *, device: str = "auto", dtype: str = "") -> VQAScore:
    """The model of a folder or a hub id, as a reward.

    `dtype` is float32, bfloat16 or float16; if it is empty, it is float32 on a CPU and bfloat16 on a GPU. Raises
    `UserError` if the model cannot chat about pictures or always thinks before it answers.
    """
    check(argument)
    from ..models.vision_language import VisionLanguageModel

    return VQAScore(VisionLanguageModel(argument, device, option=OPTION, dtype=dtype))
