"""What a gain on the image's route does to a model: which layers bear it, and where the probability goes."""
