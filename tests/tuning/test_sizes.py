"""Other sizes of pictures and shorter texts for a backbone."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from vpctl.models.reward import open_backbone, open_model
from vpctl.tuning.sizes import limit_text, resized, too_long, with_pictures_of


def test_position_embeddings_are_interpolated_on_their_grid() -> None:
    """A grid whose value rises by one from column to column: in one of twice the size it rises by about a half."""
    columns = torch.arange(6.0).expand(6, 6).reshape(36, 1)
    found = resized(torch.cat([torch.tensor([[99.0]]), columns]), 12)
    assert found[0].item() == 99.0, "that of the class token"
    grid = found[1:].view(12, 12)
    assert grid[5, 4:8].tolist() == pytest.approx([1.75, 2.25, 2.75, 3.25], abs=0.1)
    torch.testing.assert_close(grid[0], grid[11])
    torch.testing.assert_close(resized(found, 12), found)


@pytest.mark.parametrize("kind", ["", "new:clip"])
def test_a_model_of_another_size_is_saved_with_all_that_is_needed(kind: str, tmp_path: Path) -> None:
    model = with_pictures_of(open_backbone(kind, seed=0), 48)
    limit_text(model, 6)
    picture = Image.linear_gradient("L").rotate(90).resize((100, 60)).convert("RGB")
    prompt = "a red circle left of a blue square"
    with torch.no_grad():
        reward = model(pixels := model.recipe.pixels(picture)[None], **model.tokens([prompt]))
    assert pixels.shape == (1, 3, 48, 48)
    assert not torch.equal(pixels, model.recipe.pixels(picture.crop((0, 0, 60, 60)))[None]), "the centre is cropped"
    model.save(tmp_path)
    again = open_model(str(tmp_path), option="")
    torch.testing.assert_close(again.recipe.pixels(picture)[None], pixels)
    with torch.no_grad():
        torch.testing.assert_close(again(pixels, **again.tokens([prompt])), reward)
    assert again.tokens([prompt])["input_ids"].shape == (1, 6)


def test_prompts_are_counted_whose_end_is_not_read() -> None:
    model = open_backbone("", seed=0)
    whole = "a red circle left of a blue square"
    length = model.tokens([whole])["input_ids"].shape[1]
    for limit, expected in ((length, 0), (length - 1, 1)):
        limit_text(model, limit)
        assert too_long(model, ["a red circle", whole]) == expected
