"""MLflow runs: what is logged, what is sent later, and which run goes on.

In reading order: store, spool, provenance, log, run, resume, trials.
"""
