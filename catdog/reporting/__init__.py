"""What is found about a run, as pictures, a report, a model card and last lines.

In reading order: findings, figures, svg, charts, report, page, model_card, summary.
"""
