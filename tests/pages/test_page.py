"""The HTML page shows what was measured, needs no external resources, and cannot be broken by a record."""

import base64
import hashlib
import io
import json
import math
import os
import threading
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as PIL

from vpctl.errors import UserError
from vpctl.images.pictures import Pictures
from vpctl.judging.remarks import Outcomes, Remark
from vpctl.pages import axes, curves
from vpctl.pages import html as pages
from vpctl.pages import page as web_page
from vpctl.pages.gallery import Row
from vpctl.records import Image, Report, digest
from vpctl.shapes.grammar import describe, sample
from vpctl.shapes.render import render
from vpctl.streams.places import short_labels

BASE, PPO, DPO = (f"runs/demo/{name}/scored.jsonl" for name in ("base", "ppo", "dpo"))
HOSTILE = "<script>alert(1)</script>\"'><img src=http://evil.example/x onerror=alert(2)>&amp;{{ 7 * 7 }}"
VOID = ("meta", "img", "wbr")


class Page(HTMLParser):
    """A parsed page: its tags with attributes, its text, its pictures. Checks that every opened tag is closed."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.exports: list[str] = []
        self._open: list[str] = []
        self.feed(self.source)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open[-1:] == ["template"]:
            self.exports.append(data)
        elif self._open[-1:] not in (["style"], ["script"]):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).replace("\u00a0", " ").split())

    def all(self, tag: str, **wanted: str) -> list[dict[str, str]]:
        return [
            attributes
            for name, attributes in self.tags
            if name == tag and all(value in attributes.get(key, "").split() for key, value in wanted.items())
        ]

    def pictures(self) -> list[tuple[str, PIL.Image]]:
        found = []
        for attributes in self.all("img"):
            kind, data = attributes["src"].split(";base64,")
            picture = PIL.open(io.BytesIO(base64.b64decode(data, validate=True)))
            assert kind == f"data:image/{str(picture.format).lower()}"
            found.append((attributes["alt"], picture.convert("RGB")))
        return found


def win_rate(tuned: str = DPO, *, reward: str = "shapes", wins: int = 40, ties: int = 4, losses: int = 16) -> Report:
    n = wins + ties + losses
    value = (wins + ties / 2) / n
    fields = {"value": value, "low": value - 0.1, "high": value + 0.1, "n": n, "confidence": 0.95}
    counts = {"wins": wins, "ties": ties, "losses": losses}
    return cast(Report, {"name": tuned, "baseline": BASE, "metric": "win_rate", "reward": reward, **fields, **counts})


def accuracy(**changed: Any) -> Report:
    report = {"name": "clip", "metric": "accuracy", "value": 0.712, "low": 0.68, "high": 0.744, "n": 1200}
    return cast(Report, {**report, **changed})


def drawn_rows(folder: Path, number: int, sources: tuple[str, ...] = (BASE, PPO, DPO), side: int = 32) -> list[Row]:
    """Pictures of the shapes world, one row per prompt. The scores of prompt k are k, k + 1, k + 2 … tenths."""
    rows = []
    for index in range(number):
        row = []
        for place, source in enumerate(sources):
            scene = sample(Random(index))
            file = folder / Path(source).parent / f"{index}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            render(scene, Random(100 * index + place)).resize((side, side)).save(file)
            image = {
                "prompt": f"{describe(scene)}, number {index}",
                "prompt_id": digest(index),
                "image_id": digest([index, source]),
                "file_name": str(file),
                "model": "shapes",
                "seed": index,
                "scores": {"shapes": (index + place) / 10},
            }
            row.append((source, cast(Image, image)))
        rows.append(row)
    return rows


def run_folder(folder: Path, lines: list[dict[str, object]], previews: tuple[int, ...] = ()) -> str:
    (folder / "previews").mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    for step in previews:
        PIL.new("RGB", (64, 32), (step % 256, 0, 0)).save(folder / "previews" / f"{step:06d}.png")
    return str(folder)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "made" / "on the way" / "page.html"


def test_every_picture_of_the_chosen_prompts_is_in_the_page_pixel_for_pixel(tmp_path: Path, target: Path) -> None:
    rows = drawn_rows(tmp_path, 60)
    web_page.write(str(target), title="Compared", reports=[], rows=iter(rows), pictures=Pictures([str(tmp_path)]))
    page = Page(target)
    chosen = [rows[index * 60 // 48] for index in range(48)]
    wanted = [(label, image) for row in chosen for label, (_, image) in zip(("base", "ppo", "dpo"), row, strict=True)]
    found = page.pictures()
    assert len(found) == len(wanted) == 48 * 3
    for (text, picture), (label, image) in zip(found, wanted, strict=True):
        assert text == f"{label}: {image['prompt']}"
        with PIL.open(image["file_name"]) as original:
            assert picture.tobytes() == original.tobytes()
    assert {(one["width"], one["class"]) for one in page.all("img")} == {("96", "pixelated")}
    assert "48 of the 60 prompts, at even distances" in page.text
    assert len(page.source) < 1_000_000


def test_few_prompts_are_all_shown_in_their_order(tmp_path: Path, target: Path) -> None:
    rows = drawn_rows(tmp_path, 5, (BASE, DPO))
    web_page.write(str(target), title="Compared", reports=[], rows=rows, pictures=Pictures([str(tmp_path)]))
    page = Page(target)
    assert [text for text, _ in page.pictures()][::2] == [f"base: {row[0][1]['prompt']}" for row in rows]
    assert "All 5 prompts" in page.text


def test_large_pictures_are_reduced(tmp_path: Path, target: Path) -> None:
    rows = drawn_rows(tmp_path, 1, (BASE, DPO), side=640)
    web_page.write(str(target), title="Compared", reports=[], rows=rows, pictures=Pictures([str(tmp_path)]))
    page = Page(target)
    assert [picture.size for _, picture in page.pictures()] == [(256, 256)] * 2
    assert all(one["src"].startswith("data:image/jpeg") and int(one["width"]) <= 256 for one in page.all("img"))


def test_largest_gains_and_losses_stand_side_by_side(tmp_path: Path, target: Path) -> None:
    rows = drawn_rows(tmp_path, 30, (BASE, DPO))
    changes = [(-1) ** index * index / 10 for index in range(30)]
    for row, change in zip(rows, changes, strict=True):
        row[0][1]["scores"], row[1][1]["scores"] = {"shapes": 5.0}, {"shapes": 5.0 + change}
    pictures = Pictures([str(tmp_path)])
    web_page.write(str(target), title="Compared", reports=[win_rate()], rows=rows, pictures=pictures)
    page = Page(target)
    shown = [int(text.split("number ")[1]) for text, _ in page.pictures()[: 16 * 2 : 2]]
    assert shown == [29, 27, 25, 23, 21, 19, 17, 15, 28, 26, 24, 22, 20, 18, 16, 14], "the worst first"
    assert "Over all 30 prompts, the worst first." in page.text
    assert "From base to dpo, by shapes Largest losses" in page.text
    assert "+2.80" in page.text
    assert "−2.90" in page.text


def test_where_nothing_is_lost_the_page_says_so(tmp_path: Path, target: Path) -> None:
    rows = drawn_rows(tmp_path, 3, (BASE, DPO))
    web_page.write(str(target), title="Compared", reports=[win_rate()], rows=rows, pictures=Pictures([str(tmp_path)]))
    assert "None: no picture of dpo scores lower than base’s" in Page(target).text


def test_the_best_score_is_marked_and_equal_scores_are_not(tmp_path: Path, target: Path) -> None:
    rows = drawn_rows(tmp_path, 2, (BASE, DPO))
    for _, image in rows[1]:
        image["scores"] = {"shapes": 3.25}
    web_page.write(str(target), title="Compared", reports=[], rows=rows, pictures=Pictures([str(tmp_path)]))
    page = Page(target)
    assert len(page.all("span", **{"class": "score"})) == 4
    assert len(page.all("span", **{"class": "best"})) == 1
    assert "0.10●" in page.text
    assert page.text.count("3.25") == 2


def test_a_picture_without_a_score_is_shown_without_one(tmp_path: Path, target: Path) -> None:
    rows = drawn_rows(tmp_path, 1)
    del rows[0][2][1]["scores"]
    web_page.write(str(target), title="Compared", reports=[win_rate()], rows=rows, pictures=Pictures([str(tmp_path)]))
    page = Page(target)
    assert "base ppo dpo 0.000 0.100● –" in page.text
    assert "Largest changes" not in page.text


def test_a_picture_that_cannot_be_opened_leaves_a_cell_that_says_why(tmp_path: Path, target: Path) -> None:
    rows = drawn_rows(tmp_path / "in", 2)
    Path(rows[0][0][1]["file_name"]).unlink()
    Path(rows[0][1][1]["file_name"]).write_text("no picture")
    rows[0][2][1]["file_name"] = "/etc/hostname"
    web_page.write(str(target), title="Compared", reports=[], rows=rows, pictures=Pictures([str(tmp_path / "in")]))
    page = Page(target)
    assert len(page.all("div", **{"class": "missing"})) == 3
    assert len(page.all("img")) == 3
    for reason in ("there is no such picture", "not a picture", "is outside the allowed folders"):
        assert reason in page.text


def test_hostile_text_stays_text(tmp_path: Path, target: Path) -> None:
    rows = drawn_rows(tmp_path, 2, (BASE, DPO))
    for _, image in rows[0]:
        image["prompt"], image["scores"] = HOSTILE, {HOSTILE: 1.0, "shapes": 2.0}
    run = run_folder(tmp_path / "run", [{"step": 1, HOSTILE: 1.0}])
    reports = [win_rate(), win_rate(reward=HOSTILE), accuracy(name=HOSTILE), accuracy(metric=HOSTILE, name="\x00‮")]
    pictures = Pictures([str(tmp_path)])
    web_page.write(str(target), title=HOSTILE, reports=reports, rows=rows, runs=[run], pictures=pictures)
    page = Page(target)
    assert page.text.count("<script>alert(1)</script>") >= 6
    assert "{{ 7 * 7 }}" in page.text
    allowed = {"html", "head", "meta", "title", "style", "body", "main", "footer", "section", "figure", "figcaption"}
    allowed |= {
        "h1",
        "h2",
        "h3",
        "h4",
        "p",
        "div",
        "span",
        "b",
        "i",
        "img",
        "wbr",
        "header",
        "nav",
        "ol",
        "ul",
        "li",
        "a",
    }
    allowed |= {"details", "summary", "dl", "dt", "dd", "button", "template", "script"}
    allowed |= {"table", "thead", "tbody", "tr", "th", "td", "svg", "rect", "line", "circle", "polyline", "text"}
    assert {tag for tag, _ in page.tags} <= allowed
    assert len(page.all("script")) == 1
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]


def test_nothing_outside_is_asked_for(tmp_path: Path, target: Path) -> None:
    rows = drawn_rows(tmp_path, 3)
    run = run_folder(tmp_path / "run", [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.4}], (0, 2))
    pictures = Pictures([str(tmp_path)])
    reports = [win_rate(), accuracy()]
    web_page.write(str(target), title="Compared", reports=reports, rows=rows, runs=[run], pictures=pictures)
    page = Page(target)
    for sign in ("http://", "https://", "//www", "url(", "@import", "<script ", "<link", "<iframe", "srcset"):
        assert sign not in page.source
    for _, attributes in page.tags:
        assert attributes.get("src", "data:").startswith("data:")
        assert attributes.get("href", "#").startswith("#")
        assert not attributes.keys() & {"xlink:href", "data", "action", "poster"}
    script = page.source.partition("<script>")[2].partition("</script>")[0]
    known = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = page.all("meta", **{"http-equiv": "Content-Security-Policy"})[0]["content"]
    assert policy == f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{known}'"


def test_the_numbers_are_the_reports(target: Path) -> None:
    reports = [win_rate(wins=202, ties=1, losses=109), accuracy(), accuracy(name="vp", metric="margin", value=-3.25e-5)]
    reports[0]["low"], reports[0]["high"] = 0.607, 0.689
    web_page.write(str(target), title="Compared", reports=reports)
    page = Page(target)
    for shown in (
        "64.9 % 60.7 % to 68.9 %",
        "202 wins 1 tie 109 losses",
        "clip 71.2 % 68.0 to 74.4 1,200",
        "vp −3.25e−05 6.80e−01 to 7.44e−01",
    ):
        assert shown in page.text
    widths = [float(page.all("rect", **{"class": kind})[0]["width"].rstrip("%")) for kind in ("win", "tie", "loss")]
    assert widths == pytest.approx([100 * count / 312 for count in (202, 1, 109)], abs=0.01)
    line = page.all("line", **{"class": "mark"})[3]  # that of the bar follows that of the headline figure
    assert (line["x1"], line["x2"]) == ("60.7%", "68.9%")
    assert "Judged by shapes on 312 comparisons, dpo’s pictures beat base’s 64.9 % of the time" in page.text
    assert "(ties count one half; 95 % interval 60.7 % to 68.9 %)" in page.text


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0.501, 0.7, "the whole interval lies above one half: dpo’s are preferred."),
        (0.5, 0.7, "the interval includes one half: neither can be said to be better."),
        (0.3, 0.5, "the interval includes one half: neither can be said to be better."),
        (0.3, 0.499, "the whole interval lies below one half: base’s are preferred."),
    ],
)
def test_the_summary_says_on_which_side_of_one_half_the_interval_lies(
    low: float, high: float, said: str, target: Path
) -> None:
    report = win_rate()
    report["low"], report["high"] = low, high
    web_page.write(str(target), title="Compared", reports=[report])
    assert said in Page(target).text


def test_the_summary_counts_what_it_does_not_tell(target: Path) -> None:
    further = [win_rate(PPO, reward=reward) for reward in ("a", "b", "c")]
    for report, (low, high) in zip(further, ((0.4, 0.6), (0.6, 0.7), (0.1, 0.2)), strict=True):
        report["low"], report["high"] = low, high
    web_page.write(str(target), title="Compared", reports=[win_rate(), *further, accuracy()])
    page = Page(target)
    assert "The others’ intervals: 1 wholly above one half, 1 across it, 1 wholly below." in page.text
    places = [page.text.index(f"Judged by {reward} 0 %") for reward in ("shapes", "a", "b", "c")]
    assert places == sorted(places)


def test_the_summary_names_prompts_where_each_gave_one_comparison(tmp_path: Path, target: Path) -> None:
    rows = drawn_rows(tmp_path, 6, (BASE, DPO))
    reports = [win_rate(wins=4, ties=0, losses=2)]
    web_page.write(str(target), title="Compared", reports=reports, rows=rows, pictures=Pictures([str(tmp_path)]))
    assert "Judged by shapes on 6 prompts, dpo’s pictures beat base’s 66.7 % of the time (95 %" in Page(target).text


def test_accuracy_and_agreement_are_told_too(target: Path) -> None:
    web_page.write(str(target), title="Accuracy", reports=[accuracy()])
    assert "clip prefers the chosen picture in 71.2 % of 1,200 pairs (interval 68.0 % to 74.4 %)" in Page(target).text
    report = accuracy(metric="agreement", baseline="people", aspect="fidelity", low=0.4)
    web_page.write(str(target), title="Agreement", reports=[report])
    said = (
        "clip and people agree on fidelity in 71.2 % of 1,200 pairs (interval 40.0 % to 74.4 %); the interval includes"
    )
    assert said in Page(target).text


def test_a_win_rate_without_counts_is_a_row_of_a_table(target: Path) -> None:
    reports = [cast(Report, {key: value for key, value in win_rate().items() if key != "ties"})]
    web_page.write(str(target), title="Compared", reports=reports)
    page = Page(target)
    assert not page.all("rect")
    assert "Against base model shapes n dpo 70.0 %" in page.text


@pytest.mark.parametrize(
    ("paths", "labels"),
    [
        ((BASE, DPO), ["base", "dpo"]),
        (("/a/base/scored.jsonl", "/a/dpo/v2/scored.jsonl"), ["base", "dpo/v2"]),
        (("base/scored.jsonl", "/a/dpo/scored.jsonl"), ["base", "/a/dpo"]),
        (("runs/base.jsonl", "runs/dpo.jsonl"), ["runs/base.jsonl", "runs/dpo.jsonl"]),
        (("runs/scored.jsonl", "runs/dpo/scored.jsonl"), ["runs/scored.jsonl", "runs/dpo/scored.jsonl"]),
        (("a/x.jsonl", "a/y.jsonl", "b/x.jsonl"), ["a/x.jsonl", "a/y.jsonl", "b/x.jsonl"]),
        (("-", "dpo/scored.jsonl"), ["-", "dpo/scored.jsonl"]),
        ((BASE,), [BASE]),
        ((), []),
    ],
)
def test_labels_are_what_tells_paths_apart(paths: tuple[str, ...], labels: list[str]) -> None:
    assert list(short_labels({path: os.path.dirname(path) for path in paths}).values()) == labels


@given(st.lists(st.floats(-1e9, 1e9), max_size=3000))
def test_thinning_keeps_both_ends_the_extremes_and_the_order(values: list[float]) -> None:
    points = [(float(step), value) for step, value in enumerate(values)]
    kept = curves.downsampled(points)
    assert len(kept) <= 400
    steps = [step for step, _ in kept]
    assert steps == sorted(set(steps))
    assert set(kept) <= set(points)
    if points:
        assert (kept[0], kept[-1]) == (points[0], points[-1])
        for extreme in (min, max):
            assert extreme(value for _, value in kept) == extreme(values)


def test_a_hundred_thousand_steps_with_one_spike() -> None:
    points = [(float(step), 0.0) for step in range(100_000)]
    points[70_001] = (70_001.0, 8.0)
    assert (70_001.0, 8.0) in curves.downsampled(points)
    curve = curves.curve("loss", points)
    assert len(curve.points) <= 400
    assert len(curve.mean) <= 400


def test_the_moving_mean_by_hand() -> None:
    points = [(float(step), float(step**2)) for step in range(60)]
    means = curves.moving_mean(points)
    assert [step for step, _ in means] == [step for step, _ in points]
    assert means[0][1] == pytest.approx((0 + 1) / 2)
    assert means[30][1] == pytest.approx((29**2 + 30**2 + 31**2) / 3)
    assert means[59][1] == pytest.approx((58**2 + 59**2) / 2)
    assert curves.moving_mean(points[:10]) == points[:10]


@given(st.floats(-1e99, 1e99), st.floats(-1e99, 1e99))
def test_ticks_are_few_and_can_be_told_apart(one: float, other: float) -> None:
    curve = curves.curve("any", [(1.0, one), (2.0, other)])
    for ticks in (curve.steps, curve.values):
        assert 1 <= len({text for _, text in ticks}) == len(ticks) <= 7
        assert all(math.isfinite(place) and len(text) <= 12 for place, text in ticks)


def test_ticks_are_round() -> None:
    texts = [text for _, text in axes.Axis(0.43, 0.91).ticks()]
    assert texts == ["0.5", "0.6", "0.7", "0.8", "0.9"]
    assert [text for _, text in axes.Axis(1, 300).ticks(whole=True)] == ["100", "200", "300"]
    assert [text for _, text in axes.Axis(-1.2e-5, 1.1e-5).ticks()] == ["−1e−5", "−5e−6", "0", "5e−6", "1e−5"]
    assert [text for _, text in axes.Axis(1, 3).ticks(whole=True)] == ["1", "2", "3"]
    assert [text for _, text in axes.Axis(1, 1e5).ticks(whole=True)][-2:] == ["80,000", "100,000"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.69314, "0.6931"),
        (-3.25e-5, "−3.25e−5"),
        (61_423.4, "61,423"),
        (2.5e7, "2.5e7"),
        (0.0, "0"),
        (1e-300, "1e−300"),
    ],
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert axes.number(value) == text


def test_numbers_that_round_to_zero_have_no_sign() -> None:
    assert [axes.fixed(value, 2) for value in (-0.001, -1.005, 1234.5)] == ["0.00", "−1.00", "1,234.50"]
    assert axes.fixed(0.5, 1, signed=True) == "+0.5"


@pytest.mark.parametrize(
    "values",
    [
        [math.nan, math.inf, -math.inf],
        [1.0, math.nan, 3.0, None, 10**400],
        [0.0, 0.0],
        [5e-324, 0.0],
        [1e308, -1e308, 1e99, -1e99],
        [1.0, 1.0 + 1e-15],
        [7],
    ],
)
def test_no_value_breaks_a_curve(values: list[float | None], tmp_path: Path, target: Path) -> None:
    lines: list[dict[str, object]] = [{"step": step, "loss": value} for step, value in enumerate(values, 1)]
    web_page.write(str(target), title="A run", reports=[], runs=[run_folder(tmp_path / "run", lines)])
    page = Page(target)
    for line in page.all("polyline"):
        assert all(math.isfinite(float(one)) for point in line["points"].split() for one in point.split(","))
    left_out = sum(value is None or not abs(value) < 1e100 for value in values)
    assert (f"{left_out} of the values cannot be drawn" in page.text) == bool(left_out)


def test_curves_of_metrics_logged_at_some_steps_only(tmp_path: Path, target: Path) -> None:
    lines: list[dict[str, object]] = [{"step": step, "loss": 1 / step} for step in range(1, 101)]
    lines += [{"step": step, "validation_accuracy": 0.5 + step / 400} for step in (50, 100)]
    runs = [run_folder(tmp_path / name, lines) for name in ("dpo", "ppo")]
    web_page.write(str(target), title="Runs", reports=[], runs=runs)
    page = Page(target)
    assert "dpo loss last 0.01" in page.text
    assert "validation_accuracy last 0.75" in page.text
    assert "ppo loss last 0.01" in page.text
    assert len(page.all("figure", **{"class": "chart"})) == 4


def test_the_first_and_the_last_preview_are_shown(tmp_path: Path, target: Path) -> None:
    run = run_folder(tmp_path / "run", [{"step": 1, "loss": 1.0}], (0, 40, 200))
    (tmp_path / "run" / "previews" / "notes.png").write_text("no step")
    web_page.write(str(target), title="A run", reports=[], runs=[run])
    page = Page(target)
    assert [picture.getpixel((0, 0)) for _, picture in page.pictures()] == [(0, 0, 0), (200, 0, 0)]
    assert "step 0 step 200" in page.text


def test_a_run_that_is_writing_its_last_line(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run", [{"step": 1, "loss": 0.5}])
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "lo')
    assert curves.read_metrics(run) == {"loss": [(1.0, 0.5)]}


def test_a_run_that_has_logged_nothing(tmp_path: Path, target: Path) -> None:
    web_page.write(str(target), title="A run", reports=[], runs=[run_folder(tmp_path / "run", [])])
    assert "Nothing has been logged yet" in Page(target).text


def test_a_run_without_metrics(tmp_path: Path, target: Path) -> None:
    with pytest.raises(UserError, match=r"--run .*: there is no metrics.jsonl in it; name a folder"):
        web_page.write(str(target), title="A run", reports=[], runs=[str(tmp_path)])
    assert not target.exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("loss 0.5", r"metrics.jsonl:2: not JSON"),
        ("[1, 2]", r"metrics.jsonl:2: a line of metrics must be an object with a number 'step'"),
        ('{"loss": 0.5}', r"metrics.jsonl:2: a line of metrics must be an object with a number 'step'"),
        ('{"step": NaN}', r"metrics.jsonl:2: a line of metrics must be an object with a number 'step'"),
        ('{"step": 2, "loss": "low"}', r"metrics.jsonl:2: 'loss' is not a number"),
    ],
)
def test_a_line_that_is_no_metrics(line: str, message: str, tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run", [{"step": 1, "loss": 0.5}])
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(UserError, match=message):
        curves.read_metrics(run)


def test_a_page_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"--html .*: is a folder; name a file in it"):
        web_page.write(str(tmp_path), title="Nowhere", reports=[])
    for path in (tmp_path / "file" / "page.html", tmp_path / f"{'x' * 300}.html"):
        with pytest.raises(UserError, match=r"--html .*; name another file"):
            web_page.write(str(path), title="Nowhere", reports=[])
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_a_page_is_written_whole_or_the_old_one_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "page.html"
    target.write_text("the old page")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(UserError, match="no space left on device"):
        web_page.write(str(target), title="New", reports=[])
    assert target.read_text() == "the old page"
    assert [file.name for file in tmp_path.iterdir()] == ["page.html"]


def test_links_and_pipes_stay_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "link.html").symlink_to(tmp_path / "page.html")
    web_page.write(str(tmp_path / "link.html"), title="Linked", reports=[])
    assert (tmp_path / "link.html").is_symlink()
    assert "Linked" in (tmp_path / "page.html").read_text()
    os.mkfifo(tmp_path / "pipe")
    pages.check(str(tmp_path / "pipe"))
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_text()))
    reader.start()
    web_page.write(str(tmp_path / "pipe"), title="Piped", reports=[])
    reader.join()
    assert (tmp_path / "pipe").is_fifo()
    assert "Piped" in read[0]


def test_it_says_where_the_page_is(target: Path, capsys: pytest.CaptureFixture[str]) -> None:
    web_page.write(str(target), title="Compared", reports=[])
    assert capsys.readouterr().err.endswith(f"the page is {target}\n")
    assert "vpctl 0." in Page(target).text


def test_no_mark_between_scores_that_print_the_same(tmp_path: Path, target: Path) -> None:
    rows = drawn_rows(tmp_path, 2)
    for row, values in zip(rows, ((1.001, 1.002, 0.5), (3.0, 3.0, 0.5)), strict=True):
        for (_, image), value in zip(row, values, strict=True):
            image["scores"] = {"shapes": value}
    web_page.write(str(target), title="Compared", reports=[], rows=rows, pictures=Pictures([str(tmp_path)]))
    page = Page(target)
    assert "1.00 1.00 0.50" in page.text
    assert "3.00● 3.00● 0.50" in page.text, "equal scores are both the best"


def test_what_the_judges_said_stands_with_the_pictures(tmp_path: Path, target: Path) -> None:
    rows = drawn_rows(tmp_path, 1, (BASE, DPO))

    def said(image: Image) -> list[Remark]:
        if image["file_name"] == rows[0][0][1]["file_name"]:
            return [
                Remark("human:anna", "fidelity", 4.25, None, [HOSTILE]),
                Remark("vlm", "aesthetic", 0.5, Outcomes(1, 0, 1), []),
            ]
        return [Remark("vlm", "aesthetic", None, None, [])]

    pictures = Pictures([str(tmp_path)])
    web_page.write(str(target), title="Compared", reports=[], rows=rows, remarks=said, pictures=pictures)
    page = Page(target)
    assert f"{digest(0)} " in page.text, "the id of the prompt"
    assert f"base fidelity 4.25 human:anna {HOSTILE} aesthetic won 1, lost 1 vlm dpo aesthetic refused vlm" in page.text
    assert "<script>alert" not in page.source


def test_scores_of_all_pictures_are_a_histogram(target: Path) -> None:
    scores = {"shapes": {BASE: [1.0, 2.0, 3.0], DPO: [3.0, 4.0]}}
    web_page.write(str(target), title="Compared", reports=[], scores=scores)
    assert (
        "dpo: mean 3.50; base: mean 2.00; 100.0 % of dpo’s pictures score above the median of base."
        in Page(target).text
    )


def test_a_run_shows_its_seed_and_settings_and_no_folder_of_this_machine(tmp_path: Path, target: Path) -> None:
    run = run_folder(tmp_path / "run", [{"step": 1, "loss": 0.5, "watched:x": 1.0, "unheard_of": 2.0}])
    options = {"seed": 7, "pairs": "/home/anna/pairs.jsonl", "learning_rate": 1e-5, "reward": {"vp": 1.0}, "lora": ""}
    told = {
        "options": options,
        "argv": ["/home/anna/bin/vpctl", "tune-dpo", "my pairs.jsonl"],
        "versions": {"torch": "2"},
    }
    (tmp_path / "run" / "run.json").write_text(json.dumps(told))
    web_page.write(str(target), title="A run", reports=[], runs=[run])
    page = Page(target)
    assert "reward vp × 1 seed 7 learning rate 1e−5 All settings vpctl tune-dpo 'my pairs.jsonl' seed 7" in page.text
    assert "pairs pairs.jsonl" in page.text
    assert "/home/anna" not in page.source
    assert "Lower is better, but only of runs with the same loss" in page.text
    assert "not trained for. Higher is better" in page.text


@pytest.mark.parametrize("text", ["{", "[]", '{"options": 3, "argv": [], "versions": {}}', '{"argv": []}'])
def test_settings_that_are_none(text: str, tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run", [{"step": 1, "loss": 0.5}])
    (tmp_path / "run" / "run.json").write_text(text)
    with pytest.raises(UserError, match=r"run.json: is not what a train or tune command writes"):
        pages.check(str(tmp_path / "page.html"), [run])


def test_headings_are_in_order_and_the_contents_lead_to_them(tmp_path: Path, target: Path) -> None:
    rows = drawn_rows(tmp_path, 3)
    run = run_folder(tmp_path / "run", [{"step": 1, "loss": 0.5}], (0,))
    reports = [win_rate(), accuracy(), accuracy(metric="elo", value=1200, low=1100, high=1300)]
    pictures = Pictures([str(tmp_path)])
    web_page.write(str(target), title="Compared", reports=reports, rows=rows, runs=[run], pictures=pictures)
    page = Page(target)
    levels = [int(tag[1]) for tag, _ in page.tags if tag in ("h1", "h2", "h3", "h4")]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    links = [one["href"] for one in page.all("a")]
    assert links == [f"#{one['id']}" for one in page.all("h2")]
    assert len(set(links)) == len(links) == 7
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(set(ids)) == len(ids)
    assert {attributes["aria-labelledby"] for _, attributes in page.tags if "aria-labelledby" in attributes} <= {*ids}
    assert all(one["alt"] and one["decoding"] == "async" for one in page.all("img"))


def test_models_have_short_names_also_beside_a_reference_elsewhere() -> None:
    images = [accuracy(metric="frechet_distance", name=name, baseline="photos/metadata.jsonl") for name in (BASE, DPO)]
    labels = web_page.labels_of([dict(one) for one in images], [BASE, DPO])
    assert labels == {BASE: "base", DPO: "dpo", "photos/metadata.jsonl": "photos/metadata.jsonl"}
    two = ("runs/a/x.jsonl", "runs/a/y.jsonl")
    assert web_page.labels_of([], two) == dict(zip(two, ("x.jsonl", "y.jsonl"), strict=True))
