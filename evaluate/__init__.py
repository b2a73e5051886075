"""Judgement: questions x conditions x checkpoints become scores, scores become a report."""
