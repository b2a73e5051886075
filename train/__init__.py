"""Finetuning and pretraining: texts, batches, the DeepSpeed loop, checkpoints, plans of memory."""
