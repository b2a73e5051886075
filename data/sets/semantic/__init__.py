"""Semantic structure (Lampinen et al. 2025, section 3.4): a hierarchy of categories with properties and relations."""
