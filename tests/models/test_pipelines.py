"""The facts that are read from the files of diffusers are those that diffusers itself reports."""

import inspect

import diffusers
import pytest

from vpctl.models import pipelines

VAR_KEYWORD = inspect.Parameter.VAR_KEYWORD


@pytest.mark.parametrize(
    "name", ["StableDiffusionPipeline", "StableDiffusionXLPipeline", "StableDiffusion3Pipeline", "FluxPipeline"]
)
def test_parameters_and_defaults_are_those_of_the_class(name: str) -> None:
    signature = inspect.signature(getattr(diffusers, name).__call__).parameters
    assert list(pipelines.parameters(name)) == [one for one in signature if signature[one].kind is not VAR_KEYWORD]
    for setting in ("guidance_scale", "num_inference_steps", "prompt", "output_type"):
        assert pipelines.parameters(name)[setting] == signature[setting].default
    assert pipelines.exists(name)
    assert pipelines.needs_nothing_more(name)


def test_a_pipeline_that_takes_no_prompt_or_needs_another_library_is_told_apart() -> None:
    assert "prompt" not in pipelines.parameters("DDPMPipeline")
    assert not pipelines.needs_nothing_more("KolorsPipeline")
    assert pipelines.parameters("NoSuchPipeline") == {}
    assert not pipelines.exists("NoSuchPipeline")
