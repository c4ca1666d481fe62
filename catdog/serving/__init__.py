"""The registered model behind a page, behind HTTP, and on Spark.

In reading order: server, app, export, spark.
"""
