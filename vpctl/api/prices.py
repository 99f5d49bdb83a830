"""What a model costs: from the user's file, or from the table of genai-prices, which covers the usual providers.

A price is that of one model: of its name, or of a snapshot of it, such as gpt-4o-2024-11-20. A name with any other
ending is another model. gpt-5-pro costs twelve times as much as gpt-5.
"""

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from ..errors import UserError
from .dialects import is_private
from .picture_tokens import Patches, PictureRule, Tiles, read_rule

if TYPE_CHECKING:
    from genai_prices import types

MILLION = 1_000_000
MOST_PER_MILLION = 1e9
"""Dollars per million tokens. No model costs more, and larger numbers would overflow in sums."""
MOST_BYTES = 1 << 25
"""Maximum size of the user's file. LiteLLM's table has less than two million bytes."""
BATCH = 0.5
"""The usual fraction of the price that a call by batch costs."""


class Price(NamedTuple):
    """Dollars per token of a prompt, of an answer, and of a prompt that the server has in its cache.

    `batch` is the fraction of the price that a call by batch costs. `picture` counts the tokens of a picture; None if
    the rule of the model's family does. `tiers` has the prices of other service tiers, such as flex. `long` has the
    prices of calls whose prompt has more tokens than the given number, which ascends.
    """

    input: float
    output: float
    cached: float
    batch: float = BATCH
    picture: PictureRule | None = None
    tiers: "Mapping[str, Price]" = MappingProxyType({})
    long: "tuple[tuple[float, Price], ...]" = ()

    def cost_of(self, usage: Mapping[str, float], tier: str = "") -> float:
        """The cost in dollars of a call with this usage in a service tier. An unknown tier has the usual price."""
        price = self.tiers.get(tier, self)
        prompt = usage.get("prompt_tokens", 0.0)
        for above, dearer in price.long:
            price = dearer if prompt > above else price
        cached = min(usage.get("cached_tokens", 0.0), prompt)
        fresh = prompt - cached
        return fresh * price.input + cached * price.cached + usage.get("completion_tokens", 0.0) * price.output

    @property
    def is_free(self) -> bool:
        """Whether no call costs anything."""
        return not (self.input or self.output or self.cached)


FREE = Price(0.0, 0.0, 0.0)

# The user's file ------------------------------------------------------------------------------------------------------

_TIERS = ("flex", "priority")
_KEYS = ("input", "output", "cached", "batch", *_TIERS)
_PER_TOKEN = "input_cost_per_token"
_MORE = ", ".join(sorted({*Tiles._field_defaults, *Patches._field_defaults}))
_ABOVE = re.compile(rf"{_PER_TOKEN}_above_(\d{{1,6}})k_tokens")


def read_prices(path: str) -> dict[str, Price]:
    """The prices in the user's file, by model; none if `path` is empty.

    The file is TOML of our own, or litellm's JSON. Raises `UserError` if it is neither, or if a price is not valid.
    """
    if not path:
        return {}
    where = f"--prices {path}"
    try:
        with Path(path).open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise UserError(f"{where}: is larger than {MOST_BYTES >> 20} MiB, so it is no table of prices")
        text = content.decode("utf-8-sig")
        if text.lstrip()[:1] == "{":
            return _litellm_prices(json.loads(text), where)
        import tomllib  # slow to load, and few have a table of their own

        return {model: _own_price(entry, f"{where}: [{_shown(model)}]") for model, entry in tomllib.loads(text).items()}
    except RecursionError:
        raise UserError(f"{where}: is nested too deeply to be a table of prices") from None
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, not TOML, not JSON
        raise UserError(f"{where}: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    return " ".join((getattr(error, "strerror", None) or str(error)).lower().split())


def _own_price(entry: object, where: str) -> Price:
    if not isinstance(entry, dict) or not {"input", "output"} <= entry.keys():
        raise UserError(f"{where} needs input and output, in dollars per million tokens")
    if unknown := sorted(entry.keys() - {*_KEYS, "picture"}):
        raise UserError(f"{where}: there is no key {_shown(unknown[0])}; known: {', '.join(_KEYS)}, picture")
    picture = entry.get("picture")
    for key, value in {**entry, **(picture if isinstance(picture, dict) else {})}.items():
        if key != "picture" and not _is_price(value):
            raise UserError(f"{where}: {_shown(key)} is not a number from 0 to {MOST_PER_MILLION:g}")
    rule = read_rule(picture)
    if picture is not None and rule is None:
        raise UserError(
            f"{where}: picture needs either base and tile, or most and times, and no other keys but {_MORE}"
        )
    if rule and (rule.side < 1 or rule.most < 1):
        raise UserError(f"{where}: side and most of a picture are at least 1")
    cached = entry["cached"] if "cached" in entry else entry["input"]
    price = Price(entry["input"] / MILLION, entry["output"] / MILLION, cached / MILLION)
    tiers = {
        tier: Price(price.input * entry[tier], price.output * entry[tier], price.cached * entry[tier])
        for tier in _TIERS
        if tier in entry
    }
    return price._replace(batch=entry.get("batch", BATCH), picture=rule, tiers=tiers)


def _litellm_prices(entries: object, where: str) -> dict[str, Price]:
    """The prices in litellm's table. Models that are not charged by the token are left out."""
    found = {}
    for model, entry in entries.items() if isinstance(entries, dict) else ():
        if model != "sample_spec" and isinstance(entry, dict) and entry.get(_PER_TOKEN) is not None:
            found[model] = _litellm_price(entry, f"{where}: {_shown(model)}")
    if not found:
        raise UserError(f"{where}: is JSON, but has no model with {_PER_TOKEN}, as litellm's table of prices has")
    return found


def _litellm_price(entry: Mapping[str, Any], where: str) -> Price:
    def at(ending: str, usual: Price) -> Price:
        """The price with the keys of this ending. What has no such key has the usual price."""

        def rate(key: str, unknown: float) -> float:
            value = entry.get(f"{key}{ending}")
            if value is None:
                return unknown
            if not _is_price(value, MILLION):
                raise UserError(f"{where}: {key}{ending} is not a number from 0 to {MOST_PER_MILLION / MILLION:g}")
            return float(value)

        return Price(
            rate(_PER_TOKEN, usual.input),
            rate("output_cost_per_token", usual.output),
            rate("cache_read_input_token_cost", usual.cached),
        )

    usual = at("", FREE)
    usual = at("", usual._replace(cached=usual.input))
    tiers = {tier: at(f"_{tier}", usual) for tier in _TIERS if f"{_PER_TOKEN}_{tier}" in entry}
    limits = sorted(int(match[1]) for key in entry if (match := _ABOVE.fullmatch(key)))
    long = tuple((limit * 1000.0, at(f"_above_{limit}k_tokens", usual)) for limit in limits)
    return usual._replace(batch=_share(at("_batches", usual), usual, BATCH), tiers=tiers, long=long)


def _share(part: Price, whole: Price, unknown: float) -> float:
    """The fraction of the price `whole` that `part` is, for what is dearer; `unknown` if the two are equal."""
    shares = [one / all_ for one, all_ in zip(part[:2], whole[:2], strict=True) if all_]
    return max(shares) if shares and part[:3] != whole[:3] else unknown


def _is_price(value: object, times: float = 1.0) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and 0 <= cast(float, value) <= MOST_PER_MILLION / times


def _shown(name: str) -> str:
    """A name from the file, for messages."""
    return ascii(name)[1:-1][:60]


# Names ----------------------------------------------------------------------------------------------------------------

_SNAPSHOT = re.compile(r"(?:[-@](?:\d{4}-\d{2}-\d{2}|20\d{6}|latest|default|00\d)|:free)+$")
"""The ending of a name that is a snapshot of a model or a free use of it, and so has the price of the model."""
_CLOSED = re.compile(r"(?:gpt-(?!oss)|chatgpt|o\d|claude|gemini|grok)")
"""Models whose weights nobody has but their maker: each server that offers them asks the maker's price."""
_MAKERS = {
    "openai": "openai",
    "azure": "openai",
    "anthropic": "anthropic",
    "google": "google",
    "gemini": "google",
    "vertex_ai": "google",
    "x-ai": "x-ai",
    "xai": "x-ai",
    "mistral": "mistral",
    "mistralai": "mistral",
}
"""The provider in genai-prices for the first part of a name, as OpenRouter and litellm write it."""
_OPENROUTER = "openrouter"


def price_of(model: str, own: Mapping[str, Price], url: str) -> Price | None:
    """The price of a model at the server `url`; None if it is unknown. `own` are the prices of the user's file."""
    found = _in_own(model, own)
    if found is not None or not model:
        return found
    if "omni-moderation" in _forms(model):
        return FREE
    if is_private(url) and not _CLOSED.match(_bare(model)):
        return None  # your own server, with open weights
    return _in_table(model, url)


def _bare(model: str) -> str:
    return model.rpartition("/")[2]


def _forms(name: str) -> Iterator[str]:
    """The name, and the name of the model that it is a snapshot of."""
    yield name
    if (plain := _SNAPSHOT.sub("", name)) != name:
        yield plain


def _in_own(model: str, own: Mapping[str, Price]) -> Price | None:
    """The price in the user's file: of the full name, or of its last part.

    litellm's table has models under names of their providers, such as xai/grok-4. The makers count before the others,
    and of several the dearest.
    """
    for name in (*_forms(model), *_forms(_bare(model))):
        if name in own:
            return own[name]
    for name in _forms(_bare(model)):
        same = {key: price for key, price in own.items() if "/" in key and _bare(key) == name}
        makers = [price for key, price in same.items() if key.partition("/")[0] in _MAKERS]
        if same:
            return max(makers or same.values(), key=lambda price: (price.input, price.output))
    return None


# genai-prices ---------------------------------------------------------------------------------------------------------


@cache
def _in_table(model: str, url: str) -> Price | None:
    """The price in the table of genai-prices. Importing it takes a third of a second, so it is imported only here."""
    from genai_prices.data import providers

    by_id = {provider.id: provider for provider in providers}
    listed = [provider for provider in providers if re.match(provider.api_pattern, url)]
    if listed:
        more = [by_id[one] for provider in listed for one in provider.fallback_model_providers or ()]
        names = [model] if listed[0].id == _OPENROUTER else [model, _bare(model)]
        places = [(provider, name.lower()) for provider in [*listed, *more] for name in names]
    else:
        places = [(by_id[provider], name) for provider, name in _guesses(model)]
    for provider, name in places:
        for form in _forms(name):
            if found := _names(provider.id).get(form):
                return _price(found, free=name.endswith(":free") and provider.id == _OPENROUTER)
    return None


def _guesses(model: str) -> Iterator[tuple[str, str]]:
    """Where to look for a model of a server that the table does not have, such as a gateway: providers and names."""
    first, _, rest = model.partition("/")
    if first == _OPENROUTER and rest:
        yield _OPENROUTER, rest
    elif rest:
        if first in _MAKERS:
            yield _MAKERS[first], _bare(model)
        yield _OPENROUTER, model
    else:
        for maker in dict.fromkeys(_MAKERS.values()):
            yield maker, model
        yield _OPENROUTER, f"qwen/{model}"


@cache
def _names(provider_id: str) -> "Mapping[str, types.ModelInfo]":
    """The models of a provider by name.

    The table also has beginnings and parts of names. They count as whole names here: as beginnings, they would match
    models that the table does not know.
    """
    from genai_prices.data import providers

    [provider] = [one for one in providers if one.id == provider_id]
    found: dict[str, types.ModelInfo] = {}
    for model in provider.models:
        for name in (model.id, *_texts(model.match, whole=True)):
            found[name] = model
    for model in provider.models:
        for name in _texts(model.match, whole=False):
            found.setdefault(name, model)
    return found


def _texts(clause: Any, *, whole: bool) -> Iterator[str]:
    """The names in a clause of the table: the `whole` ones, or the beginnings and parts of names."""
    for inner in (*getattr(clause, "or_", ()), *getattr(clause, "and_", ())):
        yield from _texts(inner, whole=whole)
    for kind in ("equals",) if whole else ("starts_with", "contains", "ends_with"):
        if name := getattr(clause, kind, ""):
            yield name


def _price(model: "types.ModelInfo", *, free: bool) -> Price | None:
    """The present price of a model of the table; None if it is not charged by the token, unless it is `free`."""
    from datetime import UTC, datetime

    now = datetime.now(UTC)
    usual = model.get_prices(now)
    if free:
        return FREE
    if getattr(usual, "input_mtok", None) is None or getattr(usual, "output_mtok", None) is None:
        return None
    contexts = [variant.when for variant in model.price_variants or () if len(variant.when) == 1]
    tiers = {when["service_tier"]: _tiered(model.get_prices(now, when)) for when in contexts if "service_tier" in when}
    price = _tiered(usual)
    batch = _share(_tiered(model.get_prices(now, {"processing": "batch"})), price, 1.0)
    return price._replace(batch=batch, tiers={tier: one for tier, one in tiers.items() if one != price})


def _tiered(price: "types.ModelPrice") -> Price:
    starts = sorted({tier.start for rate in vars(price).values() for tier in getattr(rate, "tiers", ())})
    base = _rates(price, 0)
    return base._replace(long=tuple((float(start), _rates(price, start)) for start in starts))


def _rates(price: "types.ModelPrice", above: int) -> Price:
    """The dollars per token of prompts with more than `above` tokens."""

    def at(name: str, unknown: float) -> float:
        rate = getattr(price, name, None)
        for tier in getattr(rate, "tiers", ()):
            if above and tier.start <= above:
                rate = tier.price
        rate = getattr(rate, "base", rate)
        return unknown if rate is None else float(rate) / MILLION

    return Price(at("input_mtok", 0.0), at("output_mtok", 0.0), at("cache_read_mtok", at("input_mtok", 0.0)))
