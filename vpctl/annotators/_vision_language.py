"""A local vision-language model as a judge, for the annotator `transformers`."""

import re
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jinja2 import TemplateError
from PIL import Image
from torch import Tensor
from transformers import AutoModelForImageTextToText, GenerationConfig, ProcessorMixin
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as KNOWN

from ..api.answers import parse
from ..contracts import Annotator, Kind, Question, Verdicts
from ..errors import RecordFailed, Unusable, UserError
from ..judging import questions
from ..judging.microbatch import MicroBatcher
from ..models import devices, hub, sources
from ..models.sources import first_line
from ..progress import plural
from ..records import fingerprint

OPTION = "--annotator transformers:"
MAX_SIDE = 1024
"""Maximum side of a picture in pixels; larger ones are scaled down before the model's own processor gets them."""
BATCH_ON_GPU, BATCH_ON_CPU = 8, 2
"""Maximum number of questions in a batch. Few are enough to keep a CPU busy."""
PER_ANSWER, PER_PICTURE = 128, 160
"""Maximum number of new tokens: for an answer, and in addition for each picture on each aspect.

Two sentences and a level take about 100 tokens.
"""

Message = dict[str, Any]


class ChatRequest(NamedTuple):
    """A conversation that waits for an answer, with its pictures. `limit` is the maximum number of new tokens."""

    messages: list[Message]
    pictures: list[Image.Image]
    limit: int

    @property
    def size(self) -> float:
        """The approximate number of tokens of the conversation. A batch is padded to its largest conversation."""
        texts = sum(len(part.get("text", "")) for message in self.messages for part in message["content"])
        return texts / 4 + sum(picture.width * picture.height for picture in self.pictures) / 28**2


class ChatReply(NamedTuple):
    """The model's answer. `truncated` is true if the answer reached its limit before it was complete."""

    text: str
    truncated: bool
    usage: dict[str, float]


class LocalJudge(Annotator):
    """A vision-language model that judges. Its weights are loaded at the first question."""

    def __init__(self, source: str, revision: str, device: torch.device, config: Any, processor: Any) -> None:
        """`revision` is the commit of a model on the hub; a local folder is identified by its contents."""
        self._source = source
        self._revision = revision
        self._device = device
        self._config = config
        self._processor = processor
        self._tokenizer = processor.tokenizer
        self._tokenizer.padding_side = "left"
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        self._dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
        self._special = _pattern_of(self._tokenizer, processor)
        self._knows_system = self._reads_system()
        if why := self._why_not(1):
            raise UserError(f"{OPTION}{source}: takes no pictures: {why}")
        self._why_no_more = self._why_not(2)
        self._keeps_places = bool(self._why_no_more) or self._pictures_stay()
        most = BATCH_ON_CPU if device.type == "cpu" else BATCH_ON_GPU
        self.batches = MicroBatcher(self._answers, most=most, size=lambda asked: asked.size)

    @property
    def identity(self) -> dict[str, Any]:
        """Everything besides the question that determines the answers."""
        local = Path(self._source).is_dir()
        return {
            "model": self._source,
            "revision": fingerprint(self._source) if local else self._revision,
            "dtype": str(self._dtype).removeprefix("torch."),
            "decoding": "greedy",
            "max_new_tokens": [PER_ANSWER, PER_PICTURE],
            "max_side": MAX_SIDE,
        }

    def prepare(self, image: Image.Image, path: str) -> Image.Image:
        """The picture, scaled down if a side is longer than `MAX_SIDE`."""
        if max(image.size) <= MAX_SIDE:
            return image
        smaller = image.copy()
        smaller.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
        return smaller

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
                f"{OPTION}{self._source}: reads one picture at a time, as {self._why_no_more}; judge with --mode point"
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
        turns = [_turn("assistant", self._harmless(said.text)), _turn("user", self._harmless(REPAIR.format(error)))]
        return asked._replace(messages=[*asked.messages, *turns])

    def conversation(self, question: Question) -> list[Message]:
        """The question as chat messages. Each picture has a placeholder, with its letter in front of it."""
        kind = question.kind
        system = questions.system_prompt(kind)
        start = questions.text_before(question)
        if not self._keeps_places:
            start = f"{start}\n\nThe pictures come in this order: {', '.join(kind.letters)}."
        text = self._harmless(start if self._knows_system else f"{system}\n\n{start}") + "\n\n"
        parts = []
        for letter in kind.letters:
            parts += [_text(f"{text}{questions.picture_label(letter)}\n"), {"type": "image"}]
            text = "\n"
        user = {"role": "user", "content": [*parts, _text(f"\n{questions.text_after(kind)}")]}
        return [_turn("system", self._harmless(system)), user] if self._knows_system else [user]

    def _harmless(self, text: str) -> str:
        """The text with every control token of the model broken up by a space: prompts come from strangers."""
        return self._special.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)

    def _answers(self, asked: list[ChatRequest]) -> list[ChatReply | Exception]:
        """The answers to a batch. A batch that fails is halved until only the questions that cause it fail."""
        try:
            return [*self._generated(asked)]
        except torch.OutOfMemoryError:
            self.batches.max_batch_size = max(1, len(asked) // 2)
            failure = RecordFailed(
                f"{plural(len(asked[0].pictures), 'picture')}: too much for the memory of {self._device}; "
                "judge with --mode point, or name a smaller model"
            )
        except RecordFailed as error:
            failure = error
        if len(asked) == 1:
            return [failure]
        if self._device.type == "cuda":
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
        limits = torch.tensor([one.limit for one in asked], device=self._device)
        output = model.generate(
            **inputs.to(self._device, self._dtype),
            max_new_tokens=int(limits.max()),
            stopping_criteria=[_at_limit(start, limits, self.batches)],
        )
        return [self._turn_of(*one) for one in zip(output[:, start:].tolist(), read, asked, strict=True)]

    def inputs(self, asked: list[ChatRequest]) -> Any:
        """The tensors that the model takes, padded on the left so that all answers begin at the same position.

        Raises `RecordFailed` if the processor cannot handle the conversations.
        """
        conversations = [_with_pictures(one.messages, one.pictures) for one in asked]
        thinking = {"enable_thinking": False} if "enable_thinking" in self._processor.chat_template else {}
        try:
            return self._processor.apply_chat_template(
                conversations,
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                processor_kwargs={"padding": True},
                **thinking,
            )
        except (ValueError, TypeError, IndexError, KeyError, TemplateError) as error:  # processors raise all of these
            raise RecordFailed(f"{self._source} cannot read the question: {first_line(error)}") from None

    def _check_length(self, length: int, asked: ChatRequest) -> None:
        context = getattr(self._config.get_text_config(), "max_position_embeddings", None)
        if context and length + asked.limit > context:
            raise RecordFailed(
                f"{length} tokens for {plural(len(asked.pictures), 'picture')} and up to {asked.limit} for an answer "
                f"are more than the {context} that {self._source} reads; judge with --mode point"
            )

    def _turn_of(self, tokens: list[int], read: int, asked: ChatRequest) -> ChatReply:
        """The answer in one row of a batch, without padding."""
        said = tokens[: asked.limit]
        ends = [place for place, token in enumerate(said) if token in self.model.generation_config.eos_token_id]
        said = said[: ends[0] + 1] if ends else said
        text = self._tokenizer.decode(said, skip_special_tokens=True)
        return ChatReply(text, not ends, {"prompt_tokens": read, "completion_tokens": len(said)})

    @cached_property
    def model(self) -> Any:
        """The model on its device. The authors' sampling settings are replaced by greedy decoding."""
        folder = sources.fetch("judge", self._source, option=OPTION)
        try:
            model = hub.model(AutoModelForImageTextToText, folder, dtype=self._dtype, where=f"{OPTION}{self._source}")
            model = model.eval().requires_grad_(False).to(self._device)
        except torch.OutOfMemoryError:
            raise UserError(
                f"{OPTION}{self._source}: does not fit into the memory of {self._device}; "
                "name a smaller model, or serve it and judge with openai:"
            ) from None
        own = model.generation_config
        ends = self._tokenizer.eos_token_id if own.eos_token_id is None else own.eos_token_id
        model.generation_config = GenerationConfig(
            do_sample=False,
            bos_token_id=own.bos_token_id,
            eos_token_id=ends if isinstance(ends, list) else [ends],
            pad_token_id=self._tokenizer.pad_token_id,
        )
        return model

    def _reads_system(self) -> bool:
        """Whether the chat template supports a system message. Some templates ignore it and some raise an error."""
        try:
            text = self._rendered([_turn("system", _MARK), _turn("user", "x")])
        except (TemplateError, ValueError, TypeError):
            return False
        return _MARK in text and "{'type'" not in text

    def _rendered(self, messages: list[Message]) -> str:
        return str(self._processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))

    def _why_not(self, pictures: int) -> str:
        """Why a question cannot have this number of pictures; empty if it can."""
        try:
            self.inputs([_sample(pictures)])
            with_fewer, with_all = (self._rendered(_sample(number).messages) for number in (pictures - 1, pictures))
        except (RecordFailed, TemplateError) as error:
            return first_line(error)
        if with_fewer.replace(_MARK, "") == with_all.replace(_MARK, ""):
            return f"its chat template has no place for {'a picture' if pictures == 1 else f'{pictures} pictures'}"
        return ""

    def _pictures_stay(self) -> bool:
        """Whether the chat template keeps pictures between the texts. Some templates move all of them to the front."""
        token = getattr(self._processor, "image_token", None)
        between = self._rendered(_sample(2).messages).split(token)[1:-1] if token else [_MARK]
        return any(_MARK in text for text in between)


def _at_limit(start: int, limits: Tensor, batches: MicroBatcher[Any, Any]) -> Any:
    """A stopping criterion: ends each row at its own limit, and all rows when nobody waits for the answers."""

    def ended(ids: Tensor, scores: Any, **more: Any) -> Tensor:
        return (ids.shape[1] - start >= limits) | batches.abandoned

    return ended


_MARK = "zqx"
"""A text that does not occur in any chat template."""
REPAIR = (
    "This answer cannot be used: {}. Answer again, with the one JSON object that was asked for and nothing else, "
    "one short sentence for each rationale."
)


def _object(said: ChatReply) -> dict[str, Any]:
    """The JSON object in an answer. Raises `Unusable` if there is none, or if the answer was cut off."""
    try:
        return parse(said.text)
    except Unusable as error:
        raise Unusable("the answer was cut off because it is too long" if said.truncated else str(error)) from None


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _turn(role: str, text: str) -> Message:
    return {"role": role, "content": [_text(text)]}


def _with_pictures(messages: Sequence[Message], pictures: Sequence[Image.Image]) -> list[Message]:
    """The messages with the pictures put into their placeholders, in order."""
    left = iter(pictures)
    return [
        {
            **message,
            "content": [
                {**part, "image": next(left)} if part["type"] == "image" else part for part in message["content"]
            ],
        }
        for message in messages
    ]


def _sample(pictures: int) -> ChatRequest:
    blank = Image.new("RGB", (64, 64))
    parts = [_text(_MARK), {"type": "image"}] * pictures
    return ChatRequest([{"role": "user", "content": [*parts, _text(_MARK)]}], [blank] * pictures, 1)


def _pattern_of(tokenizer: Any, processor: Any) -> re.Pattern[str]:
    """A pattern of the texts that the model would read as control tokens or as placeholders of pictures or videos."""
    special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    special |= {str(getattr(processor, name, "") or "") for name in ("image_token", "video_token")}
    longest_first = sorted((token for token in special if len(token) > 1), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")


def open_judge(source: str, device: str) -> LocalJudge:
    """The model of a folder or a hub id, as a judge. Raises `UserError` if it cannot chat about pictures."""
    where = f"{OPTION}{source}"
    folder = sources.check("judge", source, option=OPTION).path
    config = hub.config(folder, where=where)
    if config.model_type not in KNOWN:
        raise UserError(
            f"{where}: a {config.model_type} model, which does not read pictures and answer in text; "
            "name a vision-language model"
        )
    processor = hub.processor(folder, where=where)
    if not isinstance(processor, ProcessorMixin) or "image_processor" not in processor.get_attributes():
        raise UserError(f"{where}: has no image processor beside its tokenizer; copy the whole model folder")
    if not processor.chat_template:
        raise UserError(f"{where}: has no chat template; name a model that was trained to follow instructions")
    return LocalJudge(source, folder.name, devices.resolve_device(device), config, processor)
