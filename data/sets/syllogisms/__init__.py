"""Simple syllogisms (Lampinen et al. 2025, section 3.2): pairs of premises with one conclusion."""
