"""The stages, each once: data, augmentation, training, evaluation. Studies and commands are compositions of them."""
