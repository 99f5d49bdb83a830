"""The curves and previews of a training run, laid out for drawing."""

import json
import math
import shlex
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

from ..errors import RecordFailed, UserError, os_reason
from ..images.pictures import Pictures
from .axes import Axis, Point, axis_ends, drawable, number
from .gallery import PictureView, data_uri
from .meanings import of_curve

MAX_POINTS = 400
"""Maximum number of points of a curve. More would not be visible at the width of the plot."""
SMOOTHED_OVER = 0.05
"""Window of the moving mean, as a share of a curve's points."""
PREVIEW_SIDE = 1280
MAIN_SETTINGS = (
    *("algorithm", "model", "backbone", "reward", "loss", "seed", "learning rate", "batch", "accumulate"),
    *("max steps", "epochs", "beta", "rank", "processes"),
)
"""The options of a run that are shown first."""


class Curve(NamedTuple):
    """A metric of a run: its points and their moving mean in units of `FRAME`.

    `left_out` counts the values that cannot be drawn.
    """

    name: str
    says: str
    last: str
    points: list[Point]
    mean: list[Point]
    steps: list[tuple[float, str]]
    values: list[tuple[float, str]]
    left_out: int


class RunSettings(NamedTuple):
    """How a run was made: the command line, its most important options, all options, and the versions of libraries."""

    command: str
    main: list[tuple[str, str]]
    options: list[tuple[str, str]]
    versions: str


class Training(NamedTuple):
    """The curves of a run, its first and last preview with their steps, and how it was made, if it says so."""

    label: str
    curves: list[Curve]
    previews: list[tuple[int, PictureView]]
    settings: RunSettings | None


class Frame(NamedTuple):
    """The size of a plot, and the box inside it in which the curve is drawn."""

    width: int = 320
    height: int = 150
    left: int = 50
    right: int = 300
    top: int = 6
    bottom: int = 128


FRAME = Frame()


def training(run: str, label: str) -> Training:
    """The curves and previews in the folder of a run."""
    curves = [curve(name, points) for name, points in read_metrics(run).items()]
    steps = {int(file.stem): file for file in Path(run).glob("previews/*.png") if file.stem.isdecimal()}
    ends = sorted({min(steps), max(steps)}) if steps else []
    return Training(label, curves, [(step, _preview(run, steps[step])) for step in ends], read_settings(run))


def read_settings(run: str) -> RunSettings | None:
    """How a run was made, from its `run.json`; None if there is no such file.

    Folders of this machine are left out of the paths. Raises `UserError` if the file cannot be read or is malformed.
    """
    file = Path(run) / "run.json"
    try:
        found = json.loads(file.read_bytes())
        options, argv, versions = (dict(found["options"]), [*map(str, found["argv"])], dict(found["versions"]))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"--run {run}: {os_reason(error)}") from None
    except (ValueError, LookupError, TypeError):
        raise UserError(f"{file}: is not what a train or tune command writes; restore or remove the file") from None
    texts = {str(key).replace("_", " "): _setting(value) for key, value in options.items() if value not in (None, "")}
    return RunSettings(
        " ".join(map(shlex.quote, map(_without_folders, argv))),
        [(key, texts[key]) for key in MAIN_SETTINGS if key in texts],
        [*texts.items()],
        ", ".join(f"{name} {version}" for name, version in versions.items()),
    )


def _setting(value: object) -> str:
    """The value of an option as text."""
    if isinstance(value, dict):
        return ", ".join(f"{key} × {_setting(one)}" for key, one in value.items())
    if isinstance(value, list):
        return ", ".join(map(_setting, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return number(value) if isinstance(value, float) else _without_folders(str(value))


def _without_folders(text: str) -> str:
    """An absolute path without its folders, which say where things are on this machine; other text as it is."""
    return Path(text).name if text.startswith("/") else text


def _preview(run: str, file: Path) -> PictureView:
    """The preview grid as PNG or JPEG, whichever is smaller. PNG is smaller if there are few colours."""
    try:
        grid = Pictures([run]).open(str(file))
    except RecordFailed as error:
        return PictureView(failure=str(error))
    grid.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
    return PictureView(min(data_uri(grid, "PNG"), data_uri(grid, "JPEG"), key=len), *grid.size)


def read_metrics(run: str) -> dict[str, list[Point]]:
    """Return, for each metric of a run's `metrics.jsonl`, its steps and values. A null becomes NaN.

    A last line without a newline is ignored, because the run is still writing it. Raises `UserError` if the file cannot
    be read or a line is malformed.
    """
    file = Path(run) / "metrics.jsonl"
    try:
        lines = file.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        raise UserError(
            f"--run {run}: there is no metrics.jsonl in it; name a folder that a train or tune command wrote"
        ) from None
    except OSError as error:
        raise UserError(f"--run {run}: {os_reason(error)}") from None
    found: dict[str, list[Point]] = {}
    for place, line in enumerate(lines, 1):
        if not line.endswith(b"\n"):
            break
        try:
            logged = json.loads(line, parse_int=float)
        except ValueError:
            raise UserError(f"{file}:{place}: not JSON; fix or remove the line") from None
        step = logged.pop("step", None) if isinstance(logged, dict) else None
        if not isinstance(step, float) or not drawable(step):
            raise UserError(
                f"{file}:{place}: a line of metrics must be an object with a number 'step'; fix or remove it"
            )
        for name, value in logged.items():
            if value is not None and not isinstance(value, float):
                raise UserError(f"{file}:{place}: {name!r} is not a number; fix or remove the line")
            found.setdefault(name, []).append((step, math.nan if value is None else value))
    return found


def curve(name: str, points: list[Point]) -> Curve:
    """Lay out a metric for drawing.

    Values that cannot be drawn are left out and counted. The moving mean is computed before the points are thinned.
    """
    drawn = [point for point in points if drawable(point[1])]
    steps = Axis(*axis_ends([step for step, _ in points], 0.0), FRAME.left, FRAME.right)
    values = Axis(*axis_ends([value for _, value in drawn], 0.05), FRAME.bottom, FRAME.top)
    line, mean = (
        [(steps.place(step), values.place(value)) for step, value in downsampled(one)]
        for one in (drawn, moving_mean(drawn))
    )
    left_out = len(points) - len(drawn)
    return Curve(
        name, of_curve(name), number(points[-1][1]), line, mean, steps.ticks(whole=True), values.ticks(), left_out
    )


def moving_mean(points: list[Point]) -> list[Point]:
    """For every point, the mean over a window of `SMOOTHED_OVER` of all points. The window is cut off at both ends."""
    reach = round(len(points) * SMOOTHED_OVER) // 2
    sums = [0.0, *accumulate(value for _, value in points)]
    means = []
    for index, (step, _) in enumerate(points):
        first, behind = max(0, index - reach), min(len(points), index + reach + 1)
        means.append((step, (sums[behind] - sums[first]) / (behind - first)))
    return means


def downsampled(points: list[Point]) -> list[Point]:
    """At most `MAX_POINTS` points: the first, the last, and the lowest and highest of every stretch between them."""
    if len(points) <= MAX_POINTS:
        return points
    stretches = MAX_POINTS // 2 - 1
    kept = [points[0]]
    for index in range(stretches):
        inner = len(points) - 2
        stretch = points[1 + index * inner // stretches : 1 + (index + 1) * inner // stretches]
        kept += sorted({pick(stretch, key=lambda point: point[1]) for pick in (min, max)})
    return [*kept, points[-1]]
