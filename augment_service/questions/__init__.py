"""Questions written from documents, and checked by likelihood: writers, distractors, checks, and the job of it all."""
