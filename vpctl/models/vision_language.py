"""Local vision-language models: chat templates, inputs of pictures and text, weights, and the probability of an answer.

The annotator ``transformers`` and the reward ``vqascore`` use them.
"""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jinja2 import TemplateError
from PIL import Image
from torch import Tensor
from transformers import AutoModelForImageTextToText, GenerationConfig, ProcessorMixin
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as KNOWN

from ..errors import RecordFailed, UserError
from . import devices, hub, sources
from .sources import first_line

MAX_SIDE = 1024
"""Maximum side of a picture in pixels; larger ones are scaled down before the model's own processor gets them."""
BATCH_ON_GPU, BATCH_ON_CPU = 8, 2
"""Maximum number of conversations in a batch. Few are enough to keep a CPU busy."""
MARK = "zqx"
"""A text that does not occur in any chat template."""

Message = dict[str, Any]


class Conversation(NamedTuple):
    """Chat messages, and the pictures for their placeholders, in order."""

    messages: Sequence[Message]
    pictures: Sequence[Image.Image]

    @property
    def size(self) -> float:
        """The approximate number of tokens of the conversation. A batch is padded to its largest conversation."""
        texts = sum(len(part.get("text", "")) for message in self.messages for part in message["content"])
        return texts / 4 + sum(picture.width * picture.height for picture in self.pictures) / 28**2


class AnswerTokens(NamedTuple):
    """An answer as the model would write it: the ids of its tokens.

    `replaced` is the number of tokens at the end of the conversation that the first tokens of the answer replace. It is
    0 unless the tokenizer joins the end of the conversation with the answer.
    """

    ids: list[int]
    replaced: int


class VisionLanguageModel:
    """A model that takes pictures and text and answers in text, by its chat template. It runs on one device."""

    def __init__(self, source: str, device: str, *, option: str, dtype: str = "") -> None:
        """Open the processor of a folder or a hub id. The weights are loaded when they are first used.

        `option` is the text before the source on the command line, such as ``--reward vqascore:``. `dtype` is one of
        `configs.PRECISIONS`; if it is empty, it is float32 on a CPU and bfloat16 on a GPU. Raises `UserError` if the
        model cannot chat about pictures.
        """
        self.source, self._option, self.where = source, option, f"{option}{source}"
        folder = sources.check("judge", source, option=option).path
        self.revision = folder.name
        """The commit of a model on the hub. A local folder is identified by its contents instead."""
        self.config = hub.config(folder, where=self.where)
        if self.config.model_type not in KNOWN:
            raise UserError(
                f"{self.where}: a {self.config.model_type} model, which does not read pictures and answer in text; "
                "name a vision-language model"
            )
        self.processor = hub.processor(folder, where=self.where)
        if not isinstance(self.processor, ProcessorMixin) or "image_processor" not in self.processor.get_attributes():
            raise UserError(f"{self.where}: has no image processor beside its tokenizer; copy the whole model folder")
        if not self.processor.chat_template:
            raise UserError(f"{self.where}: has no chat template; name a model that was trained to follow instructions")
        self.device = devices.resolve_device(device)
        on_cpu = self.device.type == "cpu"
        self.dtype = devices.resolve_dtype(dtype or ("float32" if on_cpu else "bfloat16"))
        self.max_batch_size = BATCH_ON_CPU if on_cpu else BATCH_ON_GPU
        self.tokenizer = self.processor.tokenizer
        self.tokenizer.padding_side = "left"
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self._control_tokens = _control_tokens(self.tokenizer, self.processor)
        self._thinking = {"enable_thinking": False} if "enable_thinking" in self.processor.chat_template else {}
        if why := self.why_not(1):
            raise UserError(f"{self.where}: takes no pictures: {why}")

    def harmless(self, text: str) -> str:
        """The text with every control token of the model broken up by a space: prompts come from strangers."""
        return self._control_tokens.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)

    def inputs(self, conversations: Sequence[Conversation]) -> Any:
        """The tensors that the model takes, padded on the left so that all answers begin at the same position.

        Raises `RecordFailed` if the processor cannot handle the conversations.
        """
        try:
            return self.processor.apply_chat_template(
                [_with_pictures(one) for one in conversations],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                processor_kwargs={"padding": True},
                **self._thinking,
            )
        except (ValueError, TypeError, IndexError, KeyError, TemplateError) as error:  # processors raise all of these
            raise RecordFailed(f"{self.source} cannot read the question: {first_line(error)}") from None

    def rendered(self, messages: Sequence[Message], *, ask: bool = True) -> str:
        """The messages as the text that is tokenized. With `ask`, the beginning of the model's answer follows."""
        return str(
            self.processor.apply_chat_template([*messages], add_generation_prompt=ask, tokenize=False, **self._thinking)
        )

    def why_not(self, pictures: int) -> str:
        """Why a conversation cannot have this number of pictures; empty if it can."""
        try:
            self.inputs([sample(pictures)])
            with_fewer, with_all = (self.rendered(sample(number).messages) for number in (pictures - 1, pictures))
        except (RecordFailed, TemplateError) as error:
            return first_line(error)
        if with_fewer.replace(MARK, "") == with_all.replace(MARK, ""):
            return f"its chat template has no place for {'a picture' if pictures == 1 else f'{pictures} pictures'}"
        return ""

    @property
    def context(self) -> int | None:
        """The maximum number of tokens that the model reads, with the answer. None if its config does not say."""
        length: int | None = getattr(self.config.get_text_config(), "max_position_embeddings", None)
        return length

    def load(self, *, otherwise: str = "name a smaller model") -> Any:
        """The weights on the device. The authors' sampling settings are replaced by greedy decoding.

        Raises `UserError` if they are incomplete or do not fit into the memory; `otherwise` is the way out of the
        latter.
        """
        folder = sources.fetch("judge", self.source, option=self._option)
        try:
            model = hub.model(AutoModelForImageTextToText, folder, dtype=self.dtype, where=self.where)
            model = model.eval().requires_grad_(False).to(self.device)
        except torch.OutOfMemoryError:
            raise UserError(f"{self.where}: does not fit into the memory of {self.device}; {otherwise}") from None
        own = model.generation_config
        ends = self.tokenizer.eos_token_id if own.eos_token_id is None else own.eos_token_id
        model.generation_config = GenerationConfig(
            do_sample=False,
            bos_token_id=own.bos_token_id,
            eos_token_id=ends if isinstance(ends, list) else [ends],
            pad_token_id=self.tokenizer.pad_token_id,
        )
        return model


class AnswerProbability:
    """The probability that a model answers with a certain text, such as ``Yes``."""

    def __init__(self, chat: VisionLanguageModel, answer: str) -> None:
        """Load the weights. Raises `UserError` if the model cannot answer at once with this text."""
        self._chat = chat
        self._answer = answer_tokens(chat, answer)
        self._most = chat.max_batch_size
        self.model = chat.load()

    def __call__(self, conversations: Sequence[Conversation]) -> list[float | RecordFailed]:
        """The probability for each conversation, in [0, 1], or why there is none.

        Conversations of about the same length are computed together. A batch that does not fit into the memory or has a
        conversation that cannot be read is halved until only the conversations that cause it fail.
        """
        found: dict[int, float | RecordFailed] = {}
        order = sorted(range(len(conversations)), key=lambda index: conversations[index].size)
        while order:
            part, order = order[: self._most], order[self._most :]
            found.update(zip(part, self._halved([conversations[index] for index in part]), strict=True))
        return [found[index] for index in range(len(conversations))]

    def _halved(self, batch: list[Conversation]) -> list[float | RecordFailed]:
        try:
            return [*self._probabilities(batch)]
        except torch.OutOfMemoryError:
            failure = RecordFailed(f"the picture needs more than the memory of {self._chat.device}")
            self._most = max(1, len(batch) // 2)
        except RecordFailed as error:
            failure = error
        if len(batch) == 1:
            return [failure]
        if self._chat.device.type == "cuda":
            torch.cuda.empty_cache()
        half = len(batch) // 2
        return [*self._halved(batch[:half]), *self._halved(batch[half:])]

    @torch.inference_mode()
    def _probabilities(self, batch: list[Conversation]) -> list[float]:
        """The product of the conditional probabilities of the answer's tokens, computed in float32.

        `generate` is made to write the answer, because it knows the positions of every model's tokens behind padding,
        and keeps the logits (B, V) of one position at a time instead of those of the whole conversation.
        """
        ids, replaced = self._answer
        inputs = self._chat.inputs(batch)
        longest = int(inputs["attention_mask"].sum(1).max()) + len(ids) - replaced
        if self._chat.context and longest > self._chat.context:
            raise RecordFailed(
                f"{longest} tokens are more than the {self._chat.context} that the model reads; shorten the prompt"
            )
        if replaced:
            shape = inputs["input_ids"].shape
            for name, value in inputs.items():
                if isinstance(value, Tensor) and value.shape == shape:
                    inputs[name] = value[:, :-replaced]
        start = inputs["input_ids"].shape[1]
        with hub.compute_errors(self._chat.where):
            written = self.model.generate(
                **inputs.to(self._chat.device, self._chat.dtype),
                max_new_tokens=len(ids),
                prefix_allowed_tokens_fn=lambda _, sofar: [ids[len(sofar) - start]],
                return_dict_in_generate=True,
                output_logits=True,
            )
        steps = [logits.float().log_softmax(-1)[:, token] for token, logits in zip(ids, written.logits, strict=True)]
        probabilities: list[float] = torch.stack(steps).sum(0).exp().tolist()
        return probabilities


def answer_tokens(chat: VisionLanguageModel, answer: str) -> AnswerTokens:
    """The tokens of an answer, as they are in a conversation that the model's own chat template renders.

    The template decides whether a space or a line break precedes the answer, and the tokenizer whether it is part of
    the first token: ``ASSISTANT:`` is continued by the token of " Yes" in LLaVA, and ``<|im_start|>assistant`` with its
    line break by that of "Yes" in Qwen. If the template renders a written answer differently from one that it asks for,
    the answer itself follows. Raises `UserError` if the model does not begin with its answer.
    """
    if chat.config.is_encoder_decoder:
        raise UserError(f"{chat.where}: an encoder-decoder model; name one that continues its input")
    asked = sample(1).messages
    text = chat.rendered(asked)
    opened = text.rpartition(MARK)[2]
    if opened.count("<think>") > opened.count("</think>"):
        raise UserError(f"{chat.where}: always thinks before it answers; name a model that answers at once")
    said = answer
    try:
        with_answer = chat.rendered([*asked, turn("assistant", answer)], ask=False)
    except (TemplateError, ValueError, TypeError):  # templates raise all of these for a turn they do not expect
        with_answer = ""
    if with_answer.startswith(text) and (found := re.match(rf"\s*{re.escape(answer)}", with_answer[len(text) :])):
        said = found[0]
    before, whole = (chat.tokenizer(one, add_special_tokens=False).input_ids for one in (text, text + said))
    same = next((place for place, ids in enumerate(zip(before, whole, strict=False)) if len({*ids}) > 1), len(before))
    ids = whole[same:]
    if chat.tokenizer.unk_token_id in ids:
        raise UserError(f"{chat.where}: its tokenizer has no tokens for {answer!r}; name another model")
    return AnswerTokens(ids, len(before) - same)


def shrunk(image: Image.Image) -> Image.Image:
    """The picture, scaled down if a side is longer than `MAX_SIDE`."""
    if max(image.size) <= MAX_SIDE:
        return image
    smaller = image.copy()
    smaller.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
    return smaller


def text_part(text: str) -> dict[str, Any]:
    """A piece of text in a message."""
    return {"type": "text", "text": text}


def turn(role: str, text: str) -> Message:
    """A message without pictures. `role` is system, user or assistant."""
    return {"role": role, "content": [text_part(text)]}


def sample(pictures: int) -> Conversation:
    """A conversation to try a chat template with: one turn of the user, with `MARK` around each picture."""
    blank = Image.new("RGB", (64, 64))
    parts = [text_part(MARK), {"type": "image"}] * pictures
    return Conversation([{"role": "user", "content": [*parts, text_part(MARK)]}], [blank] * pictures)


def _with_pictures(conversation: Conversation) -> list[Message]:
    """The messages with the pictures put into their placeholders, in order."""
    left = iter(conversation.pictures)
    return [
        {
            **message,
            "content": [
                {**part, "image": next(left)} if part["type"] == "image" else part for part in message["content"]
            ],
        }
        for message in conversation.messages
    ]


def _control_tokens(tokenizer: Any, processor: Any) -> re.Pattern[str]:
    """A pattern of the texts that the model would read as control tokens or as placeholders of pictures or videos."""
    special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    special |= {str(getattr(processor, name, "") or "") for name in ("image_token", "video_token")}
    longest_first = sorted((token for token in special if len(token) > 1), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
