"""Simple reversals (Lampinen et al. 2025, section 3.1): comparisons trained in one direction."""
