"""Scores, intervals, trade-offs, the table and the report: variants of one base side by side. No UI."""
