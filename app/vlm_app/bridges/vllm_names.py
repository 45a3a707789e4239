"""The environment variables that say what acts inside vLLM."""

PROFILE = "VLM_HEADS_PROFILE"  # for all requests: a folder of a profile, or the word of a method of static gains
PROFILES = "VLM_HEADS_PROFILES"  # a JSON file: the name that requests use -> the same
