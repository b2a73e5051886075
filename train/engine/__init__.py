"""DeepSpeed ZeRO, training states, checkpoints."""
