"""What computes features: a frozen pretrained backbone, and the engine that runs it.

In reading order: device, backbone, network, engine.
"""
