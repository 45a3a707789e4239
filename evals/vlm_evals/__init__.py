"""Measuring what a vision-language model invents: metrics by name, runs, comparisons, reports, and a world to try.

Scoring (`judge`, `registry`, `compare`, `report` and what they stand on) imports no torch. Only `answer` and
`experiment`, which ask a model, and `scenes`, the embedded world, import it.
"""
