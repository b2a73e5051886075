"""Nonsense worlds: their lexicon, their statements, everything that follows from them, and the sets made of them."""
