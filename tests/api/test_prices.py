"""What models cost: names, snapshots and other models, providers, and the user's own tables."""

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from vpctl.api.picture_tokens import Patches, Tiles
from vpctl.api.prices import FREE, Price, price_of, read_prices
from vpctl.errors import UserError

OPENAI, OPENROUTER = "https://api.openai.com/v1", "https://openrouter.ai/api/v1"
GOOGLE, XAI = "https://generativelanguage.googleapis.com/v1beta/openai/", "https://api.x.ai/v1"
AZURE, MISTRAL = "https://mine.openai.azure.com/openai/v1/", "https://api.mistral.ai/v1"
GATEWAY, HERE = "https://llm.example.com/v1", "http://127.0.0.1:8000/v1"


def dollars(price: Price | None) -> tuple[float, float] | None:
    """Of a price: dollars per million tokens of a prompt and of an answer."""
    return price and (round(price.input * 1e6, 6), round(price.output * 1e6, 6))


@pytest.mark.parametrize(
    ("model", "url", "expected"),
    [
        ("gpt-4o", OPENAI, (2.5, 10)),
        ("gpt-4o-2024-11-20", OPENAI, (2.5, 10)),
        ("gpt-4o-2024-05-13", OPENAI, (5, 15)),  # a snapshot with a price of its own
        ("gpt-4o-2029-01-01", OPENAI, (2.5, 10)),
        ("gpt-4o-mini-2024-07-18", OPENAI, (0.15, 0.6)),
        ("gpt-5-2025-08-07", OPENAI, (1.25, 10)),
        ("gpt-5-pro", OPENAI, (15, 120)),
        ("gpt-5-2025-08-07", AZURE, (1.25, 10)),
        ("gpt-4o", HERE, (2.5, 10)),
        ("openai/gpt-4o-mini", HERE, (0.15, 0.6)),
        ("gpt-4o:free", GATEWAY, (2.5, 10)),
        ("openai/gpt-4o:free", OPENROUTER, (0, 0)),
        ("claude-sonnet-4-20250514", GATEWAY, (3, 15)),
        ("claude-sonnet-4@20250514", GATEWAY, (3, 15)),
        ("claude-sonnet-4-5-latest", GATEWAY, (3, 15)),
        ("anthropic/claude-sonnet-4.5", OPENROUTER, (3, 15)),
        ("google/gemini-2.5-flash", OPENROUTER, (0.3, 2.5)),
        ("google/gemini-2.5-flash", HERE, (0.3, 2.5)),
        ("models/gemini-2.5-flash", GOOGLE, (0.3, 2.5)),
        ("gemini-2.5-flash-001", GOOGLE, (0.3, 2.5)),
        ("grok-4-latest", XAI, (3, 15)),
        ("mistral-large-2411", MISTRAL, (2, 6)),
        ("pixtral-12b", MISTRAL, (0.15, 0.15)),
        ("omni-moderation-latest", OPENAI, (0, 0)),
    ],
)
def test_a_name_and_its_snapshots_have_the_price_of_the_model(
    model: str, url: str, expected: tuple[float, float]
) -> None:
    assert dollars(price_of(model, {}, url)) == expected


@pytest.mark.parametrize("url", [OPENAI, OPENROUTER, GATEWAY, HERE])
@pytest.mark.parametrize(
    "model",
    """gpt-5-frobnicate gpt-5-mini-foo gpt-4omega gpt-4.15 my-gpt-4o omni-moderation-2 gpt-4o-2024-13 gpt-4o-mini:nitro
    gpt-5-nano-x claude-sonnet-4-5-mega claude-3-haiku-pro gemini-2.5-pro-ultra grok-4-banana judge .* gpt-4o/x
    claude-sonnet-4-99 gpt-4o-""".split(),
)
def test_a_name_with_another_ending_is_another_model(model: str, url: str) -> None:
    assert price_of(model, {}, url) is None
    assert price_of("", {}, url) is None


def test_open_weights_have_a_price_where_they_are_sold_and_none_at_home() -> None:
    assert price_of("qwen/qwen2.5-vl-72b-instruct", {}, OPENROUTER) is not None
    assert price_of("qwen/qwen2.5-vl-72b-instruct", {}, GATEWAY) is not None
    assert price_of("qwen2.5-vl-72b-instruct", {}, "https://dashscope-intl.aliyuncs.com/v1") is not None
    for home in (HERE, "http://gpu01:8000/v1", "http://10.0.0.7/v1", "http://[::1]:8000/v1", "http://vllm.local/v1"):
        assert price_of("qwen/qwen2.5-vl-72b-instruct", {}, home) is None
        assert price_of("pixtral-12b", {}, home) is None
    assert price_of("Qwen/Qwen2.5-VL-72B-Instruct", {}, GATEWAY) is None, "the name of a model of Hugging Face"


def test_the_table_and_its_library_agree_on_every_kind_of_token() -> None:
    """Long prompts, cached tokens, service tiers and batches of a few models, against genai-prices' own arithmetic."""
    from genai_prices import Usage, calc_price

    now = datetime.now(UTC)
    for model, provider, url in (
        ("gpt-5", "openai", OPENAI),
        ("gemini-2.5-pro", "google", GOOGLE),
        ("claude-sonnet-4-5", "anthropic", GATEWAY),
        ("grok-4.3", "x-ai", XAI),
        ("gpt-5.6-sol", "openai", OPENAI),
    ):
        price = price_of(model, {}, url)
        assert price
        for prompt, cached, answer in ((1000, 0, 100), (1000, 400, 100), (200_001, 7, 9), (900_000, 0, 5000)):
            for tier in ("", "flex", "priority"):
                asked: Any = {"service_tier": tier} if tier else None
                used = Usage(input_tokens=prompt, cache_read_tokens=cached, output_tokens=answer)
                known = calc_price(used, model, provider_id=provider, genai_request_timestamp=now, price_context=asked)
                usage = {"prompt_tokens": prompt, "cached_tokens": cached, "completion_tokens": answer}
                assert price.cost_of(usage, tier) == pytest.approx(float(known.total_price)), (model, tier, prompt)


def test_a_service_tier_and_a_batch_are_cheaper() -> None:
    price = price_of("gpt-5", {}, OPENAI)
    assert price
    assert dollars(price.tiers["flex"]) == (0.625, 5)
    assert dollars(price.tiers["priority"]) == (2.5, 20)
    assert price.batch == 0.5
    other = price_of("gpt-5-pro", {}, OPENAI)
    assert other
    assert "flex" not in other.tiers


def test_the_table_is_not_read_where_nobody_asks_for_a_price() -> None:
    code = (
        "import sys; from vpctl.api.prices import Price, price_of; "
        "own = {'gpt-4o': Price(1, 1, 1)}; price_of('gpt-4o', own, 'https://api.openai.com/v1'); "
        "price_of('qwen', {}, 'http://localhost:1/v1'); print('genai_prices' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "False\n"


# The user's file ------------------------------------------------------------------------------------------------------


def test_a_table_of_ones_own_comes_first(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(
        '[gpt-4o]\ninput = 1\noutput = 2.5\n["qwen2.5-vl"]\ninput = 0\noutput = 0\n'
        "[mine]\ninput = 4\noutput = 8\ncached = 1\nbatch = 0.8\nflex = 0.25\npriority = 2\n"
        "picture = { most = 99, times = 2 }\n[tiled]\ninput = 1\noutput = 1\npicture = { base = 1, tile = 2 }\n"
    )
    own = read_prices(str(path))
    assert price_of("gpt-4o-2024-11-20", own, OPENAI) == Price(1e-6, 2.5e-6, 1e-6)
    assert price_of("openai/gpt-4o", own, OPENROUTER) == Price(1e-6, 2.5e-6, 1e-6)
    assert price_of("Qwen/Qwen2.5-VL", own, HERE) is None, "names are told apart by case, as servers do"
    assert price_of("qwen/qwen2.5-vl", own, HERE) == FREE
    assert price_of("qwen/qwen2.5-vl-72b", own, HERE) is None, "another model"
    assert price_of("gpt-4o-mini", own, OPENAI) == price_of("gpt-4o-mini", {}, OPENAI)
    tiers = {"flex": Price(1e-6, 2e-6, 0.25e-6), "priority": Price(8e-6, 16e-6, 2e-6)}
    assert own["mine"] == Price(4e-6, 8e-6, 1e-6, 0.8, Patches(99, 2), tiers)
    assert own["tiled"].picture == Tiles(1, 2)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[gpt-4o]\ninput = 1\n", "[gpt-4o] needs input and output, in dollars per million tokens"),
        ("gpt-4o = 3\n", "[gpt-4o] needs input and output"),
        ('[m]\ninput = "1"\noutput = 2\n', "[m]: input is not a number from 0 to 1e+09"),
        ("[m]\ninput = -1\noutput = 2\n", "[m]: input is not a number from 0"),
        ("[m]\ninput = nan\noutput = 2\n", "[m]: input is not a number from 0"),
        ("[m]\ninput = inf\noutput = 2\n", "[m]: input is not a number from 0"),
        ("[m]\ninput = 1e10\noutput = 2\n", "[m]: input is not a number from 0"),
        ("[m]\ninput = true\noutput = 2\n", "[m]: input is not a number from 0"),
        ("[m]\ninput = 1\noutput = 2\nflex = 'x'\n", "[m]: flex is not a number from 0"),
        ("[m]\ninput = 1\noutput = 2\ncached_input = 1\n", "[m]: there is no key cached_input; known: input, output,"),
        ("[m]\ninput = 1\noutput = 2\npicture = 765\n", "[m]: picture needs either base and tile, or most and times"),
        (
            "[m]\ninput = 1\noutput = 2\npicture = { base = 85 }\n",
            "[m]: picture needs either base and tile, or most and times",
        ),
        ('[m]\ninput = 1\noutput = 2\npicture = { base = 85, tile = "x" }\n', "[m]: tile is not a number from 0"),
        ("[m]\ninput = 1\noutput = 2\npicture = { most = 0, times = 1 }\n", "[m]: side and most of a picture are at"),
        ("[m]\ninput = 1\noutput = 2\npicture = { most = 9, side = 0.1 }\n", "[m]: side and most of a picture are at"),
        ('["a\\nb"]\ninput = 1\n', "[a\\nb] needs input and output"),
        ("[m\n", ""),
        (None, "no such file or directory"),
        ("{", ""),
        ("{}", "is JSON, but has no model with input_cost_per_token"),
        ('{"a": 3, "b": {"input_cost_per_token": null}}', "is JSON, but has no model with input_cost_per_token"),
        ('{"m": {"input_cost_per_token": "1"}}', "m: input_cost_per_token is not a number from 0 to 1000"),
        ('{"m": {"input_cost_per_token": -1}}', "m: input_cost_per_token is not a number from 0 to 1000"),
        ('{"m": {"input_cost_per_token": NaN}}', "m: input_cost_per_token is not a number from 0 to 1000"),
        ('{"m": {"input_cost_per_token": 1e999}}', "m: input_cost_per_token is not a number from 0 to 1000"),
        ('{"m": {"input_cost_per_token": 1%s}}' % ("0" * 400), "m: input_cost_per_token is not a number from 0"),
        ('{"m": {"input_cost_per_token": 1%s}}' % ("0" * 9000), ""),
        ('{"m": {"input_cost_per_token": true}}', "m: input_cost_per_token is not a number from 0 to 1000"),
        (
            '{"m": {"input_cost_per_token": 1, "output_cost_per_token_batches": []}}',
            "m: output_cost_per_token_batches is not a number from 0 to 1000",
        ),
        ('{"a": ' * 100_000, "is nested too deeply to be a table of prices"),
        ("\ud800", ""),
    ],
)
def test_a_table_that_is_not_right_is_told_in_one_line(tmp_path: Path, text: str | None, said: str) -> None:
    path = tmp_path / "own.toml"
    if text is not None:
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(UserError) as raised:
        read_prices(str(path))
    assert str(raised.value).startswith(f"--prices {path}: ")
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < len(str(path)) + 300


def test_a_file_without_end_is_no_table() -> None:
    with pytest.raises(UserError, match="--prices /dev/zero: is larger than 32 MiB"):
        read_prices("/dev/zero")


LITELLM = {
    "sample_spec": {"input_cost_per_token": 0.0, "mode": "one of: chat, embedding", "max_tokens": "LEGACY"},
    "gpt-x": {
        "input_cost_per_token": 2e-06,
        "output_cost_per_token": 8e-06,
        "cache_read_input_token_cost": 5e-07,
        "input_cost_per_token_batches": 1e-06,
        "output_cost_per_token_batches": 4.8e-06,
        "input_cost_per_token_flex": 1e-06,
        "output_cost_per_token_flex": 4e-06,
        "input_cost_per_token_priority": 3.5e-06,
        "output_cost_per_token_priority": 1.4e-05,
        "input_cost_per_token_above_200k_tokens": 4e-06,
        "output_cost_per_token_above_200k_tokens": 1.2e-05,
        "supports_vision": True,
        "litellm_provider": "openai",
        "search_context_cost_per_query": {"search_context_size_low": 0.03},
    },
    "xai/grok-x": {"input_cost_per_token": 3e-06, "output_cost_per_token": 1.5e-05},
    "azure_ai/grok-x": {"input_cost_per_token": 5e-06, "output_cost_per_token": 2e-05},
    "openrouter/qwen/qwen-x": {"input_cost_per_token": 1e-07, "output_cost_per_token": 2e-07},
    "fireworks_ai/llava-x": {"input_cost_per_token": 2e-06, "output_cost_per_token": 2e-06},
    "together_ai/llava-x": {"input_cost_per_token": 1e-06, "output_cost_per_token": 3e-06},
    "dall-e": {"input_cost_per_pixel": 1e-08},
}


@pytest.mark.parametrize("name", ["model_prices_and_context_window.json", "prices.toml", "prices"])
def test_the_table_of_litellm_is_read_by_its_content(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("\ufeff\n" + json.dumps(LITELLM, indent=2))
    own = read_prices(str(path))
    found = price_of("gpt-x-2026-01-02", own, GATEWAY)
    assert found
    assert (found.input, found.output, found.cached) == (2e-6, 8e-6, 5e-7)
    assert found.batch == pytest.approx(0.6), "the larger of 1/2 and 4.8/8"
    usage = {"prompt_tokens": 100.0, "cached_tokens": 20.0, "completion_tokens": 10.0}
    assert found.cost_of(usage) == pytest.approx(80 * 2e-6 + 20 * 5e-7 + 10 * 8e-6)
    assert found.cost_of(usage, "flex") == pytest.approx(80 * 1e-6 + 20 * 5e-7 + 10 * 4e-6)
    assert found.cost_of(usage, "priority") == pytest.approx(80 * 3.5e-6 + 20 * 5e-7 + 10 * 1.4e-5)
    longer = {"prompt_tokens": 200_001.0, "completion_tokens": 10.0}
    assert found.cost_of(longer) == pytest.approx(200_001 * 4e-6 + 10 * 1.2e-5)
    assert dollars(price_of("xai/grok-x", own, XAI)) == (3, 15)
    assert dollars(price_of("grok-x", own, XAI)) == (3, 15), "its maker comes before others"
    assert dollars(price_of("llava-x", own, GATEWAY)) == (2, 2), "of two that resell it, the dearer"
    assert dollars(price_of("qwen/qwen-x", own, OPENROUTER)) == (0.1, 0.2)
    assert {"sample_spec", "dall-e"}.isdisjoint(own)
    plain = own["xai/grok-x"]
    assert (plain.cached, plain.batch) == (plain.input, 0.5)
