"""Measuring what a vision-language model invents: CHAIR and POPE, runs, comparisons, reports, and a world to try them.

Scoring (`judge`, `chair`, `pope`, `compare`, `report` and what they stand on) imports no torch; only `answer`, which
asks a model, and `scenes`, the embedded world, do.
"""
