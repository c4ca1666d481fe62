"""Arrays in, numbers out: how good answers are, how sure that is, and where they are worse.

In reading order: calibration, intervals, metrics, comparison, novelty, slices, audit.
Nothing here runs a model; `slices` looks at pictures.
"""
