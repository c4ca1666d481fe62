"""Arrays in, numbers out: how good answers are, how sure that is, and where they are worse.

In reading order: calibration, intervals, metrics, comparison, novelty, slices, audit.
Nothing here runs a backbone: `novelty`, part of the served model, works on features, and `slices`
looks at pictures.
"""
