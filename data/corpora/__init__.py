"""Corpora of the user's: files of many kinds become documents; what cannot is set aside with its line."""
