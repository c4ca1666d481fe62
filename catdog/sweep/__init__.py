"""A search of the head's parameters: many short trials, then a training with the best.

In reading order: storage, study, trials, sweep.
"""
