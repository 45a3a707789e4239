"""Models, images and prompts: from a name to inputs."""
