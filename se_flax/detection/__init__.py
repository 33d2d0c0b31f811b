"""Object detection: Faster R-CNN with a feature pyramid, over the networks of this package."""
