"""Scores how unsafe prompts are, with a text classifier.

The classifier may be a Detoxify model, or another one whose labels say what is toxic or not safe for work. The score is
computed as DiffusionDB computed `prompt_nsfw`: the largest probability among the labels that matter. transformers loads
the model from a folder or the hub, and reads only tensors. The detoxify package is not used, because it downloads the
same weights as a pickle, which can run any code. `unitary/unbiased-toxic-roberta` is Detoxify's model for English.
"""

import torch
from transformers import AutoModelForSequenceClassification

from ..models import devices, hub, sources
from ..models.folder import LABELS

OPTION = "--unsafe-model "
LONGEST_TEXT = 512
"""Maximum number of tokens, as in Detoxify. Some tokenizers do not state the limit of their model."""
DETOXIFY = frozenset(["toxicity", "sexual_explicit"])
"""Labels of Detoxify. The probabilities of such a model are independent, whatever its configuration says."""


class UnsafeModel:
    """Scores how unsafe prompts are, from 0 (harmless) to 1."""

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
        self._multi_label = several or len(labels) == 1
        self._model = model.to(self._device).eval()

    def scores(self, prompts: list[str]) -> list[float]:
        """A score in [0, 1] for each prompt."""
        with hub.compute_errors(self._where), torch.inference_mode():
            encoded = self._tokenizer(
                prompts, padding=True, truncation=True, max_length=self._limit(), return_tensors="pt"
            )
            logits = self._model(**encoded.to(self._device)).logits.float()
        probabilities = logits.sigmoid() if self._multi_label else logits.softmax(dim=-1)
        found: list[float] = probabilities[:, self._wanted].amax(dim=-1).tolist()
        return found

    def _limit(self) -> int:
        return min(int(self._tokenizer.model_max_length), LONGEST_TEXT)
