"""The model asked about what it says: drafts, the objects they name, and questions on the picture's own keys."""
