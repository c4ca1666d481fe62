"""What a picture is, and where it lies: from an archive to a prepared data set.

In reading order:
classes, images, archive, sources, metadata, dataset, ingest, split, prepare, transforms,
loaders, ood_images.
"""
