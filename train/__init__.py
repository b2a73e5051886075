"""Weights move here and nowhere else: batches, ZeRO settings, the DeepSpeed loop, checkpoints, pretraining."""
