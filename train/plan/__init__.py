"""What a run needs: model sizes, memory by ZeRO stage, FLOPs."""
