"""The engine at an OpenAI-compatible endpoint: requests with retries, answers that are validated."""
