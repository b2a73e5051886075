"""Generated sets: their lexicon, their statements, what follows from them, and a folder for each set.

Each set has two sizes side by side: a small one in the embedded model's lexicon, a full one in English.
"""
