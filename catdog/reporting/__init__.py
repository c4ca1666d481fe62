"""What is found about a run, as pictures, a report, a model card and last lines.

In reading order: findings, plots, report, model_card, summary.
"""
