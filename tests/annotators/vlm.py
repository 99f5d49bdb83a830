"""Vision-language models that are small enough to be created and trained in a test."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from vpctl import plugins
from vpctl.annotators._vision_language import ChatRequest, LocalJudge
from vpctl.contracts import Question
from vpctl.errors import UserError
from vpctl.judging import questions

IN_PLACE = """{% for message in messages %}<|{{ message.role }}|>{% for part in message.content %}
{%- if part.type == 'image' %}<image>{% else %}{{ part.text }}{% endif %}{% endfor %}<|end|>{% endfor %}
{%- if add_generation_prompt %}<|assistant|>{% endif %}"""
"""A chat template with all features: a system message, and pictures between texts."""
CONTROL = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<image>"]
SIDE, PATCH = 16, 8
FIDELITY = plugins.aspect("fidelity")


def colour(name: str) -> Image.Image:
    return Image.new("RGB", (40, 30), name)


def question(prompt: str, *colours: str) -> Question:
    return Question(prompt, [*map(colour, colours)], (FIDELITY,))


def make(folder: Path, *, template: str = IN_PLACE, context: int = 4096, words: Sequence[str] = ()) -> Path:
    """Create a LLaVA with random weights. It is large enough that its output depends on its input.

    Its tokenizer has a token for each word of the questions and of `words`.
    """
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    tokens: Any = tokenizer_of(words)
    processor = LlavaProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}),
        tokens,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template,
    )
    sizes: dict[str, Any] = {"intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(hidden_size=16, image_size=SIDE, patch_size=PATCH, projection_dim=16, **sizes),
        text_config=LlamaConfig(
            hidden_size=32,
            vocab_size=len(tokens),
            max_position_embeddings=context,
            initializer_range=0.3,
            bos_token_id=None,
            eos_token_id=tokens.eos_token_id,
            pad_token_id=tokens.pad_token_id,
            **sizes,
        ),
        image_token_index=tokens.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
    )
    torch.manual_seed(0)
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def tokenizer_of(words: Sequence[str] = ()) -> transformers.PreTrainedTokenizerFast:
    """A tokenizer of bytes, of the words of the questions and of `words`. A question has only a few hundred tokens."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=1500,
        special_tokens=CONTROL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    sample = question("a red circle", "red", "blue")
    texts = [questions.system_prompt(sample.kind), questions.text_after(sample), *words]
    tokenizer.train_from_iterator(texts, trainer)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<|pad|>", eos_token="<|end|>")


Lesson = tuple[ChatRequest, str]


def teach(folder: Path, judge: LocalJudge, lessons: Sequence[Lesson], *, enough: float = 0.003, most: int = 400) -> int:
    """Train the model in `folder` until it gives the answers of the lessons, and return the number of steps."""
    model: Any = LlavaForConditionalGeneration.from_pretrained(folder)
    batch = _batch(folder, judge, lessons)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    for step in range(most):
        loss = model(**batch).loss
        if loss.item() < enough:
            model.save_pretrained(folder)
            return step
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    raise AssertionError(f"after {most} steps the model has not learnt its lessons: {loss.item()}")


def _batch(folder: Path, judge: LocalJudge, lessons: Sequence[Lesson]) -> dict[str, Any]:
    """The training batch: questions, padded on the left as by the judge, then answers. Only answers have labels."""
    inputs = dict(judge.inputs([asked for asked, _ in lessons]))
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder)
    answers = [f"{answer}{tokenizer.eos_token}" for _, answer in lessons]
    said = tokenizer(answers, padding=True, padding_side="right", return_tensors="pt")
    unasked = torch.full_like(inputs["input_ids"], -100)
    inputs["labels"] = torch.cat([unasked, said.input_ids.where(said.attention_mask.bool(), -100)], 1)
    for name in ("input_ids", "attention_mask"):
        inputs[name] = torch.cat([inputs[name], said[name]], 1)
    return inputs


def first_turn(judge: LocalJudge, asked: Question) -> ChatRequest:
    return ChatRequest(judge.conversation(asked), [*asked.pictures], 1)


def second_turn(first: ChatRequest, answer: str, complaint: str) -> ChatRequest:
    turns: Sequence[tuple[str, str]] = [("assistant", answer), ("user", complaint)]
    more = [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in turns]
    return first._replace(messages=[*first.messages, *more])


def decoded(folder: Path, ids: Any) -> str:
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder)
    return str(tokenizer.decode(ids))


def check_refused(kind: str, plug_in: str, reasons: Mapping[str, str]) -> None:
    """Check that a plug-in refuses each of these models in one line, for this reason."""
    for model, said in reasons.items():
        with pytest.raises(UserError) as raised:
            plugins.load(kind, f"{plug_in}:{model}", device="cpu")
        assert str(raised.value).startswith(f"--{kind} {plug_in}:{model}")
        assert said in str(raised.value)
        assert "\n" not in str(raised.value)
