"""How the head, and the backbone after it, learn.

In reading order:
loop, optim, early_stopping, features, feature_cache, stages, checkpoint, distributed, judge.
It is given an `on_epoch` and never a run.
"""
