"""Simple reversals and simple syllogisms (Lampinen et al. 2025, sections 3.1 and 3.2) at full size, in English."""
