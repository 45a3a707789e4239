"""Asks a server that speaks OpenAI's chat completions what a local model would be asked."""
