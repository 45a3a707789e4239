"""Whole captions are timed in turns, and what a method asks itself counts."""

from tests.support.command import Command


def test_bench_captions_counts_what_a_method_asks_itself(command: Command) -> None:
    """Three captions in batches of two, so one is alone; a limit of one token leaves one token a caption."""
    words = ["--model", "mini", "--captions", 3, "--batch", 2, "--tokens", 1, "--rounds", 2, "--json"]
    ways = command("bench", "captions", *words, "--with", "m3id", "--with", "vhr askback").value["ways"]
    assert set(ways) == {"plain", "m3id", "vhr askback"}
    assert [ways["plain"][name] for name in ("ratio", "ratio_least", "ratio_most")] == [1.0, 1.0, 1.0]
    assert all(
        row["tokens"] == 1.0 and row["ratio_least"] <= row["ratio"] <= row["ratio_most"] for row in ways.values()
    )
    assert ways["vhr askback"]["seconds"] > ways["plain"]["seconds"] > 0.0
