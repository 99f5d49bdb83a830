"""The scorers of the field, from checkpoints in their authors' layouts, against the formulas in `peers`."""

import json
import math
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from tests.conftest import Run
from tests.models.test_preprocess import noise
from tests.rewards import peers
from vpctl import plugins
from vpctl.errors import UserError
from vpctl.models import layouts
from vpctl.models.backbones import PACKAGED
from vpctl.models.preprocess import Recipe
from vpctl.models.reward import Score
from vpctl.models.shared import sharing
from vpctl.models.tensors import from_pictures
from vpctl.prompts.clip_tokens import ClipTokens
from vpctl.rewards import _hps

PROMPTS = ["a red circle", "two blue squares on a black background, left of a green star", "the", "a red circle"]
SIZES = [(224, 224), (300, 227), (96, 131), (640, 427)]


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    return [noise(*size) for size in SIZES]


@pytest.fixture(scope="module")
def imagereward(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("imagereward")
    torch.save(peers.imagereward(), folder / "ImageReward.pt")
    (folder / "vocab.txt").write_text("\n".join(peers.VOCABULARY))
    return folder


@pytest.fixture(scope="module")
def hps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("hps") / "HPS_v2_compressed.pt"
    torch.save({"state_dict": peers.open_clip(), "epoch": 3}, file)
    return file


def load(spec: str, **settings: str) -> Any:
    return plugins.load("reward", spec, device="cpu", **settings)


def pixels_of(recipe: Recipe, pictures: list[Image.Image]) -> Tensor:
    return torch.stack([recipe.pixels(picture) for picture in pictures])


def ids_of(prompts: list[str], limit: int) -> tuple[Tensor, Tensor]:
    """BERT's tokens of words that its vocabulary has as a whole, cut off after `limit`, padded to it."""
    numbers = {word: number for number, word in enumerate(peers.VOCABULARY)}
    rows = []
    for prompt in prompts:
        words = [numbers[word] for word in prompt.replace(",", " ,").replace("squares", "square ##s").split()]
        rows.append([numbers["[CLS]"], *words[: limit - 2], numbers["[SEP]"]])
    ids = torch.tensor([row + [0] * (limit - len(row)) for row in rows])
    return ids, (ids != 0).long()


def test_imagereward_is_the_formula_of_its_authors_with_head_and_constants(
    imagereward: Path, pictures: list[Image.Image]
) -> None:
    recipe = Recipe(224, crop=(224, 224), offsets="torchvision")
    wanted = peers.run_imagereward(peers.imagereward(), pixels_of(recipe, pictures), *ids_of(PROMPTS, 35))
    found = load(f"imagereward:{imagereward}")(pictures, PROMPTS)
    assert wanted.std() > 0.1, "the pictures and prompts make a difference"
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-6)


def test_imagereward_reads_35_tokens_and_says_where_more_were_given(
    imagereward: Path, pictures: list[Image.Image]
) -> None:
    reward = load(f"imagereward:{imagereward}")
    long = " ".join(["red blue green"] * 20)
    ids, mask = ids_of([long] * 4, 35)
    assert ids[0, -1] == peers.VOCABULARY.index("[SEP]"), "the end of the text is kept"
    recipe = Recipe(224, crop=(224, 224), offsets="torchvision")
    wanted = peers.run_imagereward(peers.imagereward(), pixels_of(recipe, pictures), ids, mask)
    torch.testing.assert_close(reward(pictures, [long] * 4), wanted, atol=1e-6, rtol=1e-6)
    assert [reward.is_truncated(" ".join(["red"] * count)) for count in (33, 34)] == [False, True]


def test_imagereward_has_the_configuration_that_its_numbers_would_not_show(imagereward: Path) -> None:
    """With tiny weights, a wrong epsilon changes a score by as little as another order of additions does."""
    config = load(f"imagereward:{imagereward}").model.backbone.config
    assert (config.vision_config.layer_norm_eps, config.text_config.layer_norm_eps) == (1e-6, 1e-12)
    assert (config.vision_config.num_attention_heads, config.text_config.num_attention_heads) == (16, 12)


def test_the_five_layers_of_a_head_are_one_affine_function() -> None:
    state = {name: one.double() for name, one in peers.head(7, 768).items()}
    layers = [(state[f"mlp.layers.{n}.weight"], state[f"mlp.layers.{n}.bias"]) for n in (0, 2, 4, 6, 7)]
    weight, bias = layouts.affine(layers)
    features = torch.randn(20, 768, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        (features @ weight.T + bias)[:, 0], peers.run_head(state, features), rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("name", ["hpsv2", "hpsv2.1"])
def test_hps_is_the_cosine_of_open_clip(hps: Path, pictures: list[Image.Image], name: str, antialias: bool) -> None:
    recipe = Recipe(224, which="longer", crop=(224, 224), offsets="torchvision", rounds=False, antialias=antialias)
    encoded = _hps.OpenClipTokenizer()(PROMPTS, padding=True, return_tensors="pt").input_ids
    image, text = peers.run_open_clip(peers.open_clip(), pixels_of(recipe, pictures), encoded)
    spec = f"{name}:antialias:{hps}" if antialias else f"{name}:{hps}"
    found = load(spec)(pictures, PROMPTS)
    torch.testing.assert_close(found, (image * text).sum(1), atol=1e-6, rtol=1e-6)
    assert found.std() > 1e-3


def test_the_two_ways_of_hps_to_resize_differ(hps: Path, pictures: list[Image.Image]) -> None:
    legacy, modern = load(f"hpsv2:{hps}"), load(f"hpsv2:antialias:{hps}")
    assert (legacy(pictures, PROMPTS) - modern(pictures, PROMPTS)).abs().max() > 1e-4


def test_the_activation_of_open_clip_shows_in_the_numbers(pictures: list[Image.Image]) -> None:
    """A conversion with the activation of OpenAI's CLIP would load without a word, and score otherwise."""
    state = peers.open_clip()
    pixels = pixels_of(Recipe(224, crop=(224, 224)), pictures)
    ids = torch.tensor([[49406, 320, 49407]] * 4)
    model = layouts.open_clip(state, where="").eval()
    with torch.no_grad():
        image = F.normalize(model.get_image_features(pixel_values=pixels).pooler_output, dim=-1)
        text = F.normalize(model.get_text_features(input_ids=ids).pooler_output, dim=-1)
    right, wrong = (peers.run_open_clip(state, pixels, ids, one) for one in (F.gelu, peers.quick_gelu))
    for ours, gelu, quick in zip((image, text), right, wrong, strict=True):
        torch.testing.assert_close(ours, gelu, atol=1e-6, rtol=1e-6)
        assert (ours - quick).abs().max() > 1e-4


@pytest.mark.parametrize("layout", ["v1", "v2"])
def test_aesthetic_is_its_head_on_the_normalised_embedding(
    tmp_path: Path, pictures: list[Image.Image], layout: str
) -> None:
    clip = layouts.open_clip(peers.open_clip(), where="").eval()
    clip.save_pretrained(tmp_path)
    write_processor(tmp_path)
    state = peers.head(3, 32, "layers") if layout == "v2" else {"weight": torch.randn(1, 32), "bias": torch.randn(1)}
    torch.save(OrderedDict(state), tmp_path / "head.pth")
    with torch.no_grad():
        pixels = pixels_of(Recipe(224, crop=(224, 224), offsets="torchvision"), pictures)
        embedded = F.normalize(clip.get_image_features(pixel_values=pixels).pooler_output, dim=-1)
    wanted = peers.run_head(state, embedded, "layers") if layout == "v2" else F.linear(embedded, *state.values())[:, 0]
    reward = load(f"aesthetic:{tmp_path / 'head.pth'}")
    torch.testing.assert_close(reward(pictures, PROMPTS), wanted, atol=1e-5, rtol=1e-5)
    assert reward(pictures, PROMPTS).tolist() == reward(pictures, ["x"] * 4).tolist(), "the prompt is not read"
    assert not reward.is_truncated("x " * 1000)


def write_processor(folder: Path) -> None:
    size = {"size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224}}
    settings = {"image_processor_type": "CLIPImageProcessor", "do_center_crop": True, **size}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    _hps.clip_tokenizer().save_pretrained(folder)


def wrapped(state: peers.State) -> dict[str, Any]:
    return {"model": {f"module.{name}": one for name, one in state.items()}}


@pytest.mark.parametrize("layout", ["plain", "wrapped", "safetensors", "model.", "legacy", "half"])
def test_a_checkpoint_is_read_in_every_wrapping(
    tmp_path: Path, imagereward: Path, pictures: list[Image.Image], layout: str
) -> None:
    state = peers.imagereward()
    wanted = load(f"imagereward:{imagereward}")(pictures, PROMPTS)
    (tmp_path / "vocab.txt").write_text("\n".join(peers.VOCABULARY))
    file = tmp_path / ("mine.safetensors" if layout == "safetensors" else "mine.pt")
    match layout:
        case "safetensors":
            save_file(state, file)
        case "wrapped":
            torch.save(wrapped(state), file)
        case "model.":
            torch.save({f"model.{name}": one for name, one in state.items()}, file)
        case "legacy":
            torch.save(state, file, _use_new_zipfile_serialization=False)
        case "half":
            torch.save({name: one.half() if one.is_floating_point() else one for name, one in state.items()}, file)
        case _:
            torch.save(state, file)
    found = load(f"imagereward:{file}")
    assert found.model.backbone.dtype == torch.float32
    tolerance = 0.05 if layout == "half" else 1e-6
    torch.testing.assert_close(found(pictures, PROMPTS), wanted, atol=tolerance, rtol=0.0)
    torch.testing.assert_close(load(f"imagereward:{tmp_path}")(pictures, PROMPTS), found(pictures, PROMPTS))


def itself() -> dict[str, Any]:
    wrapper: dict[str, Any] = {}
    wrapper["model"] = wrapper
    return wrapper


class Foreign:
    """A module that somebody pickled."""


def without(name: str) -> Callable[[peers.State], Any]:
    return lambda state: {one: value for one, value in state.items() if one != name}


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (without("blip.visual_encoder.norm.bias"), "missing: 'vision_model.post_layernorm.bias'"),
        (without("blip.text_proj.weight"), "its weights are incomplete: 'text_proj.weight' is missing"),
        (without("mlp.layers.4.bias"), "its weights are incomplete: 'mlp.layers.4.bias' is missing"),
        (lambda state: {**state, "extra.weight": torch.ones(2)}, "has weights of another model: 'extra.weight'"),
        (
            lambda state: {**state, "blip.visual_encoder.norm.bias": torch.ones(3)},
            "do not fit together: mismatched: ('vision_model.post_layernorm.bias'",
        ),
        (
            lambda state: {**state, "blip.visual_encoder.pos_embed": torch.ones(7)},
            "its weights do not fit together: ",
        ),
        (lambda state: itself(), "is not a checkpoint: it does not hold weights by name"),
        (
            lambda state: {**state, "mlp.layers.0.weight": torch.ones(1, 1).expand(1 << 20, 1 << 20)},
            "'mlp.layers.0.weight' has the shape (1048576, 1048576), and the file holds fewer numbers",
        ),
        (lambda state: {"epoch": 3}, "is not a checkpoint: it does not hold weights by name"),
        (lambda state: [1, 2], "is not a checkpoint: it does not hold weights by name"),
        (lambda state: peers.open_clip(words=9), "is not an ImageReward checkpoint: it has no head (mlp.layers)"),
        (
            lambda state: Foreign(),
            "mine.pt: is a pickle with more than tensors in it (tests.rewards.test_",
        ),
        (
            lambda state: {**state, "by": Foreign()},
            "could run code and is not opened; name a copy in safetensors",
        ),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_an_error(
    tmp_path: Path, damage: Callable[[peers.State], Any], reason: str
) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(peers.VOCABULARY))
    torch.save(damage(peers.imagereward()), tmp_path / "mine.pt")
    with pytest.raises(UserError) as raised:
        load(f"imagereward:{tmp_path / 'mine.pt'}")
    message = str(raised.value)
    assert message.startswith(f"--reward imagereward:{tmp_path / 'mine.pt'}: ")
    assert reason in message
    assert "\n" not in message


@pytest.mark.parametrize("damage", ["cut", "html", "pointer", "empty", "bits"])
@pytest.mark.parametrize("kind", ["pt", "safetensors"])
def test_a_damaged_file_is_an_error_before_torch_opens_it(tmp_path: Path, damage: str, kind: str) -> None:
    file = tmp_path / f"mine.{kind}"
    torch.save(peers.head(0, 32), file) if kind == "pt" else save_file(peers.head(0, 32), file)
    data = file.read_bytes()
    file.write_bytes(
        {
            "cut": data[: len(data) // 2],
            "html": b"<!doctype html><p>404</p>" * 9,
            "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n",
            "empty": b"",
            "bits": bytes(byte ^ 0xFF for byte in data),
        }[damage]
    )
    with pytest.raises(UserError, match=r"^--reward aesthetic:\S+mine\.\w+: [^\n:]+(: [^\n]+)?$"):
        plugins.check("reward", f"aesthetic:{file}")


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (
            {f"layers.{n}.weight": torch.ones(1, 1) for n in (0, 3, 6, 9, 11)},
            "is the head with ReLU; name",
        ),
        (
            {"layers.0.weight": torch.ones(1, 768)},
            "is not a head of LAION Aesthetic: its first weight is 'layers",
        ),
        ({"weight": torch.ones(1, 9), "bias": torch.ones(1)}, "the head has 9 weights; known: 768, 512"),
        ({"weight": torch.ones(9), "bias": torch.ones(1)}, "the layers of the head have the shapes"),
        ({"weight": torch.ones(2, 768), "bias": torch.ones(2)}, "the layers of the head have the shapes"),
    ],
)
def test_a_head_of_another_kind_is_an_error(tmp_path: Path, head: dict[str, Tensor], reason: str) -> None:
    torch.save(head, tmp_path / "head.pth")
    with pytest.raises(UserError, match=f"^--reward aesthetic:{tmp_path}/head.pth: .*{reason}"):
        load(f"aesthetic:{tmp_path / 'head.pth'}")


def specs(imagereward: Path, hps: Path) -> dict[str, str]:
    return {"imagereward": f"imagereward:{imagereward}", "hpsv2": f"hpsv2:{hps}", "antialias": f"hpsv2:antialias:{hps}"}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["imagereward", "hpsv2"])
def test_a_score_does_not_depend_on_its_batch(
    imagereward: Path, hps: Path, pictures: list[Image.Image], name: str, dtype: str
) -> None:
    reward = load(specs(imagereward, hps)[name], dtype=dtype)
    together = reward(pictures, PROMPTS)
    alone = torch.cat([reward([one], [prompt]) for one, prompt in zip(pictures, PROMPTS, strict=True)])
    order = [2, 0, 3, 1]
    shuffled = reward([pictures[n] for n in order], [PROMPTS[n] for n in order])
    spread = float(together.max() - together.min())
    tolerance = spread * {"float32": 1e-5, "bfloat16": 0.05}[dtype]
    torch.testing.assert_close(alone, together, atol=tolerance, rtol=0.0)
    torch.testing.assert_close(shuffled, together[order], atol=tolerance, rtol=0.0)
    assert together.dtype == torch.float32
    torch.testing.assert_close(
        together, load(specs(imagereward, hps)[name])(pictures, PROMPTS), atol=spread * 0.2, rtol=0
    )


@pytest.mark.parametrize(("name", "scale"), [("hpsv2", 1.0), ("clip", 1.0), ("pickscore", math.exp(4.6052))])
def test_a_lower_precision_does_not_round_the_logit_scale(
    tmp_path: Path, hps: Path, pictures: list[Image.Image], name: str, scale: float
) -> None:
    """In bfloat16, a scale of 100 would be 98.9, and all scores off by the same 1.1 %."""
    layouts.open_clip(peers.open_clip(), where="").save_pretrained(tmp_path)
    write_processor(tmp_path)
    reward: Score = load(f"hpsv2:{hps}" if name == "hpsv2" else f"{name}:{tmp_path}", dtype="bfloat16")
    assert reward.provenance()["dtype"] == "bfloat16"
    with torch.no_grad():
        image = reward.model.image_features(pixels_of(reward.model.recipe, pictures).bfloat16())
        text = reward.model.text_features(**reward.model.tokens(PROMPTS))
    wanted = scale * F.cosine_similarity(image.float(), text.float())
    torch.testing.assert_close(reward(pictures, PROMPTS), wanted, atol=0.0, rtol=1e-5)


@pytest.mark.parametrize("name", ["imagereward", "hpsv2", "antialias"])
def test_tensors_have_the_scores_of_the_pictures_and_gradients(imagereward: Path, hps: Path, name: str) -> None:
    reward = load(specs(imagereward, hps)[name])
    assert reward.differentiable
    pictures = [noise(300, 227), noise(300, 227).transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    images = from_pictures(pictures).requires_grad_()
    wanted = reward(pictures, PROMPTS[:2])
    found = reward(images, PROMPTS[:2])
    torch.testing.assert_close(found.detach(), wanted, atol=2e-4, rtol=1e-3)
    found.sum().backward()
    assert images.grad is not None
    assert (images.grad.flatten(1).abs().sum(1) > 0).all()
    assert not reward(images.detach(), PROMPTS[:2]).requires_grad


def test_rewards_of_the_same_model_share_it_and_encode_a_picture_once(
    tmp_path: Path, pictures: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    layouts.open_clip(peers.open_clip(), where="").save_pretrained(tmp_path)
    write_processor(tmp_path)
    torch.save({"weight": torch.ones(1, 32), "bias": torch.ones(1)}, tmp_path / "head.pth")
    rewards = [load(f"{name}:{tmp_path}") for name in ("clip", "pickscore", "vp")]
    rewards.append(load(f"aesthetic:{tmp_path / 'head.pth'}"))
    assert len({id(reward.model) for reward in rewards}) == 1
    calls: list[int] = []
    encode = rewards[0].model.image_features

    def counted(pixels: Tensor) -> Tensor:
        calls.append(len(pixels))
        features: Tensor = encode(pixels)
        return features

    monkeypatch.setattr(rewards[0].model, "image_features", counted)
    pictures = [noise(side, side) for side in (224, 300, 96, 100)]  # whose crops are the same for all four
    apart = [reward(pictures, PROMPTS) for reward in rewards]
    assert calls == [4] * 4
    with sharing():
        together = [reward(pictures, PROMPTS) for reward in rewards]
    assert calls[4:] == [4]
    for one, other in zip(apart, together, strict=True):
        assert torch.equal(one, other)


def test_a_prompt_is_encoded_once(hps: Path, pictures: list[Image.Image], monkeypatch: pytest.MonkeyPatch) -> None:
    reward: Score = load(f"hpsv2:{hps}")
    seen: list[int] = []
    encode = reward.model.text_features

    def counted(input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        seen.append(len(input_ids))
        return encode(input_ids, attention_mask)

    monkeypatch.setattr(reward.model, "text_features", counted)
    monkeypatch.setattr("vpctl.models.reward.MOST_TEXTS", 3)
    first = reward(pictures, PROMPTS)
    again = reward(pictures, PROMPTS)
    assert torch.equal(first, again)
    assert seen == [3], "two of the four prompts are the same"
    reward(pictures[:1], ["another"])
    reward(pictures[:1], [PROMPTS[1]])
    reward(pictures[:1], [PROMPTS[0]])
    assert seen == [3, 1, 1], "the prompt that was used least recently is forgotten first"


CLEANING = {
    "it’s “so” ﬁne…": 'it\'s "so" fine…',
    "sâ€™il vous plaÃ®t": "s'il vous plaît",
    "a &amp;lt; b &amp; c": "a < b & c",
    "  spaces\t\nand  tabs ": "spaces\t\nand  tabs",
}


@pytest.mark.parametrize(("text", "cleaned"), CLEANING.items())
def test_a_prompt_is_cleaned_as_open_clip_does(text: str, cleaned: str) -> None:
    assert _hps.clean(text) == cleaned
    tokenizer = _hps.OpenClipTokenizer()
    assert tokenizer(text).input_ids == _hps.clip_tokenizer()(cleaned).input_ids
    assert tokenizer([text, text]).input_ids == [tokenizer(text).input_ids] * 2


def test_the_name_of_a_control_token_in_a_prompt_is_text() -> None:
    ids = _hps.OpenClipTokenizer()("a <|endoftext|> cat <|startoftext|>").input_ids
    assert (ids.count(49406), ids.count(49407)) == (1, 1)
    assert ids[:2] + ids[-1:] == [49406, 320, 49407]


@pytest.mark.parametrize("words", [0, 74, 75, 76, 500])
def test_a_prompt_is_cut_off_after_77_tokens_and_keeps_its_end(words: int) -> None:
    ids = _hps.OpenClipTokenizer()(["cat " * words], truncation=True).input_ids[0]
    assert ids == [49406, *[2368] * min(words, 75), 49407]
    assert len(ids) - 2 == min(75, ClipTokens().count("cat " * words))


def test_what_determines_the_scores_is_said(imagereward: Path, hps: Path) -> None:
    found = load(f"imagereward:{imagereward}", dtype="bfloat16").provenance()
    assert found.pop("weights") == {"ImageReward.pt": sha256_of(imagereward / "ImageReward.pt")}
    assert found == {
        "preprocessing": "resize the shorter side to 224, bicubic, 8 bits; crop to 224 × 224 as torchvision; "
        "mean 0.48145466 0.4578275 0.40821073, std 0.26862954 0.26130258 0.27577711",
        "dtype": "bfloat16",
        "mean": 0.16717362830052426,
        "std": 1.0333394966054072,
        "longest_text": 35,
    }
    legacy, modern = (load(f"hpsv2:{way}{hps}").provenance()["preprocessing"] for way in ("", "antialias:"))
    assert legacy.startswith("resize the longer side to 224, bicubic, floats, not antialiased; pad to 224 × 224 as")
    assert modern == legacy.replace("not antialiased", "antialiased")


def sha256_of(path: Path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_pickscore_takes_no_other_model() -> None:
    with pytest.raises(UserError, match=r"not a CLIP model, as PickScore is$"):
        plugins.check("reward", f"pickscore:{PACKAGED}")


def test_a_folder_that_has_changed_is_loaded_anew(tmp_path: Path, pictures: list[Image.Image]) -> None:
    found = []
    for seed in (0, 1):
        layouts.open_clip(peers.open_clip(seed), where="").save_pretrained(tmp_path)
        write_processor(tmp_path)
        found.append(load(f"clip:{tmp_path}"))  # the first one is still in use
    assert found[0].model is not found[1].model
    assert (found[0](pictures, PROMPTS) - found[1](pictures, PROMPTS)).abs().max() > 1e-3


def test_what_turns_features_into_a_score_stays_in_float32(imagereward: Path, hps: Path) -> None:
    for spec, names in (
        (f"imagereward:{imagereward}", ["itm_head.weight", "itm_head.bias"]),
        (f"hpsv2:{hps}", ["logit_scale"]),
    ):
        backbone = load(spec, dtype="bfloat16").model.backbone
        kept = [name for name, one in backbone.named_parameters() if one.dtype == torch.float32]
        assert sorted(kept) == sorted(names)


def test_what_is_named_in_place_of_a_checkpoint_is_told(tmp_path: Path, run: Run) -> None:
    (tmp_path / "prompts.txt").write_text("a red circle\n")
    (tmp_path / "rm").mkdir()
    for name in ("config.json", "reward.json", "model.safetensors"):
        (tmp_path / "rm" / name).write_text("{}")
    torch.save(peers.imagereward(), tmp_path / "ImageReward.pt")
    tokenizer = (
        "imagereward:ImageReward.pt needs the tokenizer google-bert/bert-base-uncased: the hub cannot be reached ("
    )
    for argument, said in (
        (
            "prompts.txt",
            "imagereward:prompts.txt: is not a checkpoint: it is neither from torch.save nor in safetensors",
        ),
        (
            "rm",
            "imagereward:rm: is not a checkpoint; it holds a reward model, which score takes as --reward vp:rm",
        ),
        ("ImageReward.pt", tokenizer),
    ):
        ended = run("score", "none.jsonl", "--reward", f"imagereward:{argument}", env={"HF_HUB_OFFLINE": "1"})
        assert ended.err.startswith(f"vpctl score: error: --reward {said}")
    way_out = "a folder that holds both ImageReward.pt and vocab.txt of google-bert/bert-base-uncased"
    assert ended.err.endswith(f"; name {way_out}, or run again when online\n")


def test_the_python_of_the_readme_runs_as_it_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    said = (Path(plugins.__file__).parent / "rewards" / "README.md").read_text()
    exec(said.split("```python\n")[1].split("```")[0], {})
    assert len(json.loads(capsys.readouterr().out)) == 2
