"""What things are and where they rest: records, Arrow folders, worlds, sentences, prompts as text."""
