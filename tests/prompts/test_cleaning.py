"""The cleaning rules: what they remove, what they keep, what is unsafe, and that a second pass changes nothing."""

import subprocess
import sys
from random import Random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vpctl.errors import UserError
from vpctl.polishers import rules
from vpctl.shapes.grammar import describe, sample
from vpctl.shapes.prompts import MODIFIERS, decorated


def clean(prompt: str) -> str:
    return rules.load("")([prompt])[0].prompt


def unsafe(prompt: str) -> str:
    return rules.load("")([prompt])[0].unsafe


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        # Quality, resolution, camera.
        ("a castle, highly detailed, masterpiece, sharp focus, award - winning", "a castle"),
        ("a highly detailed oil painting of a castle", "an oil painting of a castle"),
        ("an 8k photo of a lake, 4 k, 8 k resolution, uhd, hdr", "a photo of a lake"),
        ("a smooth stone, sharp claws, intricate, elegant, smooth", "a smooth stone, sharp claws"),
        ("a beautiful and highly detailed map", "a beautiful map"),
        ("a masterpiece portrait of a king, a masterpiece", "a portrait of a king"),
        ("a very detailed and old map", "an old map"),
        ("a beautiful, highly detailed painting of a cat", "a painting of a cat"),
        ("a girl with intricate details and gold trim", "a girl with gold trim"),
        ("a 9 mm pistol on a table, 3 5 mm, f / 1. 8, shot on a canon 5 d mark iv", "a 9 mm pistol on a table"),
        ("mount fuji, kodak portra 4 0 0, bokeh", "mount fuji"),
        # Artists.
        ("a fox, art by artgerm and greg rutkowski and alphonse mucha", "a fox"),
        ("a fox by greg rutkowski, wlop, johnson ting, red fur", "a fox, red fur"),
        ("a portrait of a man by Zeph Quillon", "a portrait of a man"),
        ("a western artwork by wlop, a cat in the rain art by wlop", "a western artwork, a cat in the rain"),
        ("a face by peter gric and zeph quillon and ode quist", "a face"),
        ("art by the artist Peter Quillon 1 9 6 7", "art by the artist Peter Quillon 1967"),
        ("beksinski painting of a house", "painting of a house"),
        ("by artgerm, wlop, taylor swift as an elf", "taylor swift as an elf"),
        # Styles of people and studios.
        ("a fox in the style of studio ghibli", "a fox"),
        ("a fox, greg rutkowski style, in the art style of mucha", "a fox"),
        ("a fox in the style of zeph quillon", "a fox"),
        ("a fox in the style of greg rutkowski and arcane", "a fox"),
        ("a fox in the style of arcane and greg rutkowski", "a fox in the style of arcane"),
        # Platforms and renderers.
        ("a fox, trending on artstation, deviantart, pixiv, cgsociety, behance hd", "a fox"),
        ("a fox, octane render, unreal engine 5, vray, ray tracing, rendered in octane", "a fox"),
        ("an instagram selfie of a fox, trending on instagram", "an instagram selfie of a fox"),
        ("a fox wizard concept art artstation smooth sharp focus", "a fox wizard concept art"),
        # Media: one that is part of the sentence stays, and so does the first of several that exclude each other.
        ("a photo of a cat, oil painting, anime", "a photo of a cat"),
        ("a cat, oil painting, anime, photo", "a cat, oil painting"),
        ("a cat, digital painting, concept art, illustration", "a cat"),
        ("digital painting, trending on artstation", "digital painting"),
        # Syntax.
        ("((a cat:1.3)) and [a dog], a tree::2 --ar 16:9", "a cat and a dog, a tree"),
        ("a cat - n 4 - h 7 0 4", "a cat"),
        ("https://example.com/a.png a cat &amp; a dog 🐱!!! | snow |", "a cat & a dog, snow"),
        ('" a cat " ,,', "a cat"),
        ('a sign that says " hello "', 'a sign that says "hello"'),
        ("bright forest, blur: -4", "bright forest"),
        ("a forest:2 by sachin teng:4, snow:1.5 at noon", "a forest, snow, at noon"),
        # Words that a tokenizer split.
        ("1 9 5 0 s sci - fi , spider - man ' s suit , 3 d , d & d", "1950s sci-fi, spider-man's suit, 3d, d&d"),
        ("it ' s the 1 7 th century - a quiet one", "it's the 17th century - a quiet one"),
        ("portrait by j. c. leyendecker, dr. who and mr. bean", "portrait, dr. who and mr. bean"),
        # Leftovers, and prompts that consist only of noise.
        ("a fox, highly detailed. and", "a fox"),
        ("a fox by", "a fox"),
        ("by greg rutkowski, 8k", "greg rutkowski"),
        ("highly detailed, 8k, trending on artstation", ""),
        ("🐱", ""),
        ("", ""),
    ],
)
def test_a_careful_editor_would_have_done_the_same(prompt: str, expected: str) -> None:
    assert clean(prompt) == expected
    assert clean(expected) == expected


@pytest.mark.parametrize(
    "prompt",
    [
        "the machine is highly detailed",
        "an intricate lace dress with an elegant bow, in a dramatic pose",
        "a smooth stone, sharp claws, golden hour, muted colors, lens flare, close-up",
        "a house by the sea, lit by candles, followed by a dog",
        "a camp by a river, surrounded by pine trees, by night",
        "a car made by apple, a robot designed by a child, a man held by the shirt collar, surround by a crowd",
        "portrait of rembrandt",
        "bob ross painting a canvas",
        "greg rutkowski",
        "barack obama in the style of sonic the hedgehog",
        "a fox, hearthstone style, in the style of quake",
        "a lamp in the style of art deco",
        "a lamp in art nouveau style",
        "a mayor in the style of a polish movie poster",
        "a cyberpunk city, steampunk, baroque, gothic, fantasy",
        "an instagram model with a blender and an unreal landscape",
        "a charcoal drawing of a cat",
        "an oil painting of a photographer",
        "a cat at 12:00, 2001: a space odyssey, apollo: 3 men, 1, 2, 3",
        "a tv show by the BBC, no people, 5 apples and 12 pears",
        "two green stars on a black background",
    ],
)
def test_content_stays(prompt: str) -> None:
    assert clean(prompt) == prompt


def test_decorated_captions_come_back_as_they_were() -> None:
    chance = Random(0)
    captions = [describe(sample(chance, symbols=0.1)) for _ in range(200)]
    polished = rules.load("")([decorated(caption, chance) for caption in captions])
    assert [one.prompt for one in polished] == captions
    assert [bool(one.unsafe) for one in polished] == ["hate symbol" in caption for caption in captions]


@pytest.mark.parametrize("modifier", MODIFIERS)
def test_every_modifier_goes(modifier: str) -> None:
    assert clean(f"two green stars on a black background, {modifier}") == "two green stars on a black background"


SUBJECTS = ["a cat", "portrait of emma watson", "a house by the sea", "an old map, candles", "3 d robot", "“ winter ”"]
LEFTOVERS = ["by", "and", "in the style of wlop", "the", "( x : 1. 2 )", "::2", "!!", "- n 4", "1 9 9 0 s"]
PARTS = st.sampled_from([*SUBJECTS, *MODIFIERS, *LEFTOVERS])
GAPS = st.sampled_from([", ", " ", ". ", " and ", " | ", " by ", " - ", ",", " with ", "; "])


@st.composite
def prompts(draw: st.DrawFn) -> str:
    parts = draw(st.lists(st.tuples(PARTS, GAPS), min_size=1, max_size=8))
    return "".join(part + gap for part, gap in parts)


@given(prompts() | st.text(max_size=60) | st.text(alphabet="ab18k -,.:;!?()[]'\"/+&", max_size=40))
@example("a 1 2 3 4 5 d, 4 k k, it ' s ' s")
def test_what_is_polished_stays_as_it_is(prompt: str) -> None:
    once = clean(prompt)
    assert clean(once) == once
    assert len(once) <= len(prompt) + 8
    assert once == " ".join(once.split())
    assert not once or (once[0] not in ",.;:!?|-/+&" and once[-1] not in ",.;:!?|-/+&")


@given(st.lists(prompts(), max_size=5))
def test_there_is_one_answer_for_each_prompt_in_order(several: list[str]) -> None:
    assert [one.prompt for one in rules.load("")(several)] == [clean(one) for one in several]


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        ("a nude woman on a couch", "sexual: nude"),
        ("naked man, 8k", "sexual: naked"),
        ("topless girl", "sexual: topless"),
        ("a woman in a transparent corset dress", "sexual: transparent corset dress"),
        ("a woman with a large bust", "sexual: large bust"),
        ("a zombie devouring a woman", "gore: devouring a woman"),
        ("a decapitated knight", "gore: decapitated"),
        ("a man covered in blood", "gore: covered in blood"),
        ("a hate symbol on a red background", "hate: hate symbol"),
        ("two hate symbols", "hate: hate symbols"),
        ("a neo - nazi rally", "hate: neo-nazi"),
        ("a girl cutting her wrists", "self-harm: cutting her wrists"),
        ("sexy schoolgirl", "minors: schoolgirl, sexy"),
        ("a 1 4 year old in a bikini", "minors: 14 year old, bikini"),
    ],
)
def test_harm_has_a_reason(prompt: str, reason: str) -> None:
    assert unsafe(prompt) == reason


@pytest.mark.parametrize(
    "prompt",
    [
        "a woman with nude lips, visible to the naked eye",
        "a naked mole rat, a blood orange and a blood moon",
        "a nuclear plant, the shoot of a plant, a cocktail, a mohawk, a peacock",
        "a warrior with a sword, a zombie, a bloodstained sweater, a battle",
        "a photo shoot of a bull in sussex, by edward gorey",
        "a kid with a balloon, a baby elephant, a teenager reading",
        "al gore in the suicide squad, no nudity",
        "a sexy dress, a bikini on a beach",
        "the grapes of wrath, a rapeseed field, a therapist, scunthorpe, essex",
        "a gothic lolita dress, anti - racism march",
        "a large bust of caesar, soldiers fighting nazi germany, a transparent vase, a sheer cliff",
        "a woman eating a human-shaped cookie, a man eating an apple, a monster eating a baby harp seal",
    ],
)
def test_what_only_looks_like_harm_is_none(prompt: str) -> None:
    assert unsafe(prompt) == ""


def test_the_rules_take_no_argument() -> None:
    with pytest.raises(UserError, match="take no argument"):
        rules.load("strict")


def test_importing_the_rules_is_light() -> None:
    heavy = "{'numpy', 'torch', 'openai', 'tokenizers'} & set(__import__('sys').modules)"
    done = subprocess.run(
        [sys.executable, "-c", f"import vpctl.polishers.rules; print(sorted({heavy}))"], capture_output=True, text=True
    )
    assert done.stdout == "[]\n", done.stderr
