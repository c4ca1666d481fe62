"""Bytes in, answer out: the one way to classify, for training, commands and servers alike.

In reading order:
prediction, classifier, inputs, output, predict, explain, evaluate.
"""
