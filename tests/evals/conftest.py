"""What the tests of scoring share: no deadlines, because a busy machine is no defect of a parser."""

from hypothesis import settings

settings.register_profile("scoring", deadline=None)
settings.load_profile("scoring")
