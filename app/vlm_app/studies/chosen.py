"""The metrics that the project's own studies measure: what captions invent, and what is answered about objects."""

CAPTIONS, QUESTIONS = "chair", "pope"
