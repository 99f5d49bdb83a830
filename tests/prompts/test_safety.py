"""Scores of a classifier: which labels count, and which models are refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertConfig, BertModel

from vpctl.errors import UserError
from vpctl.models.backbones import PACKAGED
from vpctl.prompts.safety import UnsafeModel

DETOXIFY = ["toxicity", "severe_toxicity", "obscene", "identity_attack", "insult", "threat", "sexual_explicit", "male"]
PROMPTS = ["a red circle", "two green stars left of a blue triangle on a black background", "a"]


def config(labels: list[str], **more: Any) -> BertConfig:
    return BertConfig(
        vocab_size=len(AutoTokenizer.from_pretrained(PACKAGED)),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        id2label=dict(enumerate(labels)),
        **more,
    )


def saved(folder: Path, labels: list[str], **more: Any) -> str:
    """A tiny classifier with random weights that are large enough for its labels to differ."""
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config(labels, **more))
    model.classifier.weight.data.normal_(std=4)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(PACKAGED).save_pretrained(folder)
    return str(folder)


def logits(folder: str, prompt: str) -> torch.Tensor:
    encoded = AutoTokenizer.from_pretrained(folder)([prompt], return_tensors="pt")
    with torch.inference_mode():
        found: torch.Tensor = AutoModelForSequenceClassification.from_pretrained(folder).eval()(**encoded).logits[0]
    return found


def test_the_larger_of_detoxifys_two_labels_counts_each_for_itself(tmp_path: Path) -> None:
    folder = saved(tmp_path, DETOXIFY)
    scores = UnsafeModel(folder, device="cpu").scores(PROMPTS)
    for prompt, score in zip(PROMPTS, scores, strict=True):
        each = logits(folder, prompt).sigmoid()
        assert score == pytest.approx(max(each[0].item(), each[6].item()), abs=1e-5)
    assert len({round(score, 4) for score in scores}) == 3


def test_labels_that_exclude_each_other_share_one(tmp_path: Path) -> None:
    folder = saved(tmp_path, ["SFW", "NSFW"], problem_type="single_label_classification")
    [score] = UnsafeModel(folder, device="cpu").scores(["a red circle"])
    assert score == pytest.approx(logits(folder, "a red circle").softmax(0)[1].item(), abs=1e-5)


def complaint(source: str) -> str:
    with pytest.raises(UserError) as raised:
        UnsafeModel(source, device="cpu")
    return str(raised.value)


def test_what_is_no_classifier_of_the_unsafe_is_told_so(tmp_path: Path) -> None:
    assert complaint("./nowhere") == "--unsafe-model ./nowhere: there is no such folder"
    moods = saved(tmp_path / "moods", ["glad", "sad"])
    assert complaint(moods) == (
        f"--unsafe-model {moods}: its labels are glad, sad; one of them must be "
        "nsfw, sexual_explicit, toxic, toxicity, unsafe"
    )
    bare = str(tmp_path / "bare")
    BertModel(config(DETOXIFY)).save_pretrained(bare)
    AutoTokenizer.from_pretrained(PACKAGED).save_pretrained(bare)
    assert complaint(bare) == f"--unsafe-model {bare}: a BertModel, which is not a classifier"
    (tmp_path / "empty").mkdir()
    assert complaint(str(tmp_path / "empty")) == f"--unsafe-model {tmp_path / 'empty'}: there is no config.json in it"
