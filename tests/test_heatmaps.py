"Heatmaps: one answer from every kind of model, and no structure left when there is no knowledge."
import io

import numpy as np
import pytest
import torch
from conftest import at_length
from PIL import Image
from scipy.stats import spearmanr

from lookalikes.backbone import Backbone
from lookalikes.classifier import Classifier
from lookalikes.draw import draw, draw_mask
from lookalikes.heatmaps import answering, deletion_curve, grad_cam, heatmap, occlusion, on_mask
from lookalikes.loaders import Augment
from lookalikes.picture import ImageError
from lookalikes.probe import Probe, fit_probe
from lookalikes.ship import ship
from lookalikes.train import Ensemble, Views, finetune, image_learner


@pytest.fixture(scope='module')
def images(): return draw('chihuahua_or_muffin', 14, size=96).split(valid=.2, test=.2, seed=0)


@pytest.fixture(scope='module')
def probe(images): return fit_probe(images)


def picture(images, label, k=0): return images.path/images.df.file[images.df.label == label].iloc[k]


def head_of(probe):
    weight, bias = torch.from_numpy(probe.weight), torch.from_numpy(probe.bias)
    eps = .01
    return lambda x: (x.sign()*((x.abs()+eps).sqrt()-eps**.5)) @ weight.T + bias


def test_probe_bundle_and_gradients_agree(images, probe, tmp_path):
    clf = ship(probe, tmp_path/'model')
    for label in (None, *images.classes):
        f = picture(images, 'muffin')
        a, b = heatmap(probe, f, label), heatmap(clf, f, label)
        slow, logits = grad_cam(probe.backbone.model(), head_of(probe), np.asarray(a.picture), probe.backbone.prep, probe.classes.index(a.label))
        assert a.method == b.method == 'Grad-CAM' and a.label == b.label == (label or probe.classes[logits.argmax()])
        np.testing.assert_allclose(a.values, b.values, atol=1e-4)
        np.testing.assert_allclose(a.values, np.maximum(slow, 0), atol=1e-3*max(1e-3, np.abs(slow).max()))
        assert a.confidence == pytest.approx(b.confidence, abs=1e-3)


# ways of going from maps to features: torchvision's means, a convolution after timm's, tokens; nbs/parts/29_trunk.ipynb takes others apart, too
@pytest.mark.parametrize('name, inside', [('resnet18', True), ('mobilenetv3_small_050', False), pytest.param('vit_tiny_patch16_224', False, marks=at_length)])
def test_other_networks(images, tmp_path, name, inside):
    b = Backbone.named(name, pretrained=False)
    rng = np.random.default_rng(0)
    with torch.no_grad(): d = b.model()(torch.zeros(1, 3, b.prep.size, b.prep.size)).shape[1]
    p = Probe(b, ['a', 'b', 'c'], rng.normal(0, 1, (3, d)).astype(np.float32), np.zeros(3, np.float32), .01, {}, None)
    f = picture(images, 'muffin')
    mine = heatmap(p, f, 'b')
    slow, _ = grad_cam(b.model(), head_of(p), np.asarray(mine.picture), b.prep, 1)
    assert mine.method == 'Grad-CAM' and mine.values.ndim == 2 and min(mine.values.shape) >= 7
    np.testing.assert_allclose(mine.values, np.maximum(slow, 0), atol=1e-3*np.abs(slow).max()+1e-7)
    theirs = heatmap(ship(p, tmp_path/'model'), f, 'b')
    assert theirs.method == ('Grad-CAM' if inside else 'occlusion') and theirs.label == 'b'
    if inside: np.testing.assert_allclose(mine.values, theirs.values, atol=1e-3*np.abs(slow).max()+1e-7)


@pytest.fixture(scope='module')
def learner(images, probe):
    learn = image_learner(images, probe=probe, size=96, bs=8, seed=0, augment=Augment(), progress=False)
    with learn.no_bar(), learn.no_logging(): return finetune(learn, 1, 3e-4)


def test_a_learner_and_its_bundle(images, learner, tmp_path):
    f = picture(images, 'dalmatian')
    before = {k: v.clone() for k, v in learner.model.state_dict().items()}
    a, b = heatmap(learner, f), heatmap(ship(learner, tmp_path/'model'), f)
    assert a.label == b.label and a.values.shape == (3, 3) and a.picture.size == (96, 96)
    np.testing.assert_allclose(a.values, b.values, atol=1e-3*max(a.values.max(), 1e-3))
    assert all(torch.equal(v, before[k]) for k, v in learner.model.state_dict().items())


def test_several_models_together(images, learner, probe):
    f = picture(images, 'dalmatian')
    assert heatmap(Views(learner), f).label == heatmap(learner, f).label
    both = heatmap(Ensemble([learner, Views(probe)]), f, 'muffin')
    assert both.label == 'muffin' and 0 <= both.values.min() and both.values.max() <= 1 + 1e-6
    assert both.confidence == pytest.approx((heatmap(learner, f, 'muffin').confidence + heatmap(probe, f, 'muffin').confidence)/2, abs=1e-3)


def test_on_the_subject_and_not_by_chance(images, probe):
    "The test of the pictures that the probe has not seen; `benchmarks/heatmaps.py` has more of them."
    exam = images.where(images.df.split != 'train').df
    found = [on_mask(heatmap(probe, images.path/r.file), draw_mask('chihuahua_or_muffin', r.label, 0, int(r.file[-8:-4])-1, 96), probe.backbone.prep) for r in exam.itertuples()]
    assert len(found) >= 20 and np.mean([o['hit'] for o in found]) >= .8
    assert np.mean([o['mass']-o['area'] for o in found]) > .15


def test_blurring_the_hottest_first(images, probe):
    exam, rng, less = images.where(images.df.split == 'test').df, np.random.default_rng(0), []
    for r in exam.itertuples():
        h = heatmap(probe, images.path/r.file)
        curve = deletion_curve(probe, h, 8)
        assert curve[0] == pytest.approx(h.confidence, abs=1e-4) and len(curve) == 9
        less.append(np.mean([deletion_curve(probe, h, 8, rng.random((8, 8))).mean() for _ in range(3)]) - curve.mean())
    assert np.mean(less) > 0 and np.mean(np.array(less) > 0) >= .6


def test_without_knowledge_no_structure(images, probe):
    "With weights in random order, the network's map has nothing to do with what it was (Adebayo et al., 2018)."
    net, rng = probe.backbone.model(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in net.parameters(): p.copy_(p.flatten()[torch.randperm(p.numel(), generator=rng)].view_as(p))
    weight, alike = torch.from_numpy(probe.weight), []
    for f in images.paths[:20]:
        h = heatmap(probe, f)
        same, _ = grad_cam(probe.backbone.model(), head_of(probe), np.asarray(h.picture), probe.backbone.prep, probe.classes.index(h.label))
        assert spearmanr(h.values.ravel(), np.maximum(same, 0).ravel()).statistic > .99
        other = np.maximum(grad_cam(net, lambda x: x @ weight.T, np.asarray(h.picture), probe.backbone.prep, probe.classes.index(h.label))[0], 0)
        alike.append(spearmanr(h.values.ravel(), other.ravel()).statistic if np.ptp(other) else 0)
    assert abs(np.mean(alike)) < .2


def test_any_kind_of_picture(images, probe):
    f = picture(images, 'muffin')
    im = Image.open(f)
    a, b, c = heatmap(probe, f), heatmap(probe, f.read_bytes()), heatmap(probe, im)
    np.testing.assert_allclose(a.values, b.values)
    np.testing.assert_allclose(a.values, c.values)
    shown = Image.open(io.BytesIO(a._repr_png_()))
    assert shown.size == (512, 256) and a.overlay().size == (256, 256)
    x, y = a.peak
    assert a.large()[y, x] == a.large().max() == 1


def test_bad_input(images, probe, tmp_path):
    (tmp_path/'page.jpg').write_text('<html>')
    with pytest.raises(ImageError, match='page.jpg'): heatmap(probe, tmp_path/'page.jpg')
    with pytest.raises(ValueError, match="no class 'cat': the model knows"): heatmap(probe, picture(images, 'muffin'), 'cat')
    with pytest.raises(TypeError, match='int'): heatmap(3, picture(images, 'muffin'))
    with pytest.raises(TypeError, match='int'): answering(3)
    flat = heatmap(probe, Image.new('RGB', (300, 200), 'grey'))
    assert np.isfinite(flat.large()).all() and occlusion(probe, Image.new('RGB', (300, 200), 'grey')).values.max() == 0


def test_a_bundle_from_before_there_was_evidence(images, probe, tmp_path):
    "It still answers, and shows what covering does."
    import onnx
    clf = ship(probe, tmp_path/'model')
    graph = onnx.load(tmp_path/'model/model.onnx')
    keep = [o for o in graph.graph.output if o.name == 'logits']
    del graph.graph.output[:]
    graph.graph.output.extend(keep)
    from lookalikes.classifier import Exported, Network, write_bundle
    old = Classifier.load(write_bundle(tmp_path/'old', Exported([Network(graph.SerializeToString(), probe.backbone.prep, {'weight': probe.weight})], probe.classes, {})))
    f = picture(images, 'muffin')
    assert old(f)['probabilities'] == pytest.approx(clf(f)['probabilities'], abs=1e-5) and heatmap(old, f).method == 'occlusion'
