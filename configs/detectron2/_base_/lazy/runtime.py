# Data, optimizer, 1x schedule and training of the lazy recipes: Detectron2's, with images as the published detectors
# have them. There is no precise BN in Detectron2's lazy training, unlike in the YAML recipes.
from detectron2 import model_zoo

from resnest_backbones.weights import DETECTOR_PIXELS

dataloader = model_zoo.get_config("common/data/coco.py").dataloader
dataloader.train.mapper.image_format = DETECTOR_PIXELS.channel_order
lr_multiplier = model_zoo.get_config("common/coco_schedule.py").lr_multiplier_1x
optimizer = model_zoo.get_config("common/optim.py").SGD
train = model_zoo.get_config("common/train.py").train
train.init_checkpoint = "resnest://resnest50"
