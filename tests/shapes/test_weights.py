"""The packaged models load with diffusers and transformers alone."""

import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from transformers import AutoProcessor, BlipForImageTextRetrieval

from tests.conftest import HOME

WEIGHTS = HOME / "vpctl" / "shapes" / "weights"


@pytest.mark.parametrize("name", ["base", "small"])
def test_a_pipeline_draws_without_being_told_a_dtype(name: str) -> None:
    pipe = StableDiffusionPipeline.from_pretrained(WEIGHTS / name)
    pipe.set_progress_bar_config(disable=True)
    picture = pipe("a red circle", num_inference_steps=2).images[0]
    assert picture.size == (32, 32)
    assert {part.dtype for part in (pipe.unet, pipe.vae, pipe.text_encoder)} == {torch.float32}


def test_the_backbone_matches_a_picture_and_a_text_without_being_told_a_dtype() -> None:
    model: BlipForImageTextRetrieval = BlipForImageTextRetrieval.from_pretrained(WEIGHTS / "backbone")
    inputs = AutoProcessor.from_pretrained(WEIGHTS / "backbone")(
        images=Image.new("RGB", (32, 32), "red"), text="a red circle", return_tensors="pt"
    )
    with torch.no_grad():
        scores = model(**inputs).itm_score
    assert scores.shape == (1, 2)
    assert scores.isfinite().all()
