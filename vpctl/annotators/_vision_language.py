"""A local vision-language model as a judge, for the annotator `transformers`."""

from collections import Counter
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jinja2 import TemplateError
from PIL import Image
from torch import Tensor

from ..api.answers import parse
from ..contracts import Annotator, Kind, Question, Verdicts
from ..errors import RecordFailed, Unusable, UserError
from ..judging import questions
from ..judging.microbatch import MicroBatcher
from ..models.vision_language import (
    MARK,
    MAX_SIDE,
    Conversation,
    Message,
    VisionLanguageModel,
    sample,
    shrunk,
    text_part,
    turn,
)
from ..progress import plural
from ..records import fingerprint

OPTION = "--annotator transformers:"
PER_ANSWER, PER_PICTURE = 128, 224
"""Maximum number of new tokens: for an answer, and in addition for each picture on each aspect.

Two sentences and a level take about 100 tokens, and a list of what the prompt names twice as many.
"""


class ChatRequest(NamedTuple):
    """A conversation that waits for an answer, with its pictures. `limit` is the maximum number of new tokens."""

    messages: list[Message]
    pictures: list[Image.Image]
    limit: int

    @property
    def conversation(self) -> Conversation:
        """The messages and the pictures."""
        return Conversation(self.messages, self.pictures)


class ChatReply(NamedTuple):
    """The model's answer. `truncated` is true if the answer reached its limit before it was complete."""

    text: str
    truncated: bool
    usage: dict[str, float]


class LocalJudge(Annotator):
    """A vision-language model that judges. Its weights are loaded at the first question."""

    def __init__(self, source: str, device: str) -> None:
        """Open the processor of a folder or a hub id. Raises `UserError` if the model cannot chat about pictures."""
        self._chat = VisionLanguageModel(source, device, option=OPTION)
        self._knows_system = self._reads_system()
        self._why_no_more = self._chat.why_not(2)
        self._keeps_places = bool(self._why_no_more) or self._pictures_stay()
        most = self._chat.max_batch_size
        self.batches = MicroBatcher(self._answers, most=most, size=lambda asked: asked.conversation.size)

    @property
    def identity(self) -> dict[str, Any]:
        """Everything besides the question that determines the answers."""
        source = self._chat.source
        return {
            "model": source,
            "revision": fingerprint(source) if Path(source).is_dir() else self._chat.revision,
            "dtype": str(self._chat.dtype).removeprefix("torch."),
            "decoding": "greedy",
            "max_new_tokens": [PER_ANSWER, PER_PICTURE],
            "max_side": MAX_SIDE,
        }

    def prepare(self, image: Image.Image, path: str) -> Image.Image:
        """The picture, scaled down if a side is longer than `MAX_SIDE`."""
        return shrunk(image)

    def deterministic(self) -> bool:
        """True: the most probable token is chosen each time."""
        return True

    def template(self, kind: Kind) -> str:
        """Name and hash of the instructions for the model."""
        return questions.template(kind)

    async def ask(self, question: Question) -> list[Verdicts]:
        """One `Verdicts` for each aspect. The first one has the usage of the whole call.

        An unusable answer is sent back to the model once, with the reason. Raises `Unusable` if the second answer is
        unusable too, and `UserError` if the question shows several pictures and the model accepts only one.
        """
        pictures = list(question.pictures)
        if len(pictures) > 1 and self._why_no_more:
            raise UserError(
                f"{self._chat.where}: reads one picture at a time, as {self._why_no_more}; judge with --mode point"
            )
        limit = PER_ANSWER + PER_PICTURE * len(pictures) * len(question.aspects)
        asked = ChatRequest(self.conversation(question), pictures, limit)
        used: Counter[str] = Counter()
        sent_back = False
        while True:
            said = await self.batches(asked)
            used.update(said.usage)
            try:
                found = questions.parse_verdicts(question.kind, _object(said))
            except Unusable as error:
                if sent_back:
                    raise Unusable(str(error), said.text, used) from None
                asked, sent_back = self._sent_back(asked, said, error), True
            else:
                return [found[0]._replace(usage=dict(used)), *found[1:]]

    def _sent_back(self, asked: ChatRequest, said: ChatReply, error: Unusable) -> ChatRequest:
        """The conversation, continued with the unusable answer and the reason why it is unusable."""
        turns = [
            turn("assistant", self._chat.harmless(said.text)),
            turn("user", self._chat.harmless(REPAIR.format(error))),
        ]
        return asked._replace(messages=[*asked.messages, *turns])

    def conversation(self, question: Question) -> list[Message]:
        """The question as chat messages. Each picture has a placeholder, with its letter in front of it."""
        kind = question.kind
        system = questions.system_prompt(kind)
        start = questions.text_before()
        if not self._keeps_places:
            start = f"{start}\n\nThe pictures come in this order: {', '.join(kind.letters)}."
        text = self._chat.harmless(start if self._knows_system else f"{system}\n\n{start}") + "\n\n"
        parts = []
        for letter in kind.letters:
            parts += [text_part(f"{text}{questions.picture_label(letter)}\n"), {"type": "image"}]
            text = "\n"
        end = self._chat.harmless(questions.text_after(question))
        user = {"role": "user", "content": [*parts, text_part(f"\n{end}")]}
        return [turn("system", self._chat.harmless(system)), user] if self._knows_system else [user]

    def _answers(self, asked: list[ChatRequest]) -> list[ChatReply | Exception]:
        """The answers to a batch. A batch that fails is halved until only the questions that cause it fail."""
        try:
            return [*self._generated(asked)]
        except torch.OutOfMemoryError:
            self.batches.max_batch_size = max(1, len(asked) // 2)
            failure = RecordFailed(
                f"{plural(len(asked[0].pictures), 'picture')}: too much for the memory of {self._chat.device}; "
                "judge with --mode point, or name a smaller model"
            )
        except RecordFailed as error:
            failure = error
        if len(asked) == 1:
            return [failure]
        if self._chat.device.type == "cuda":
            torch.cuda.empty_cache()
        half = len(asked) // 2
        return [*self._answers(asked[:half]), *self._answers(asked[half:])]

    @torch.inference_mode()
    def _generated(self, asked: list[ChatRequest]) -> list[ChatReply]:
        model = self.model
        inputs = self.inputs(asked)
        read = inputs["attention_mask"].sum(1).tolist()
        for one, length in zip(asked, read, strict=True):
            self._check_length(length, one)
        start = inputs["input_ids"].shape[1]
        limits = torch.tensor([one.limit for one in asked], device=self._chat.device)
        output = model.generate(
            **inputs.to(self._chat.device, self._chat.dtype),
            max_new_tokens=int(limits.max()),
            stopping_criteria=[_at_limit(start, limits, self.batches)],
        )
        return [self._turn_of(*one) for one in zip(output[:, start:].tolist(), read, asked, strict=True)]

    def inputs(self, asked: list[ChatRequest]) -> Any:
        """The tensors that the model takes, padded on the left so that all answers begin at the same position.

        Raises `RecordFailed` if the processor cannot handle the conversations.
        """
        return self._chat.inputs([one.conversation for one in asked])

    def _check_length(self, length: int, asked: ChatRequest) -> None:
        context = self._chat.context
        if context and length + asked.limit > context:
            raise RecordFailed(
                f"{length} tokens for {plural(len(asked.pictures), 'picture')} and up to {asked.limit} for an answer "
                f"are more than the {context} that {self._chat.source} reads; judge with --mode point"
            )

    def _turn_of(self, tokens: list[int], read: int, asked: ChatRequest) -> ChatReply:
        """The answer in one row of a batch, without padding."""
        said = tokens[: asked.limit]
        ends = [place for place, token in enumerate(said) if token in self.model.generation_config.eos_token_id]
        said = said[: ends[0] + 1] if ends else said
        text = self._chat.tokenizer.decode(said, skip_special_tokens=True)
        return ChatReply(text, not ends, {"prompt_tokens": read, "completion_tokens": len(said)})

    @cached_property
    def model(self) -> Any:
        """The weights. They are loaded at the first question."""
        return self._chat.load(otherwise="name a smaller model, or serve it and judge with openai:")

    def _reads_system(self) -> bool:
        """Whether the chat template supports a system message. Some templates ignore it and some raise an error."""
        try:
            text = self._chat.rendered([turn("system", MARK), turn("user", "x")])
        except (TemplateError, ValueError, TypeError):
            return False
        return MARK in text and "{'type'" not in text

    def _pictures_stay(self) -> bool:
        """Whether the chat template keeps pictures between the texts. Some templates move all of them to the front."""
        token = getattr(self._chat.processor, "image_token", None)
        between = self._chat.rendered(sample(2).messages).split(token)[1:-1] if token else [MARK]
        return any(MARK in text for text in between)


def _at_limit(start: int, limits: Tensor, batches: MicroBatcher[Any, Any]) -> Any:
    """A stopping criterion: ends each row at its own limit, and all rows when nobody waits for the answers."""

    def ended(ids: Tensor, scores: Any, **more: Any) -> Tensor:
        return (ids.shape[1] - start >= limits) | batches.abandoned

    return ended


REPAIR = (
    "This answer cannot be used: {}. Answer again, with the one JSON object that was asked for and nothing else, "
    "one short sentence for each reason."
)


def _object(said: ChatReply) -> dict[str, Any]:
    """The JSON object in an answer. Raises `Unusable` if there is none, or if the answer was cut off."""
    try:
        return parse(said.text)
    except Unusable as error:
        raise Unusable("the answer was cut off because it is too long" if said.truncated else str(error)) from None
