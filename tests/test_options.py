import dataclasses
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from tests.conftest import HOME, write_lines
from vpctl import cli, configs
from vpctl.errors import UserError
from vpctl.models.devices import World
from vpctl.options import argument, check_device, for_typer, option, options

TUNING = {"train-rm": configs.RewardModelConfig, "tune-ppo": configs.PPOConfig, "tune-dpo": configs.DPOConfig}
OWNERS = [
    *TUNING.items(),
    ("tune-ppo", configs.RoundConfig),
    ("tune-ppo", configs.DDPOConfig),
    ("tune-ppo", configs.ReFLConfig),
    ("tune-ppo", configs.NFTConfig),
    ("tune-ppo", configs.GRPOConfig),
    ("tune-ppo", configs.WatchConfig),
    ("tune-ppo", configs.ServerConfig),
    ("tune-dpo", configs.KTOConfig),
    ("tune-dpo", configs.D3POConfig),
    ("tune-dpo", configs.ServerConfig),
    ("polish", configs.ServerConfig),
    ("annotate", configs.ServerConfig),
    ("annotate", configs.PictureConfig),
    ("annotate", configs.ScoringConfig),
    *((f"eval {kind}", configs.GateConfig) for kind in ("accuracy", "agreement", "compare")),
    ("eval compare", configs.ServerConfig),
    ("eval compare", configs.PictureConfig),
]
"""Commands and the configs whose fields are options of theirs."""


@dataclass(frozen=True)
class Settings:
    """Of a made-up command."""

    steps: Annotated[int, option(metavar="N", min=1, help="Optimizer steps.")] = 20
    learning_rate: Annotated[float, option(metavar="LR", help="Peak learning rate.")] = 1e-4
    batch: Annotated[int, option("--batch-size", "-b", metavar="N", help="Pairs in a step.")] = 8
    guidance: Annotated[float | None, option(help="Guidance.", show_default="the model's own")] = None


def application(seen: list[tuple[str, Settings]]) -> typer.Typer:
    """A program of one command that takes a name and the settings."""

    @options(Settings)
    def tune(name: Annotated[str, argument(metavar="NAME", help="Name.")], *, config: Settings) -> None:
        """Tune."""
        seen.append((name, config))

    app = typer.Typer()
    app.command()(for_typer(tune))
    return app


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", Settings()),
        ("--steps 3", Settings(steps=3)),
        ("--learning-rate 0.5 -b 2 --guidance 7", Settings(learning_rate=0.5, batch=2, guidance=7.0)),
        ("--batch-size 2", Settings(batch=2)),
    ],
)
def test_every_field_is_an_option_and_the_command_gets_the_whole(words: str, expected: Settings) -> None:
    seen: list[tuple[str, Settings]] = []
    ended = CliRunner().invoke(application(seen), ["mine", *words.split()])
    assert ended.exit_code == 0, ended.output
    assert seen == [("mine", expected)]


def test_an_option_that_was_declared_with_other_names_has_no_other() -> None:
    assert CliRunner().invoke(application([]), ["mine", "--batch", "2"]).exit_code == 2


@dataclass(frozen=True)
class Bounded:
    """Options that take some values only."""

    mode: Annotated[str, option("--mode", "-m", choices=("list", "point", "pair"), help="How.")] = ""
    again: Annotated[list[str] | None, option("--again", choices=("failed", "refused"), help="What.")] = None
    share: Annotated[float, option(metavar="P", min=0, max=1, help="Share.")] = 0.5
    steps: Annotated[int, option(metavar="N", min=2, help="Steps.")] = 20
    images: Annotated[int, option(metavar="N", min=1, help="Pictures.")] = 1
    most: Annotated[int, option(metavar="N", max=9, help="Most.")] = 9


def bounded() -> typer.Typer:
    """A program with these options."""

    @options(Bounded)
    def tune(*, config: Bounded) -> None:
        """Tune."""

    app = typer.Typer(rich_markup_mode=None)
    app.command()(for_typer(tune))
    return app


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--mode lst", "--mode lst: must be one of list, point, pair; did you mean 'list'?"),
        ("-m q", "--mode q: must be one of list, point, pair"),
        ("--again failed --again refusd", "--again refusd: must be one of failed, refused; did you mean 'refused'?"),
        ("--share 1.5", "--share 1.5: must be from 0 to 1"),
        ("--share nan", "--share nan: is not a number"),
        ("--share -inf", "--share -inf: is not a number"),
        ("--steps 1", "--steps 1: must be at least 2"),
        ("--most 10", "--most 10: must be at most 9"),
    ],
)
def test_a_value_that_an_option_does_not_take_is_refused_with_its_name(words: str, said: str) -> None:
    error = CliRunner().invoke(bounded(), words.split()).exception
    assert isinstance(error, UserError)
    assert str(error) == said


@pytest.mark.parametrize("words", ["", "-m pair --again failed --again refused", "--share 1 --steps 2 --most -3"])
def test_a_value_that_an_option_takes_passes(words: str) -> None:
    assert CliRunner().invoke(bounded(), words.split()).exit_code == 0


def test_the_help_has_the_choices_and_the_ranges_that_nobody_would_guess() -> None:
    text = CliRunner().invoke(bounded(), ["--help"]).output
    said = [re.sub(r" {2,}", "  ", line.strip()) for line in text.splitlines()]
    assert "-m, --mode list|point|pair  How." in said
    assert "--share P  Share. From 0 to 1.  [default: 0.5]" in said
    assert "--steps N  Steps. At least 2.  [default: 20]" in said
    assert "--images N  Pictures.  [default: 1]" in said
    assert "--most N  Most. At most 9.  [default: 9]" in said


def test_a_command_can_be_called_with_some_fields_or_none() -> None:
    found: list[Settings] = []

    @options(Settings)
    def tune(*, config: Settings) -> None:
        found.append(config)

    tune()
    tune(steps=5)
    assert found == [Settings(), Settings(steps=5)]


def test_the_signature_has_the_fields_in_place_of_the_whole() -> None:
    @options(Settings)
    def tune(name: str, *, out: str = "x", config: Settings) -> None:
        """Tune."""

    parameters = inspect.signature(tune).parameters
    assert list(parameters) == ["name", "out", "steps", "learning_rate", "batch", "guidance"]
    assert {name: one.default for name, one in parameters.items() if name not in ("name", "out")} == {
        "steps": 20,
        "learning_rate": 1e-4,
        "batch": 8,
        "guidance": None,
    }
    assert tune.__doc__ == "Tune."


def test_every_config_belongs_to_a_command() -> None:
    every = (value for value in vars(configs).values() if isinstance(value, type))
    declared = {value for value in every if dataclasses.is_dataclass(value)}
    declared -= {base for value in declared for base in value.__bases__}  # of configs with options in common
    assert declared == {config for _, config in OWNERS}


@pytest.mark.parametrize(("name", "config"), OWNERS)
def test_every_field_of_a_config_is_an_option_of_its_command_and_in_its_page(name: str, config: type) -> None:
    command: Any = typer.main.get_command(cli.build({*name.split()}))
    for word in name.split():
        command = command.commands[word]
    flags = {parameter.name: parameter for parameter in command.params}
    page = (HOME / "man" / f"vpctl-{name.split()[0]}.1").read_text().replace("\\-", "-")
    for field in dataclasses.fields(config):
        flag = flags[field.name]
        assert flag.default == field.default
        assert flag.help
        assert f"\\fB{max(flag.opts, key=len)}" in page
        entry = page.partition(f"\\fB{max(flag.opts, key=len)}")[2].partition(".TP")[0]
        assert flag.help in entry.replace("\\fB", "`").replace("\\fR", "`")
        if field.default not in (None, "", False):
            assert f"Default: {field.default}." in entry


class Asked(Exception):
    """What a run was asked for."""


def folder_of_no_run(folder: str, config: dict[str, Any], world: World) -> None:
    """In place of a run's folder."""
    raise Asked(config)


@pytest.mark.parametrize("name", TUNING)
def test_every_field_of_a_config_is_written_down_with_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Also those that are not given: `run.json` has all that is needed to do it again."""
    pair = {"prompt_id": "p", "prompt": "x", "chosen_file_name": "a.png", "rejected_file_name": "b.png", "margin": 1}
    source = write_lines(tmp_path / "in.jsonl", [{**pair, "split": "train"}])
    for picture in ("a.png", "b.png"):
        (tmp_path / picture).touch()
    monkeypatch.setattr("vpctl.tuning.run.Run", folder_of_no_run)
    config = TUNING[name]
    numbers = {field.name: field.default for field in dataclasses.fields(config)} | {"learning_rate": 0.125}
    command: Callable[..., None] = cli.load(name)
    with pytest.raises(Asked) as asked:
        command(str(source), out=str(tmp_path / "run"), learning_rate=0.125)
    written = asked.value.args[0]
    assert {key: written[key] for key in numbers} == numbers
    assert not any(isinstance(value, config) for value in written.values())


def test_no_option_of_a_config_hides_another() -> None:
    for name in TUNING:
        command = typer.main.get_command(cli.build({name})).commands[name]  # type: ignore[attr-defined]
        flags = [flag for parameter in command.params for flag in parameter.opts if flag.startswith("-")]
        assert len(flags) == len(set(flags)), sorted(flags)


def test_plug_ins_are_offered_with_their_help() -> None:
    command = typer.main.get_command(cli.build({"score"})).commands["score"]  # type: ignore[attr-defined]
    (reward,) = (parameter for parameter in command.params if parameter.name == "reward")
    offered = reward.shell_complete(typer.Context(command), "sh")
    assert [item.value for item in offered][:2] == ["shapes", "shapes:prompt-following"]
    assert re.match("The pixel judge", offered[0].help)


def test_a_device_is_checked_as_far_as_is_certain(tmp_path: Path) -> None:
    for name in ("gpu", "cuda:", "cuda:-1", "cuda:x", "CPU", "", "cuda:1234", "mps:0"):
        with pytest.raises(UserError, match="is not a device"):
            check_device(name, nodes=tmp_path)
    for name in ("cuda", "cuda:3"):
        with pytest.raises(UserError, match="no GPU for CUDA"):
            check_device(name, nodes=tmp_path, system="linux")
        with pytest.raises(UserError, match="no GPU for CUDA"):
            check_device(name, nodes=Path("/dev"), system="darwin")
    with pytest.raises(UserError, match="needs an Apple GPU"):
        check_device("mps", system="linux")
    assert check_device("mps", system="darwin") == "mps"
    for node in ("nvidia0", "kfd", "dxg"):
        (tmp_path / node).touch()
        assert check_device("cuda:1", nodes=tmp_path, system="linux") == "cuda:1"
        (tmp_path / node).unlink()
