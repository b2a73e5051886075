"""Process knowledge (Lampinen et al. 2025): a transform of functions with uncommon rules, like a derivative."""
