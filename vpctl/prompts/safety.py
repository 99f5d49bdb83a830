"""A classifier's word on how unsafe a prompt is: Detoxify's models, and others that say what is toxic or not for work.

The score is made as DiffusionDB made its `prompt_nsfw`: the largest probability among the labels that matter. Models
come from a folder or the hub by way of transformers, which reads tensors only; the detoxify package downloads the same
weights as a pickle and lets it run whatever it holds. `unitary/unbiased-toxic-roberta` is Detoxify's for English.
"""

import torch
from transformers import AutoModelForSequenceClassification

from ..models import devices, hub, sources
from ..models.folder import LABELS

OPTION = "--unsafe-model "
BATCH = 32
"""Prompts that are scored together."""
LONGEST_TEXT = 512
"""Tokens, as in Detoxify; some tokenizers name no limit of their model's."""
DETOXIFY = frozenset(["toxicity", "sexual_explicit"])
"""Labels of a model whose probabilities are each for itself, whatever its configuration says."""


class UnsafeModel:
    """Scores prompts, from 0 for harmless to 1."""

    def __init__(self, source: str, *, device: str) -> None:
        self._device = devices.resolve_device(device)
        self._where = where = f"{OPTION}{source}"
        folder = sources.fetch("unsafe", source, option=OPTION)
        dtype = devices.half_on_gpu(self._device)
        model = hub.model(AutoModelForSequenceClassification, folder, dtype=dtype, where=where)
        self._tokenizer = hub.tokenizer(folder, where=where)
        labels = {number: label.lower() for number, label in model.config.id2label.items()}
        self._wanted = [number for number, label in labels.items() if label in LABELS]
        several = model.config.problem_type == "multi_label_classification" or not DETOXIFY.isdisjoint(labels.values())
        self._each_for_itself = several or len(labels) == 1
        self._model = model.to(self._device).eval()

    def scores(self, prompts: list[str]) -> list[float]:
        """A score for each prompt."""
        with hub.computing(self._where), torch.inference_mode():
            encoded = self._tokenizer(
                prompts, padding=True, truncation=True, max_length=self._limit(), return_tensors="pt"
            )
            logits = self._model(**encoded.to(self._device)).logits.float()
        probabilities = logits.sigmoid() if self._each_for_itself else logits.softmax(dim=-1)
        found: list[float] = probabilities[:, self._wanted].amax(dim=-1).tolist()
        return found

    def _limit(self) -> int:
        return min(int(self._tokenizer.model_max_length), LONGEST_TEXT)
