"""Makes the embedded model from scratch: fresh nonsense worlds in, an in-context learner out."""
