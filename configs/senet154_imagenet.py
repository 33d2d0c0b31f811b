"""SENet-154 on ImageNet, as far as the SE paper tells (arXiv:1709.01507, appendix).

Batch 2048 with learning rate 1.0, label smoothing, and dropout of 0.2 before the classifier, which
is part of the network; the rest as in imagenet_recipe.py. Of label smoothing the paper only cites
Szegedy et al. (arXiv:1512.00567), whose 0.1 is used. It froze batch norm in "the last few
training epochs", which is not done here.
"""

from ml_collections import ConfigDict

from configs.imagenet_recipe import imagenet_recipe


def get_config() -> ConfigDict:
    config = imagenet_recipe("senet154")
    config.batch_size = 2048
    config.optimizer.learning_rate = 1.0
    config.optimizer.base_batch_size = 2048
    config.label_smoothing = 0.1
    return config
