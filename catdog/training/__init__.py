"""How the head, and the backbone after it, learn.

In reading order:
loop, state, features, stages, pixels, loaders, judge, checkpoint, named; of several
processes: launch, distributed, alive, following.
It is given an `on_epoch` and never a run.
"""
