"""The embedded model `tiny`, and `pretrain`, which makes it from scratch."""
