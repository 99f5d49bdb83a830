"""A local vision-language model that judges, for the annotator `transformers`."""

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
from ..judging.microbatch import MicroBatches
from ..models import devices, hub, sources
from ..models.sources import first_line
from ..progress import plural
from ..records import fingerprint

OPTION = "--annotator transformers:"
MAX_SIDE = 1024
"""Pixels; larger pictures are made smaller before the model's own processor sees them."""
BATCH_ON_GPU, BATCH_ON_CPU = 8, 2
"""Questions in one call of the model; a CPU is kept busy by few."""
PER_ANSWER, PER_PICTURE = 128, 160
"""New tokens that an answer may have, and of those each picture on each aspect: two sentences and a level take 100."""

Message = dict[str, Any]


class Asked(NamedTuple):
    """A conversation that waits for the model's turn, and how many tokens that may have."""

    messages: list[Message]
    pictures: list[Image.Image]
    limit: int

    @property
    def size(self) -> float:
        """About as many tokens as it takes: what a batch is padded to."""
        texts = sum(len(part.get("text", "")) for message in self.messages for part in message["content"])
        return texts / 4 + sum(picture.width * picture.height for picture in self.pictures) / 28**2


class Generated(NamedTuple):
    """The model's turn. `cut` says that it was at its limit and not at its end."""

    text: str
    cut: bool
    usage: dict[str, float]


class LocalJudge(Annotator):
    """A vision-language model that judges. Its weights are loaded when it is asked for the first time."""

    def __init__(self, source: str, revision: str, device: torch.device, config: Any, processor: Any) -> None:
        """`revision` is that of a model on the hub; a folder is known by what is in it."""
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
        self.batches = MicroBatches(self._answers, most=most, size=lambda asked: asked.size)

    @property
    def identity(self) -> dict[str, Any]:
        """What the answers depend on beside the question."""
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
        """The picture, no larger than `MAX_SIDE`."""
        if max(image.size) <= MAX_SIDE:
            return image
        smaller = image.copy()
        smaller.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
        return smaller

    def template(self, kind: Kind) -> str:
        """Identity of the words."""
        return questions.template(kind)

    async def ask(self, question: Question) -> list[Verdicts]:
        """The verdicts on every aspect; the first bears what the answer used, as the call was one.

        Raises `Unusable` where the answer does not hold, nor the one that the model gives when told what is wrong.
        """
        pictures = list(question.pictures)
        if len(pictures) > 1 and self._why_no_more:
            raise UserError(
                f"{OPTION}{self._source}: reads one picture at a time, as {self._why_no_more}; judge with --mode point"
            )
        limit = PER_ANSWER + PER_PICTURE * len(pictures) * len(question.aspects)
        asked = Asked(self.conversation(question), pictures, limit)
        used: Counter[str] = Counter()
        sent_back = False
        while True:
            said = await self.batches(asked)
            used.update(said.usage)
            try:
                found = questions.verdicts(question.kind, _object(said))
            except Unusable as error:
                if sent_back:
                    raise Unusable(str(error), said.text, used) from None
                asked, sent_back = self._sent_back(asked, said, error), True
            else:
                return [found[0]._replace(usage=dict(used)), *found[1:]]

    def _sent_back(self, asked: Asked, said: Generated, error: Unusable) -> Asked:
        """The conversation so far, and what is wrong with the answer."""
        turns = [_turn("assistant", self._harmless(said.text)), _turn("user", self._harmless(REPAIR.format(error)))]
        return asked._replace(messages=[*asked.messages, *turns])

    def conversation(self, question: Question) -> list[Message]:
        """The question as a conversation, with a place for every picture and its letter in front of that."""
        kind = question.kind
        system = questions.system(kind)
        start = questions.before(question)
        if not self._keeps_places:
            start = f"{start}\n\nThe pictures come in this order: {', '.join(kind.letters)}."
        text = self._harmless(start if self._knows_system else f"{system}\n\n{start}") + "\n\n"
        parts = []
        for letter in kind.letters:
            parts += [_text(f"{text}{questions.label(letter)}\n"), {"type": "image"}]
            text = "\n"
        user = {"role": "user", "content": [*parts, _text(f"\n{questions.after(kind)}")]}
        return [_turn("system", self._harmless(system)), user] if self._knows_system else [user]

    def _harmless(self, text: str) -> str:
        """The text, in which nothing is a control token of the model's: prompts are from strangers."""
        return self._special.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)

    def _answers(self, asked: list[Asked]) -> list[Generated | Exception]:
        """The model's turns. A batch that does not go through whole is halved, down to the question to blame."""
        try:
            return [*self._generated(asked)]
        except torch.OutOfMemoryError:
            self.batches.most = max(1, len(asked) // 2)
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
    def _generated(self, asked: list[Asked]) -> list[Generated]:
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

    def inputs(self, asked: list[Asked]) -> Any:
        """What the model takes, padded on the left so that every answer begins at the same place."""
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
        except (ValueError, TypeError, IndexError, KeyError, TemplateError) as error:  # processors raise what they like
            raise RecordFailed(f"{self._source} cannot read the question: {first_line(error)}") from None

    def _check_length(self, length: int, asked: Asked) -> None:
        context = getattr(self._config.get_text_config(), "max_position_embeddings", None)
        if context and length + asked.limit > context:
            raise RecordFailed(
                f"{length} tokens for {plural(len(asked.pictures), 'picture')} and up to {asked.limit} for an answer "
                f"are more than the {context} that {self._source} reads; judge with --mode point"
            )

    def _turn_of(self, tokens: list[int], read: int, asked: Asked) -> Generated:
        """What was said in one row of a batch, without what it was padded with."""
        said = tokens[: asked.limit]
        ends = [place for place, token in enumerate(said) if token in self.model.generation_config.eos_token_id]
        said = said[: ends[0] + 1] if ends else said
        text = self._tokenizer.decode(said, skip_special_tokens=True)
        return Generated(text, not ends, {"prompt_tokens": read, "completion_tokens": len(said)})

    @cached_property
    def model(self) -> Any:
        """The model on its device, with what its authors say of sampling put aside."""
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
        """Whether the chat template has a place for instructions; not all have, and some raise where there are any."""
        try:
            text = self._rendered([_turn("system", _MARK), _turn("user", "x")])
        except (TemplateError, ValueError, TypeError):
            return False
        return _MARK in text and "{'type'" not in text

    def _rendered(self, messages: list[Message]) -> str:
        return str(self._processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))

    def _why_not(self, pictures: int) -> str:
        """Why a question cannot have so many pictures; empty if it can."""
        try:
            self.inputs([_sample(pictures)])
            with_fewer, with_all = (self._rendered(_sample(number).messages) for number in (pictures - 1, pictures))
        except (RecordFailed, TemplateError) as error:
            return first_line(error)
        if with_fewer.replace(_MARK, "") == with_all.replace(_MARK, ""):
            return f"its chat template has no place for {'a picture' if pictures == 1 else f'{pictures} pictures'}"
        return ""

    def _pictures_stay(self) -> bool:
        """Whether pictures stay between the texts they stand between; some chat templates put them all in front."""
        token = getattr(self._processor, "image_token", None)
        between = self._rendered(_sample(2).messages).split(token)[1:-1] if token else [_MARK]
        return any(_MARK in text for text in between)


def _at_limit(start: int, limits: Tensor, batches: MicroBatches[Any, Any]) -> Any:
    """What ends each row at its own limit, and all of them when nobody waits for them any more."""

    def ended(ids: Tensor, scores: Any, **more: Any) -> Tensor:
        return (ids.shape[1] - start >= limits) | batches.abandoned

    return ended


_MARK = "zqx"
"""A text that no chat template has in it."""
REPAIR = (
    "This answer cannot be used: {}. Answer again, with the one JSON object that was asked for and nothing else, "
    "one short sentence for each rationale."
)


def _object(said: Generated) -> dict[str, Any]:
    """The JSON object in what was said. Of an answer that was cut off nothing is made up."""
    try:
        return parse(said.text)
    except Unusable as error:
        raise Unusable("the answer was cut off because it is too long" if said.cut else str(error)) from None


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _turn(role: str, text: str) -> Message:
    return {"role": role, "content": [_text(text)]}


def _with_pictures(messages: Sequence[Message], pictures: Sequence[Image.Image]) -> list[Message]:
    """The messages with the pictures put into their places, one after another."""
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


def _sample(pictures: int) -> Asked:
    blank = Image.new("RGB", (64, 64))
    parts = [_text(_MARK), {"type": "image"}] * pictures
    return Asked([{"role": "user", "content": [*parts, _text(_MARK)]}], [blank] * pictures, 1)


def _pattern_of(tokenizer: Any, processor: Any) -> re.Pattern[str]:
    """What in a text would be read as more than text: control tokens, and the places of pictures."""
    special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    special |= {str(getattr(processor, name, "") or "") for name in ("image_token", "video_token")}
    longest_first = sorted((token for token in special if len(token) > 1), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")


def open_judge(source: str, device: str) -> LocalJudge:
    """The model of a folder or a hub id. Raises `UserError` if it cannot be talked to about pictures."""
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
