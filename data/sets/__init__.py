"""Generated sets: their lexicon, their statements, what follows from them, and a folder for each set.

Each set has two sizes side by side: `small.py` in the embedded model's lexicon, `full.py` in English.
"""
