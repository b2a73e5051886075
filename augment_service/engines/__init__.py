"""Engines that generate and score: vLLM, an OpenAI-compatible endpoint, and a fake one for dry runs."""
