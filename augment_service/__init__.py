"""The model as a service: engines that generate and score, the actor that hosts one, and the augmentation methods."""
