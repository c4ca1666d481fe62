"""MLflow's model registry: which version serves, why, and who served before.

In reading order:
promotion (the rule), versions, load, compare, history, proof, reload, register,
promote.
"""
