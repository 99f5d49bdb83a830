"""train-rm's own part: which pairs are for what, and how pictures get there."""

import dataclasses
from pathlib import Path
from typing import Any, cast
from xml.etree import ElementTree

import orjson
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast, SiglipConfig, SiglipImageProcessorPil, SiglipModel

from tests.conftest import Ended, Run, code_of_card, write_lines
from tests.rewards import peers
from vpctl import plugins
from vpctl.commands.train_rm import (
    USE,
    card,
    divided,
    grouped,
    learnable,
    passes_per_step,
    plots,
    preferring_without,
    share_of,
    which_epoch,
)
from vpctl.configs import PRESETS, RewardModelConfig
from vpctl.errors import UserError
from vpctl.images.pictures import Pictures
from vpctl.models.backbones import PACKAGED
from vpctl.models.imagereward import MEAN, STD
from vpctl.models.reward import open_backbone, open_model
from vpctl.records import Pair, Report
from vpctl.rewards import vp
from vpctl.tuning.heads import Heads
from vpctl.tuning.reward import Comparison, Kept, PromptPairs
from vpctl.tuning.store import Store


def pair(prompt: str, chosen: str = "a.png", rejected: str = "b.png", split: str = "") -> Pair:
    record: Pair = {
        "prompt_id": prompt,
        "prompt": prompt,
        "chosen_file_name": chosen,
        "rejected_file_name": rejected,
        "margin": 0.5,
    }
    return {**record, "split": split} if split else record


def test_pairs_go_where_their_split_says_and_to_training_without_one() -> None:
    parts = divided([pair("p", split="test"), pair("q"), pair("r", split="validation"), pair("s", split="train")], "f")
    assert {name: [one["prompt"] for one in part] for name, part in parts.items()} == {
        "train": ["q", "s"],
        "validation": ["r"],
        "test": ["p"],
    }


def test_without_any_split_two_tenths_of_the_prompts_are_held_out_and_no_prompt_is_in_two_parts() -> None:
    parts = divided([pair(f"prompt {number % 500}") for number in range(2000)], "f")
    prompts = {name: {one["prompt"] for one in part} for name, part in parts.items()}
    assert sum(map(len, prompts.values())) == len(set().union(*prompts.values())) == 500
    for name in ("validation", "test"):
        assert len(prompts[name]) == pytest.approx(50, abs=3 * (500 * 0.1 * 0.9) ** 0.5)


def test_without_any_split_the_same_words_are_on_one_side_whatever_their_ids() -> None:
    pairs = [{**pair(f"prompt {number // 4}"), "prompt_id": f"id {number}"} for number in range(800)]
    parts = divided(cast(list[Pair], pairs), "f")
    prompts = [{one["prompt"] for one in part} for part in parts.values()]
    assert all(prompts)
    assert sum(map(len, prompts)) == len(set().union(*prompts)) == 200
    assert sum(map(len, parts.values())) == 800


def train(forked: Run, folder: Path, pairs: list[Pair], *options: str) -> Ended:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (32, 32), "red" if name == "a.png" else "blue").save(folder / name)
    write_lines(folder / "pairs.jsonl", pairs)
    new = ("--backbone", "new:clip", "--freeze", "0")
    return forked("train-rm", "pairs.jsonl", *new, "--epochs", "1", "--out", "rm", *options)


def test_patience_needs_validation_pairs(forked: Run, tmp_path: Path) -> None:
    ended = train(forked, tmp_path, [pair("p", split="train"), pair("q", split="test")], "--patience", "2")
    assert ended.code == 2
    assert "error: --patience 2: pairs.jsonl has no pairs in split validation; merge --split" in ended.err
    assert not (tmp_path / "rm").exists()


@pytest.mark.parametrize("option", ["--freeze-rule imagereward", "--head mlp"])
def test_what_is_for_a_blip_needs_a_blip(forked: Run, tmp_path: Path, option: str) -> None:
    ended = train(forked, tmp_path, [pair("p", split="train")], *option.split())
    assert ended.code == 2
    assert f"error: {option}: new:clip is not a BLIP; leave the option out" in ended.err
    assert not (tmp_path / "rm").exists()


@pytest.mark.parametrize(
    ("aspects", "options", "said"),
    [
        (
            {"fidelity": 1.0},
            "--without fidelty",
            "--without fidelty: the pairs have no such aspect; they have fidelity",
        ),
        ({"fidelity": 1.0}, "--without fidelity", "--without fidelity: the pairs have no other aspects; leave the"),
        (
            None,
            "--without fidelity",
            "pairs.jsonl:1: --without fidelity needs the 'aspects' of every pair, which merge",
        ),
        (None, "--aspect-weight 1", "--aspect-weight 1: the pairs have no aspects; leave the option out"),
    ],
)
def test_aspects_that_are_not_there_are_told(
    forked: Run, tmp_path: Path, aspects: dict[str, float] | None, options: str, said: str
) -> None:
    one = pair("p", split="train")
    ended = train(forked, tmp_path, [{**one, "aspects": aspects} if aspects else one], *options.split())
    assert ended.code == 2
    assert f"train-rm: error: {said}" in ended.err


def test_without_an_aspect_the_others_decide_which_picture_is_the_better_one() -> None:
    judged: Pair = {
        **pair("p"),
        "chosen_image_id": "A",
        "rejected_image_id": "B",
        "margin": 0.2,
        "aspects": {"aesthetic": -0.25, "fidelity": 1.0, "harmlessness": -0.15},
    }
    assert preferring_without(judged, {"aesthetic"}) == {
        **judged,
        "margin": 0.425,
        "aspects": {"fidelity": 1.0, "harmlessness": -0.15},
    }
    assert preferring_without(judged, {"fidelity"}) == {
        **pair("p", "b.png", "a.png"),
        "chosen_image_id": "B",
        "rejected_image_id": "A",
        "margin": 0.2,
        "aspects": {"aesthetic": 0.25, "harmlessness": 0.15},
    }
    assert preferring_without(judged, judged["aspects"])["margin"] == 0


def test_ties_are_learnt_from_on_request_and_test_pairs_keep_all_aspects() -> None:
    judged: Pair = {**pair("p"), "margin": 0.5, "aspects": {"aesthetic": 0.0, "fidelity": 1.0}}
    tied: Pair = {**judged, "margin": 0.0, "aspects": {"aesthetic": 0.0, "fidelity": 0.0}}
    split = {part: [judged, tied] for part in ("train", "validation", "test")}
    untied = {part: [judged] for part in split}
    assert learnable(split, (), ties=False, source="f") == untied
    assert learnable(split, (), ties=True, source="f") == {**untied, "train": [judged, tied]}
    left = learnable(split, {"fidelity"}, ties=True, source="f")
    assert [len(left[part]) for part in split] == [2, 0, 1]
    assert left["test"] == [judged]
    with pytest.raises(UserError, match="f: there are only ties to train on"):
        learnable(split, {"fidelity"}, ties=False, source="f")


def test_it_is_told_that_there_are_no_ties_to_learn_from(capsys: pytest.CaptureFixture[str]) -> None:
    learnable({"train": [pair("p")], "validation": [], "test": []}, (), ties=True, source="f")
    said = "warning: --loss ties: there are no ties to learn from; merge --keep-ties writes them\n"
    assert capsys.readouterr().err.endswith(said)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--text-limit 30", "--text-limit 30: the backbone reads at most 24 tokens"),
        ("--image-size 33", "--image-size 33: must be a multiple of 4, such as 32 or 36"),
        ("--preset visionprefre", "--preset visionprefre: must be one of visionprefer, imagereward; did you mean"),
        (
            "--preset imagereward --backbone new:clip --text-limit 9",
            "--freeze-rule imagereward: new:clip is not a BLIP; leave the option out; --preset imagereward sets "
            "--freeze-rule",
        ),
        ("--freeze 0.7", "--freeze 0.7: the layers of a new backbone know nothing yet; add --freeze 0\n"),
        (
            "--preset imagereward --backbone new:blip --text-limit 9 --image-size 32",
            "--freeze 0.7: the layers of a new backbone know nothing yet; add --freeze 0; --preset imagereward sets "
            "--freeze\n",
        ),
        (
            "--preset imagereward --backbone new:blip --freeze 0",
            "--text-limit 35: the backbone reads at most 24 tokens; --preset imagereward sets --text-limit\n",
        ),
    ],
)
def test_what_the_backbone_cannot_read_is_told_at_once(forked: Run, tmp_path: Path, options: str, said: str) -> None:
    words = options if "--preset" in options else f"--backbone new:blip {options}"
    ended = forked("train-rm", "nothing.jsonl", "--out", "rm", *words.split())
    assert ended.code == 2
    assert f"train-rm: error: {said}" in ended.err


def test_a_preset_is_told_before_its_backbone_is_looked_for(forked: Run, tmp_path: Path) -> None:
    ended = forked("train-rm", "nothing.jsonl", "--out", "rm", "--preset", "visionprefer", env={"HF_HUB_OFFLINE": "1"})
    noted, failed = ended.err.splitlines()
    assert noted.startswith("vpctl train-rm: --preset visionprefer sets --backbone Salesforce/blip-itm-large-coco ")
    assert failed.startswith("vpctl train-rm: error: --backbone Salesforce/blip-itm-large-coco: ")
    assert failed.endswith("; --preset visionprefer sets --backbone")


def test_a_preset_sets_what_is_not_given_and_says_so(forked: Run, tmp_path: Path) -> None:
    given = "--preset imagereward --backbone new:blip --text-limit 6 --image-size 16 --freeze 0".split()
    parts = [pair("a red circle", split="train"), pair("a red circle left of a blue square", split="test")]
    ended = train(forked, tmp_path, parts, *given, "--epochs", "1")
    assert ended.code == 0, ended.err
    assert (
        "--preset imagereward sets --head mlp --freeze-rule imagereward --batch 4 --pairs-per-step 64 "
        "--learning-rate 1e-05 --weight-decay 0.0 --loss bradley-terry\n"
    ) in ended.err
    used = orjson.loads((tmp_path / "rm" / "run.json").read_bytes())["options"]
    assert (used["freeze"], used["text_limit"], used["epochs"]) == (0, 6, 1)
    assert (used["freeze_rule"], used["batch"], used["accumulate"]) == ("imagereward", 4, 16)
    assert "warning: 1 of 2 prompts have more than 6 tokens: their ends are not read; see --text-limit" in ended.err
    assert "1 of 2 prompts have more than 6 tokens: their ends are not read." in (tmp_path / "rm/README.md").read_text()
    model = open_model(str(tmp_path / "rm"), option="")
    assert model.tokens(["a red circle left of a blue square"])["input_ids"].shape == (1, 6)
    assert model.recipe.pixels(Image.new("RGB", (40, 20))).shape == (3, 16, 16)


def test_the_recipes_are_those_of_the_papers() -> None:
    wanted = {"head": "mlp", "text_limit": 35, "image_size": 224, "freeze": 0.7, "pairs_per_step": 64}
    for name, rule in (("visionprefer", "layers"), ("imagereward", "imagereward")):
        recipe = PRESETS[name]
        assert {key: recipe[key] for key in wanted} == wanted
        assert (recipe["freeze_rule"], recipe["learning_rate"], recipe["loss"]) == (rule, 1e-5, "bradley-terry")
        assert recipe.keys() - {"backbone"} <= {field.name for field in dataclasses.fields(RewardModelConfig)}


@pytest.mark.parametrize(("wanted", "batch", "passes"), [(64, 4, 4), (64, 16, 1), (64, 64, 1), (6, 1, 2), (100, 2, 12)])
def test_the_passes_of_a_step_have_about_as_many_pairs_as_are_asked_for(wanted: int, batch: int, passes: int) -> None:
    """Of ten prompts with three and ten with five pairs: four on average."""
    pairs = [pair(f"prompt {number}") for number in range(20) for _ in range(3 + 2 * (number % 2))]
    assert passes_per_step(pairs, RewardModelConfig(pairs_per_step=wanted, batch=batch)) == passes


def test_a_smaller_share_of_the_data_is_a_part_of_a_larger_one() -> None:
    pairs = [
        {**pair(f"prompt {number // 3}"), "prompt_id": f"{number // 3}" + "-original" * (number % 3 == 0)}
        for number in range(300)
    ]
    before: set[str] = set()
    for share, prompts in ((0.001, 1), (0.1, 10), (0.101, 11), (0.3, 30), (1.0, 100)):
        found = share_of(cast(list[Pair], pairs), share)
        kept = {one["prompt"] for one in found}
        assert (len(kept), len(found)) == (prompts, 3 * prompts), "with all pairs of both forms of a prompt"
        assert before <= kept
        before = kept
    assert share_of(cast(list[Pair], pairs[::-1]), 1.0) == pairs[::-1]


def test_the_card_says_what_the_numbers_are_of() -> None:
    """Of two prompts, three pairs to learn from and one to test, judged by two annotators."""
    judged: Pair = {**pair("p"), "annotators": ["openai:gpt-4o", "human:anna"]}
    split = {"train": [judged, pair("p"), pair("q")], "validation": [], "test": [pair("r")]}
    asked = {"backbone": "", "loss": "margin", "without": ["fidelity"], "head": "mlp"}
    headline: Report = {"name": "vp:rm", "metric": "accuracy", "value": 0.75, "low": 0.5, "high": 1.0, "n": 4}
    shown = card(asked, split, Kept(3, 5, 0.25, 0.9), [headline], "blip", heads=["log_std"])
    for said in (
        "from the shapes world's backbone, with the margin loss.",
        "Accuracy on 4 held-out pairs: **0.750** (95 % interval 0.500 to 1.000, bootstrap over prompts).",
        "Kept the weights of epoch 3 of 5, whose validation loss is the lowest: 0.2500 (accuracy 0.900).",
        "Left out of what is learnt, but not of the test pairs: fidelity.",
        "| train | 2 | 3 |\n| validation | 0 | 0 |\n| test | 1 | 1 |",
        "The pairs were judged by human:anna, openai:gpt-4o.",
        "`heads.safetensors` holds more heads, in this order: log_std.",
        "`tie-aware` is not here. It needs a threshold",
    ):
        assert said in shown
    few = card(asked, split, Kept(3, 5), [{**headline, "prompts": 2}], "blip", heads=["aesthetic", "fidelity"] * 9)
    assert "Accuracy on 4 held-out pairs of 2 prompts: **0.750** (95 % interval 0.500 to 1.000, bootstrap" in few
    assert max(map(len, few.splitlines())) <= 120
    untested = card(asked, split, Kept(3, 5), [], "blip")
    assert "heads.safetensors" not in untested
    assert "## Accuracy" not in untested


def test_tied_test_pairs_reach_the_card_and_the_reports(forked: Run, tmp_path: Path) -> None:
    """Each part has a pair, and one that is tied as a whole and on one of its two aspects."""
    judged = {**pair("a red circle"), "aspects": {"fidelity": 0.5, "aesthetic": -0.5}}
    tied = {**judged, "margin": 0.0, "aspects": {"fidelity": 0.5, "aesthetic": 0.0}, "rejected_file_name": "c.png"}
    pairs = [
        {**one, "prompt": prompt, "prompt_id": prompt, "split": split}
        for prompt, split in (("a red circle", "train"), ("a blue star", "validation"), ("two green squares", "test"))
        for one in (judged, tied)
    ]
    Image.new("RGB", (32, 32), "green").save(tmp_path / "c.png")
    ended = train(forked, tmp_path, cast(list[Pair], pairs), "--aspect-weight", "1")
    assert ended.code == 0, ended.err
    assert "accuracy on 1 held-out pair of 1 prompt: " in ended.err
    assert "3 ties left out: 1 of split train, 1 of split validation and 1 of split test; --loss ties" in ended.err
    reports = [orjson.loads(line) for line in (tmp_path / "rm" / "accuracy.jsonl").read_bytes().splitlines()]
    assert [(one.get("aspect") or one["metric"], one.get("pairs", one["n"])) for one in reports] == [
        ("accuracy", 1),
        ("accuracy_pooled", 1),
        ("accuracy_per_prompt", 1),
        ("accuracy_ties_count", 2),
        ("accuracy_tie_aware", 2),
        ("aesthetic", 1),
        ("fidelity", 2),
    ]
    shown = (tmp_path / "rm" / "README.md").read_text()
    for one in reports[1:5]:
        name = one["metric"].removeprefix("accuracy_").replace("_", "-")
        row = f"| {name} | {one['value']:.3f} | {one['low']:.3f} to {one['high']:.3f} | {one['chance']:.3f} |"
        assert f"{row} {one['pairs']} |\n" in shown
    for one in reports[5:]:
        assert f"| {one['aspect']} | {one['value']:.3f} | {one['low']:.3f} to {one['high']:.3f} |" in shown
    assert f"differ by at most\n{reports[4]['threshold']:g}. This threshold" in shown


def test_metrics_that_cannot_be_read_leave_the_model_without_plots(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "metrics.jsonl").write_text("no JSON\n")
    assert plots(str(tmp_path), Kept(1, 1)) == {}
    assert "warning: no plots: " in capsys.readouterr().err


def test_without_validation_pairs_the_last_epoch_is_kept_and_it_is_told() -> None:
    assert which_epoch(Kept(4, 4)) == "no pairs are in split validation: kept the weights of the last epoch, 4"


def test_a_prompt_in_two_parts_under_two_ids_is_refused_by_name(forked: Run, tmp_path: Path) -> None:
    ended = train(forked, tmp_path, [pair("A red circle.", split="train"), pair("a red circle", split="test")])
    assert ended.code == 2
    assert (
        "pairs.jsonl: the prompt 'a red circle' is in split 'test' and, under another prompt_id, in 'train'"
        in ended.err
    )
    assert not (tmp_path / "rm").exists()


def test_nearly_equal_prompts_and_the_epoch_that_is_kept_are_told_and_in_the_card(forked: Run, tmp_path: Path) -> None:
    long = "a very small red fox that sits in the deep white snow under a pale sun"
    others = [pair(f"{long} now", split="test"), pair("two dogs", split="test"), pair("a cat", split="validation")]
    ended = train(forked, tmp_path, [pair(long, split="train"), *others], "--epochs", "3", "--learning-rate", "0.01")
    assert ended.code == 0, ended.err
    assert f"warning: nearly equal to a prompt of another part: 1 prompt, such as '{long[:56]}" in ended.err
    card = (tmp_path / "rm" / "README.md").read_text()
    assert "Nearly equal to a prompt of another part: 1 test prompt." in card
    lines = (tmp_path / "rm" / "metrics.jsonl").read_bytes().splitlines()
    losses = [one["validation_loss"] for one in map(orjson.loads, lines) if "validation_loss" in one]
    said = f"ept the weights of epoch {losses.index(min(losses)) + 1} of 3, whose validation loss is the lowest: "
    assert f"train-rm: k{said}{min(losses):.4f} (accuracy " in ended.err
    assert f"K{said}{min(losses):.4f}" in card
    for name in ("loss", "accuracy"):
        drawn = ElementTree.parse(tmp_path / "rm" / f"{name}.svg").getroot()
        assert len(drawn.findall(".//{*}circle")) == 6, "three steps and three validations"
        assert {"kept"} < {text.text for text in drawn.iter("{http://www.w3.org/2000/svg}text")}


@pytest.mark.parametrize(
    ("pairs", "said"), [([], "f: there are no pairs to train on$"), ([pair("p", split="test")], "in split train$")]
)
def test_nothing_to_train_on_is_told(pairs: list[Pair], said: str) -> None:
    with pytest.raises(UserError, match=said):
        divided(pairs, "f")


def test_a_picture_is_one_however_many_pairs_it_stands_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, colour in {"a.png": "red", "b.png": "blue", "c.png": "green"}.items():
        Image.new("RGB", (32, 32), colour).save(tmp_path / name)
    store = Store(open_model(str(PACKAGED), option=""), Pictures([str(tmp_path)]))
    pairs = [pair("p"), pair("p", "c.png", "a.png"), pair("q", "b.png", "c.png")]
    first, second = grouped(pairs, store)
    assert first == PromptPairs("p", [0, 1, 2], [Comparison(0, 1, 0.5), Comparison(2, 0, 0.5)])
    assert second == PromptPairs("q", [1, 2], [Comparison(0, 1, 0.5)])
    pixels = store.load([1, 0, 1])
    assert torch.equal(pixels[0], pixels[2])
    assert not torch.equal(pixels[0], pixels[1])
    (tmp_path / "a.png").unlink()
    assert torch.equal(store.load([0])[0], pixels[1]), "it is remembered"


def test_features_beyond_float16_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    model = open_model(str(PACKAGED), option="")
    model.requires_grad_(False)
    store = Store(model, Pictures([str(tmp_path)]))
    store.number(str(tmp_path / "a.png"))
    store.freeze(tmp_path, None)
    monkeypatch.setattr(model, "after_frozen_layers", lambda pixels: torch.full((1, *model.hidden_shape), 70000.0))
    with pytest.raises(UserError, match="too large for float16; train with --freeze 0"):
        store.load([0])


def small_siglip(folder: Path) -> None:
    """A small SigLIP with random weights. It reads 16 tokens. A token is a letter."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2}
    words = {"vocab_size": 40, "max_position_embeddings": 16, "projection_size": 32}
    ends = {"bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0}
    pictures = {"image_size": 32, "patch_size": 8}
    model = SiglipModel(SiglipConfig(text_config={**sizes, **words, **ends}, vision_config={**sizes, **pictures}))
    model.save_pretrained(folder)
    vocabulary = {"<pad>": 0, "</s>": 1, "<unk>": 2} | {chr(97 + number): 3 + number for number in range(26)}
    backend = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = Split("", "isolated")
    backend.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="</s>", model_max_length=16
    ).save_pretrained(folder)
    SiglipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)


def test_a_siglip_is_trained_and_scores_as_transformers_alone(tmp_path: Path, forked: Run) -> None:
    small_siglip(tmp_path / "siglip")
    for number in range(6):
        Image.new("RGB", (20 + number, 30), (40 * number, 99, 9)).save(tmp_path / f"{number}.png")
    pairs = [pair(f"prompt {n}", f"{n}.png", f"{(n + 1) % 6}.png", split="train") for n in range(6)]
    write_lines(tmp_path / "pairs.jsonl", cast(Any, pairs))
    done = forked("train-rm", "pairs.jsonl", "--backbone", "siglip", "--out", "rm", "--freeze", "0.4", "--epochs", "1")
    assert done.code == 0, done.err
    model = SiglipModel.from_pretrained(tmp_path / "rm").eval()
    before = SiglipModel.from_pretrained(tmp_path / "siglip")
    moved = {name for name, one in model.named_parameters() if not torch.equal(one, before.get_parameter(name))}
    assert "vision_model.head.probe" in moved
    assert not any("layers.0." in name or "embeddings" in name for name in moved)
    reward = vp.load(str(tmp_path / "rm"), device="cpu")
    pictures = [Image.open(tmp_path / f"{n}.png").convert("RGB") for n in range(3)]
    prompts = ["a", "red circle", "x" * 40]
    pixels = SiglipImageProcessorPil.from_pretrained(tmp_path / "rm")(pictures, return_tensors="pt")
    text = reward.model.tokenizer(prompts, padding="max_length", truncation=True, return_tensors="pt").input_ids
    with torch.no_grad():
        logits = model(input_ids=text, **pixels).logits_per_image.diagonal()
    mean, std = vp.scale(str(tmp_path / "rm"))
    torch.testing.assert_close(reward(pictures, prompts), (logits - mean) / std, atol=1e-4, rtol=1e-4)
    alone = torch.cat([reward([one], [prompt]) for one, prompt in zip(pictures, prompts, strict=True)])
    torch.testing.assert_close(alone, reward(pictures, prompts), atol=1e-4, rtol=1e-4)
    refused = forked("train-rm", "pairs.jsonl", "--backbone", "siglip", "--out", "more", "--image-size", "64")
    assert refused.err.endswith("--image-size 64: a SigLIP keeps its own size; leave the option out\n")


def test_training_starts_from_imagereward_and_keeps_its_tokens_and_its_numbers(tmp_path: Path, forked: Run) -> None:
    torch.save(peers.imagereward(), tmp_path / "ImageReward.pt")
    (tmp_path / "vocab.txt").write_text("\n".join(peers.VOCABULARY))
    for number in range(4):
        Image.linear_gradient("L").resize((224, 224)).rotate(90 * number).convert("RGB").save(
            tmp_path / f"{number}.png"
        )
    write_lines(tmp_path / "pairs.jsonl", cast(Any, [pair("red circle", "0.png", "1.png", split="train")]))
    spec = f"imagereward:{tmp_path / 'ImageReward.pt'}"
    still = ("--learning-rate", "0", "--epochs", "1")
    done = forked("train-rm", "pairs.jsonl", "--backbone", spec, "--out", "rm", *still)
    assert done.code == 0, done.err
    trained, published = vp.load(str(tmp_path / "rm"), device="cpu"), plugins.load("reward", spec, device="cpu")
    pictures = [Image.open(tmp_path / f"{number}.png") for number in range(4)]  # squares, which both crop alike
    prompts = ["a red circle", "two blue squares", "green", " ".join(["red blue"] * 30)]
    mean, std = vp.scale(str(tmp_path / "rm"))
    raw = trained(pictures, prompts) * std + mean
    torch.testing.assert_close((raw - MEAN) / STD, published(pictures, prompts), atol=1e-5, rtol=1e-5)
    assert trained.is_truncated(prompts[3])
    refused = forked("train-rm", "pairs.jsonl", "--backbone", "imagereward:gone.pt", "--out", "more")
    assert "--backbone imagereward:gone.pt: there is no such file; name the checkpoint" in refused.err


@pytest.mark.parametrize("kind", USE)
@pytest.mark.parametrize("times", [1, 50], ids=["short", "cut-off"])
def test_the_code_of_the_card_gives_the_reward(tmp_path: Path, kind: str, times: int) -> None:
    small_siglip(tmp_path) if kind == "siglip" else open_backbone(f"new:{kind}", seed=0).save(tmp_path)
    shown = card({"backbone": f"new:{kind}"}, {"train": [pair("p")]}, Kept(1, 1), [], kind)
    picture, prompt = Image.linear_gradient("L").resize((40, 30)).convert("RGB"), "a red circle " * times
    found: dict[str, Any] = {"FOLDER": tmp_path, "picture": picture, "prompt": prompt}
    exec(code_of_card(shown), found)
    reward = vp.load(str(tmp_path), device="cpu")
    assert found["reward"].item() == pytest.approx(float(reward([picture], [prompt])), abs=1e-4)
    assert found["reward"].item() != pytest.approx(float(reward([picture], ["a blue star"])), abs=1e-3)


@pytest.mark.parametrize("kind", USE)
def test_the_code_of_the_card_gives_the_outputs_of_the_heads(tmp_path: Path, kind: str) -> None:
    """Compared with the reward: a new head of an aspect is a copy of the overall one."""
    small_siglip(tmp_path) if kind == "siglip" else open_backbone(f"new:{kind}", seed=0).save(tmp_path)
    heads = Heads(open_model(str(tmp_path), option=""), head="matching", aspects=["fidelity"], uncertain=True)
    heads.save(tmp_path)
    shown = card({"backbone": ""}, {"train": [pair("p")]}, Kept(1, 1), [], kind, heads=heads.names)
    picture = Image.linear_gradient("L").resize((40, 30)).convert("RGB")
    found: dict[str, Any] = {"FOLDER": tmp_path, "picture": picture, "prompt": "a red circle"}
    exec(code_of_card(shown), found)
    exec(code_of_card(shown, "    from safetensors"), found)
    assert found["outputs"].shape == (1, 2)
    assert found["outputs"][0].tolist() == pytest.approx([found["reward"].item(), 0.0], abs=1e-4)


def test_a_picture_that_is_not_there_is_named(tmp_path: Path) -> None:
    store = Store(open_model(str(PACKAGED), option=""), Pictures([str(tmp_path)]))
    store.number("gone.png")
    store.number(f"{tmp_path}/text.png")
    (tmp_path / "text.png").write_text("text")
    for number, name, why in (
        (0, "gone.png", "there is no such picture"),
        (1, f"{tmp_path}/text.png", "not a picture"),
    ):
        with pytest.raises(UserError) as raised:
            store.load([number])
        way_out = "restore this picture, or leave out the records that name it"
        assert str(raised.value) == f"{name}: {why}; {way_out}"
