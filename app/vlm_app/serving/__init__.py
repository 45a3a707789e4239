"""A server that speaks OpenAI's chat completions; its answers are `VLM.answer`'s."""
