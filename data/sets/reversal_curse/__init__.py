"""The reversal curse (Berglund et al. 2023; Lampinen et al. 2025, section 3.3): generator and published files."""
