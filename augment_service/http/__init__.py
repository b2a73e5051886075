"""An OpenAI-compatible HTTP service over the engines: requests are validated, batched, answered and counted."""
