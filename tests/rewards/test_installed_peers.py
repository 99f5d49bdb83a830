"""Our converters and models against the authors' own packages, where these are installed; see `installed`."""

import html
from pathlib import Path
from random import Random

import pytest
import torch
import torch.nn.functional as F
from transformers import BertTokenizer

from tests.models.test_preprocess import noise
from tests.rewards import installed, peers
from tests.rewards.test_published import CLEANING, PROMPTS, load, pixels_of
from vpctl.models import layouts
from vpctl.models.preprocess import Recipe
from vpctl.rewards import _hps
from vpctl.shapes.prompts import raw_prompts

SIZES = [(224, 224), (300, 227), (96, 131), (640, 427), (227, 224), (454, 448)]


def needs(packages: tuple[str, ...]) -> pytest.MarkDecorator:
    missing = installed.missing(packages)
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


@needs(installed.IMAGE_REWARD)
def test_imagereward_scores_as_the_package_of_its_authors_does(tmp_path: Path) -> None:
    """With their own transformers, head, constants, tokens and crop, from a checkpoint that their model wrote."""
    (tmp_path / "vocab.txt").write_text("\n".join(peers.VOCABULARY))
    tokenizer = BertTokenizer(str(tmp_path / "vocab.txt"))
    words = len(peers.VOCABULARY) + 2
    theirs = installed.image_reward(tokenizer, tmp_path / "med.json", vision=(64, 2), text=(48, 2), words=words)
    installed.draw(theirs)
    torch.save(theirs.state_dict(), tmp_path / "ImageReward.pt")
    reward = load(f"imagereward:{tmp_path}")
    pictures, prompts = [noise(*size) for size in SIZES], [*PROMPTS, " ".join(["red blue green"] * 20), ""]
    wanted = torch.tensor([theirs.score(prompt, picture) for prompt, picture in zip(prompts, pictures, strict=True)])
    assert wanted.std() > 0.1
    torch.testing.assert_close(reward(pictures, prompts), wanted, atol=1e-6, rtol=1e-6)
    ranked = torch.tensor(theirs.inference_rank(PROMPTS[0], pictures)[1])
    torch.testing.assert_close(reward(pictures, [PROMPTS[0]] * len(pictures)), ranked, atol=1e-6, rtol=1e-6)


@needs(installed.OPEN_CLIP)
@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
def test_a_checkpoint_of_open_clip_gives_its_embeddings(activation: str) -> None:
    package = installed.open_clip()
    torch.manual_seed(0)
    theirs = package.CLIP(
        embed_dim=32,
        vision_cfg={"image_size": 224, "layers": 3, "width": 128, "patch_size": 32, "head_width": 64},
        text_cfg={"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 3},
        quick_gelu=activation == "quick_gelu",
    ).eval()
    installed.draw(theirs)
    ours = layouts.open_clip(theirs.state_dict(), where="").eval()
    pixels = pixels_of(Recipe(224, crop=(224, 224)), [noise(*size) for size in SIZES])
    texts = package.get_tokenizer("ViT-B-32")([*PROMPTS, "", "cat " * 100])
    with torch.no_grad():
        image, text, scale = (one.detach() for one in theirs(pixels, texts))
        found = [
            F.normalize(ours.get_image_features(pixel_values=pixels).pooler_output, dim=-1),
            F.normalize(ours.get_text_features(input_ids=texts).pooler_output, dim=-1),
        ]
    differences = [float((one - wanted).abs().max()) for one, wanted in zip(found, (image, text), strict=True)]
    if activation == "gelu":
        assert max(differences) <= 1e-6
        torch.testing.assert_close(ours.logit_scale.detach().exp(), scale)
    else:
        assert min(differences) > 1e-4, "a model with the other activation, which the checkpoint does not show"


@needs(installed.OPEN_CLIP)
def test_prompts_have_the_tokens_of_open_clip() -> None:
    """Not for characters that only newer Unicode has, nor for the iota U+0345 and a long s behind an apostrophe."""
    theirs, ours = installed.open_clip().get_tokenizer("ViT-H-14"), _hps.OpenClipTokenizer()
    rng = Random(0)
    letters = "aZé 日本🙂️‍'’\"“”…—&;<>#0٣\t\n\u00a0\u200bßİﬁ½"
    texts = [
        *("cat " * count for count in (0, 74, 75, 76, 77, 78, 500)),
        *CLEANING,
        *map(html.escape, CLEANING),
        *raw_prompts(300, rng),
        *("".join(rng.choices(letters, k=rng.randint(1, 40))) for _ in range(500)),
        "it's they'll I'M we'RE",
        "3rd 1,000.50 x86_64",
        "<|endoftext|> <|startoftext|>",
        "\0",
        "a\x00b",
    ]
    for text in texts:
        ids = ours([text], truncation=True).input_ids[0]
        assert ids + [0] * (77 - len(ids)) == theirs([text])[0].tolist(), text
