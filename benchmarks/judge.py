"""What each way of asking is worth: agreement with the truth of a simulated judge, and what it costs.

A local server plays a language model that judges pictures. It knows the true quality of each picture, and misjudges it:

- it sees each picture a little better or worse than it is, always in the same way
- it sees it differently in every other call, and more so if the picture is alone
- it likes the picture that it is shown first, and dislikes the last one
- it has five levels. It uses the middle ones most, so many pictures tie
- its ranking has more noise than its levels, and often contradicts them

`vpctl annotate` asks it about real files in each way, and `vpctl merge` makes pairs of its judgements. Agreement is the
share of all pairs of pictures of a prompt that are decided as the truth decides them; a tie counts half. The cost is
that of gpt-4o, with the tokens and the cached tokens that the server counts. The last column is the agreement that more
passes of --mode list reach at the same cost, on the line between the nearest numbers of passes. Run from the root of
the repository with: python -m benchmarks.judge
"""

import base64
import io
import math
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, pairwise
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import orjson
from PIL import Image

from tests.servers import JSON, Server, Tokens, parts, schema_of
from vpctl import progress
from vpctl.commands.annotate import annotate
from vpctl.commands.merge import merge

PROMPTS, PICTURES = 400, 4
CUTS = (-1.8, -0.9, 0.2, 1.4)
"""Where one level ends and the next begins, in standard deviations of the true quality."""
RUBRIC = "# Quality\n\nHow good is the picture?\n\n1. Bad: x\n2. Poor: x\n3. Fair: x\n4. Good: x\n5. Excellent: x\n"


@dataclass(frozen=True)
class Judge:
    """The standard deviations of its errors, in units of the true quality, and its habits.

    - lasting: the same in every call; changing: new in every call about several pictures; alone: added with one picture
    - place: what it adds to the first picture, and subtracts from the last
    - ranking: added to what it sees when it ranks; contradicts: the share of rankings with two places exchanged
    - doubt: the width of its doubt between two levels, which its probabilities show
    - tie: the least difference that it prefers in a comparison
    """

    lasting: float = 0.5
    changing: float = 0.5
    alone: float = 0.4
    place: float = 0.3
    ranking: float = 0.4
    contradicts: float = 0.3
    doubt: float = 0.4
    tie: float = 0.1

    def answer(self, body: JSON, chance: Random) -> Tokens:
        """The answer to a request, with the probabilities of its levels."""
        urls = [part["image_url"]["url"] for part in parts(body) if part["type"] == "image_url"]
        shown = [_identity(url) for url in urls]
        letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[: len(shown)]
        call = Random(repr(shown))  # the same order of the same pictures is seen in the same way
        seen = [truth(one) + Random(f"seen {one}").gauss(0, self.lasting) for one in shown]
        seen = [one + call.gauss(0, self.changing) for one in seen]
        if len(shown) == 1:
            seen = [seen[0] + call.gauss(0, self.alone)]
        else:
            seen = [one + self.place * (1 - 2 * place / (len(seen) - 1)) for place, one in enumerate(seen)]
        keys = (schema_of(body) or {})["properties"]
        if "preferred" in keys:
            difference = seen[0] - seen[1]
            choice = "tie" if abs(difference) < self.tie else "A" if difference > 0 else "B"
            return Tokens([{orjson.dumps({"A": REASON, "B": REASON, "preferred": choice}).decode(): 1.0}])
        places: list[Mapping[str, float]] = [{"{": 1.0}]
        levels = []
        for letter, one in zip(letters, seen, strict=True):
            among = self.probabilities(one)
            level = _drawn(among, float(body.get("temperature", 1)), chance)
            levels.append(int(level))
            places += [{f'"{letter}":{{"because":"{REASON}","level":"': 1.0}, {level: among[level], **among}]
            places.append({'"},' if letter != letters[-1] else '"}': 1.0})
        if "ranking" in keys:
            asked = "Do not rank" not in orjson.dumps(body["messages"]).decode()
            ranking = self.ranked(letters, seen, levels, call) if asked else []
            places.append({f',"ranking":{orjson.dumps(ranking).decode()}': 1.0})
        return Tokens([*places, {"}": 1.0}])

    def probabilities(self, seen: float) -> dict[str, float]:
        """The probability of each level for what it sees."""
        below = [0.0, *(_normal((cut - seen) / self.doubt) for cut in CUTS), 1.0]
        return {str(level): high - low for level, (low, high) in enumerate(pairwise(below), 1)}

    def ranked(self, letters: str, seen: list[float], levels: list[int], call: Random) -> list[str]:
        """Its ranking: by level and by a second look, and then sometimes with two places exchanged."""
        again = [one + call.gauss(0, self.ranking) for one in seen]
        order = sorted(range(len(seen)), key=lambda place: (-levels[place], -again[place]))
        if call.random() < self.contradicts:
            first, second = call.sample(range(len(order)), 2)
            order[first], order[second] = order[second], order[first]
        return [letters[place] for place in order]


REASON = "The composition is balanced, the light is soft, and the colours fit the subject well. " * 2


def truth(number: int) -> float:
    """The true quality of a picture, from a normal distribution."""
    return Random(f"truth {number}").gauss(0, 1)


@lru_cache(PROMPTS * PICTURES)
def _identity(url: str) -> int:
    """The number of a picture, which is the colour of its pixels."""
    with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as picture:
        red, green, blue = picture.convert("RGB").getpixel((0, 0))  # type: ignore[misc]
    return int(red) << 16 | int(green) << 8 | int(blue)


def _normal(x: float) -> float:
    return (1 + math.erf(x / math.sqrt(2))) / 2


def _drawn(among: Mapping[str, float], temperature: float, chance: Random) -> str:
    if not temperature:
        return max(among, key=lambda level: among[level])
    weights = [max(p, 1e-12) ** (1 / temperature) for p in among.values()]
    return chance.choices([*among], weights)[0]


class Result(NamedTuple):
    """Agreement with the truth and its standard error, share of ties, accuracy of the pairs, and dollars per prompt."""

    agreement: float
    error: float
    ties: float
    accuracy: float
    cost: float


def run(judge: Judge, folder: Path, *, rank: bool = True, use: bool = True, **how: Any) -> Result:
    """What annotate and merge make of the judge's answers. Without `rank`, no ranking is asked for."""
    name = f"quality{'' if rank else '-unranked'}.md"
    (folder / name).write_text(RUBRIC if rank else f"---\nranking: none\n---\n{RUBRIC}")
    chance = Random(1)
    judgements, pairs = str(folder / "judgements.jsonl"), str(folder / "pairs.jsonl")
    for path in (judgements, pairs):
        Path(path).unlink(missing_ok=True)
    records = str(folder / "metadata.jsonl")
    with Server(answer=lambda body: judge.answer(body, chance), caches=True, cache_from=1024) as server:
        asking: dict[str, Any] = {"annotator": "openai:gpt-4o", "aspect": [str(folder / name)], "base_url": server.url}
        annotate(records, judgements, **asking, **how)
    merge([judgements], pairs, break_ties="ranking" if use else "none")
    cost = sum(record.get("usage", {}).get("cost", 0.0) for record in _lines(judgements)) / PROMPTS
    return result(list(_lines(pairs)), cost)


def result(pairs: list[JSON], cost: float) -> Result:
    """Compare the pairs of all prompts with the truth."""
    decided = {(pair["chosen_image_id"], pair["rejected_image_id"]) for pair in pairs}
    agreed, ties, right = [], 0, 0
    for prompt in range(PROMPTS):
        values = []
        for first, second in combinations(range(prompt * PICTURES, (prompt + 1) * PICTURES), 2):
            better, worse = (first, second) if truth(first) > truth(second) else (second, first)
            hit, miss = (str(better), str(worse)) in decided, (str(worse), str(better)) in decided
            values.append(1.0 if hit else 0.0 if miss else 0.5)
            ties += not (hit or miss)
            right += hit
        agreed.append(statistics.mean(values))
    count = PROMPTS * PICTURES * (PICTURES - 1) // 2
    error = statistics.stdev(agreed) / math.sqrt(PROMPTS)
    return Result(statistics.mean(agreed), error, ties / count, right / (count - ties), cost)


def _lines(path: str) -> Iterator[JSON]:
    for line in Path(path).read_bytes().splitlines():
        yield orjson.loads(line)


def draw(folder: Path) -> None:
    """Write the pictures, whose colours are their numbers, and their records."""
    lines = []
    for number in range(PROMPTS * PICTURES):
        path = folder / f"{number}.png"
        Image.new("RGB", (512, 512), (number >> 16, number >> 8 & 255, number & 255)).save(path)
        record = {"prompt": f"prompt {number // PICTURES}", "image_id": str(number), "file_name": path.name}
        lines.append(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))
    (folder / "metadata.jsonl").write_bytes(b"".join(lines))


WAYS: dict[str, dict[str, Any]] = {
    "list, no ranking": {"rank": False},
    "list, ranking not used": {"use": False},
    "list": {},
    "list, --break-ties of annotate": {"break_ties": True},
    "list, --logprobs": {"logprobs": True},
    "list, --samples 4 at 0.7": {"samples": 4, "temperature": 0.7},
    "list, 4 passes, no ranking": {"rank": False, "passes": 4},
    "list, 4 passes": {"passes": 4},
    "list, 4 passes, --logprobs": {"passes": 4, "logprobs": True},
    "point": {"mode": "point"},
    "point, --logprobs": {"mode": "point", "logprobs": True},
    "pair": {"mode": "pair"},
}
JUDGES = {
    "the judge above": Judge(),
    "no preference for a place": Judge(place=0.0),
    "twice that preference, half the other noise": Judge(lasting=0.25, changing=0.25, alone=0.2, place=0.6),
    "probabilities that show hardly any doubt": Judge(doubt=0.05),
    "a ranking at random within a level": Judge(ranking=100.0, contradicts=0.6),
}
CURVE = (1, 2, 3, 4, 6, 8)
"""Numbers of passes of --mode list, for what the same cost buys."""


def at_cost(curve: list[Result], cost: float) -> str:
    """The agreement on the line through these results at a cost; empty outside of it."""
    for low, high in pairwise(curve):
        if low.cost <= cost <= high.cost:
            share = (cost - low.cost) / (high.cost - low.cost)
            return f"{low.agreement + share * (high.agreement - low.agreement):.1%}"
    return ""


def main() -> None:
    """Print a table for each judge: the first one in all ways, the others in those that the defaults depend on."""
    os.environ["OPENAI_API_KEY"] = "none"
    progress.begin("judge", quiet=True)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        draw(folder)
        for title, judge in JUDGES.items():
            curve = [run(judge, folder, passes=passes) for passes in CURVE] if judge == Judge() else []
            print(f"{title}\n{'':34}agreement       ties  right pairs  cents/prompt  list at this cost")
            for name, how in WAYS.items():
                if curve or "ranking" in name or name in ("list", "list, 4 passes", "list, --logprobs"):
                    one = run(judge, folder, **how)
                    print(
                        f"{name:34}{one.agreement:.1%} ± {one.error:.1%}{one.ties:>8.1%}{one.accuracy:>12.1%}"
                        f"{100 * one.cost:>14.3f}{at_cost(curve, one.cost):>15}"
                    )
                    sys.stdout.flush()
            print()


if __name__ == "__main__":
    main()
