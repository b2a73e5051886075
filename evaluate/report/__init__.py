"""The report: statistics to tables, figures, claims and a page."""
