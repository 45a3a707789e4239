"""A metric of your own, how often answers hedge: `vlm-heads judge toy FILE` finds it by your package's entry point.

In its pyproject.toml, under [project.entry-points."vlm_evals.metrics"]: toy = "new_metric:TOY"
"""

import re
from pathlib import Path

from vlm_evals.metric import Judging, Metric, Option, Scored
from vlm_evals.ratios import Ratio
from vlm_evals.records import Score, read_rows

HEDGES = {"maybe", "perhaps", "possibly", "probably", "might"}


def read(file: Path, fewest: int = 1) -> Scored:
    """Return one score an answer, from JSON lines of `id` and `text`; it hedges with `fewest` such words or more."""
    scores = []
    for _, row in read_rows(file):
        hedges = [word for word in re.findall(r"\w+", row["text"].lower()) if word in HEDGES]
        counts = {"answers": 1, "hedging": int(len(hedges) >= fewest), "hedges": len(hedges)}
        scores.append(Score(key=str(row["id"]), unit=str(row["id"]), counts=counts, evidence={"hedges": hedges}))
    return Scored(scores, {"fewest": fewest})


TOY = Metric(
    name="toy",
    title="Hedging",
    items="answers",
    ratios={name: Ratio(name, "answers", "there is no answer") for name in ("hedging", "hedges")},
    labels={"hedging": "answers that hedge", "hedges": "hedges per answer"},
    numbers=frozenset({"hedges"}),
    headline="hedging",
    judging=Judging(
        help="Count hedges in answers.",
        file=Option("file", "Answers: JSON lines of id and text.", Path),
        options=(Option("fewest", "Hedges that make an answer hedge.", int, default=1),),
        read=read,
    ),
)
