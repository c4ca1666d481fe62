"""MLflow runs: what is logged, what is sent later, and which run goes on.

In reading order: store, run, log, images, spool, provenance, resume, trials.
"""
