"""Counts the ranking patterns of ImageReward's test labels, for the tests of the definitions of accuracy.

    python tests/report/imagereward_patterns.py test.json

`test.json` is the file data/test.json of THUDM/ImageReward, a list of objects with `ranking`: the rank of each picture
of a prompt, 1 for the best, with ties. This writes ``imagereward_patterns.json`` beside this file: how often each
pattern occurs. A pattern is the number of pictures at each rank, the best first: "1,2,1" is one picture, two that are
equally good, and one more.
"""

import json
import sys
from collections import Counter
from pathlib import Path

TABLE = Path(__file__).with_suffix(".json")


def pattern(ranking: list[int]) -> str:
    """The numbers of pictures at each rank, the best first."""
    counts = Counter(ranking)
    return ",".join(str(counts[rank]) for rank in sorted(counts))


def rankings() -> list[list[int]]:
    """A ranking for each item of the table, with ranks from 1 without gaps: [1, 2, 2, 3] for the pattern 1,2,1."""
    return [
        [rank for rank, size in enumerate(map(int, sizes.split(",")), 1) for _ in range(size)]
        for sizes, number in json.loads(TABLE.read_text()).items()
        for _ in range(number)
    ]


def main(source: str) -> None:
    """Write the table of the labels in a file."""
    counts = Counter(pattern(item["ranking"]) for item in json.loads(Path(source).read_text()))
    TABLE.write_text(json.dumps(dict(sorted(counts.items(), key=lambda one: (-one[1], one[0]))), indent=1) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
