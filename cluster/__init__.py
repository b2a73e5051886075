"""Where things run: the Ray session, placement, the pool of actors, the environment check. Knows nothing of models."""
