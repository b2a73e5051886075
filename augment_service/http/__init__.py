"""The engines behind an OpenAI-compatible HTTP port: requests checked, gathered into batches, answered, counted."""
