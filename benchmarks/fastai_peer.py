"fastai as its book uses it, on the bundled weights: what training is measured against."
import machine  # before torch: it hides accelerators from both sides, where both run on the processor
import torch
from fastai.data.block import CategoryBlock, DataBlock
from fastai.data.transforms import ColReader, ColSplitter, Normalize
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.metrics import error_rate
from fastai.torch_core import params
from fastai.vision.augment import Resize, aug_transforms
from fastai.vision.data import ImageBlock
from fastai.vision.learner import TimmBody, add_head
from torch import nn

from lookalikes.backbone import DEFAULT, Backbone
from lookalikes.imageset import n_cores


def three_groups(model):
    "Early layers, late layers and head, as fastai divides a resnet, so that `fine_tune` gives each its learning rate."
    body, head = model
    net = body.model
    late = nn.ModuleList([*net.blocks[len(net.blocks)//2:], net.conv_head, net.bn2])
    ids = {id(p) for p in late.parameters()}
    return [[p for p in params(body) if id(p) not in ids], params(late), params(head)]


def peer_learner(images, size=224, batch_size=64):
    "What `vision_learner` builds from a timm name, on our weights, with the loaders of chapter 5 of fastai's book: presizing to 460, augmented crops of `size`."
    prep = Backbone.named(DEFAULT).prep
    df = images.df[images.df.split.isin(['train', 'valid'])].assign(is_valid=lambda d: d.split == 'valid')[['file', 'label', 'is_valid']]
    block = DataBlock((ImageBlock, CategoryBlock), get_x=ColReader('file', pref=f'{images.path}/'), get_y=ColReader('label'), splitter=ColSplitter(),
                      item_tfms=Resize(460), batch_tfms=[*aug_transforms(size=size, min_scale=.75), Normalize.from_stats(prep.mean, prep.std)])
    dls = block.dataloaders(df, bs=min(batch_size, int((~df.is_valid).sum())), num_workers=n_cores(), device=torch.device('cuda' if machine.ON_GPU else 'cpu'))
    net = Backbone.named(DEFAULT).model()
    model = add_head(TimmBody(net), net.num_features, dls.c)
    return Learner(dls, model, loss_func=CrossEntropyLossFlat(), metrics=error_rate, splitter=three_groups)


def quietly(learn, train):
    "`train(learn)` without a bar or a log."
    with learn.no_bar(), learn.no_logging(): train(learn)
    return learn
