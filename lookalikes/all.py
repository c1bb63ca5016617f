"""Everything a lesson's reader needs, for notebooks: `from lookalikes.all import *`."""
from lookalikes.backbone import Backbone, Features, embed
from lookalikes.classifier import BundleError, Classifier
from lookalikes.draw import draw, draw_picture, lesson_images
from lookalikes.imageset import ImageSet
from lookalikes.picture import ImageError, Preprocess, contact_sheet, open_image
from lookalikes.predictions import Predictions, predict
from lookalikes.probe import Probe, cross_validate, fit_probe, learning_curve, plot_learning_curve
from lookalikes.report import Chart, write_report
from lookalikes.stats import ErrorRate, PairedTest, bootstrap, mcnemar, wilson

__all__ = ['Backbone', 'BundleError', 'Chart', 'Classifier', 'ErrorRate', 'Features', 'ImageError', 'ImageSet', 'PairedTest', 'Predictions',
           'Preprocess', 'Probe', 'bootstrap', 'contact_sheet', 'cross_validate', 'draw', 'draw_picture', 'embed', 'fit_probe', 'learning_curve',
           'lesson_images', 'mcnemar', 'open_image', 'plot_learning_curve', 'predict', 'wilson', 'write_report']
