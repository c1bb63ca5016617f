"""What a reader of the lessons types in cells of their own, for notebooks: `from lookalikes.all import *`."""
# A name is here when the code of a lesson or of the front page uses it, or its prose offers it. What such a function gives (an `Audit`,
# a `Probe`, a `Ladder`) needs no name here, since nobody makes one by hand; and what a lesson takes from inside to show how something
# works it imports from its module, as the module's page says.
# One paragraph of docstring, because nbdev-export lists a module that says more in the package's own.
import lookalikes.build  # lessons 1 and 5 add methods to Recipe, ImageSet and Predictions
import lookalikes.interpret  # noqa: F401
from lookalikes.audit import audit
from lookalikes.backbone import Backbone, embed
from lookalikes.batch import predict_csv
from lookalikes.calibration import Calibration
from lookalikes.circles import draw_circles
from lookalikes.classifier import BundleError, Classifier
from lookalikes.clean import label_issues, leaks, merge_duplicates, outliers
from lookalikes.cleaner import Cleaner
from lookalikes.confidence import auroc, calibrate, plot_scores
from lookalikes.decisions import Decisions, quarantine, relabel, restore
from lookalikes.defects import plant, planted
from lookalikes.draw import draw, draw_mask, lesson_images, truth
from lookalikes.engines import Local, Ray
from lookalikes.gallery import Gallery
from lookalikes.heatmaps import Heatmap, heatmap
from lookalikes.imageset import ImageSet
from lookalikes.loaders import Augment
from lookalikes.picture import contact_sheet, open_image
from lookalikes.predictions import Predictions, predict
from lookalikes.probe import cross_validate, fit_probe, learning_curve, plot_learning_curve
from lookalikes.recipe import Recipe
from lookalikes.scoring import score
from lookalikes.search import Ask, Hit, find, register, source
from lookalikes.shards import Shards
from lookalikes.ship import model_card, ship
from lookalikes.shortcuts import cheats, control_matrix, fit_counter, measure, plot_cheats, shortcuts
from lookalikes.space import space
from lookalikes.stats import ErrorRate, mcnemar, sign_flip, wilson
from lookalikes.train import Ensemble, Views, finetune, image_learner, ladder
from lookalikes.web import Limits

try: from lookalikes.serve import serve
except ModuleNotFoundError as e:
    missing = e.name

    def serve(*args, **kwargs):
        "Stands in for `lookalikes.serve.serve` where the extra `serve` is not installed, and says so: ImportError."
        raise ImportError(f"{missing} is missing; serving needs pip install 'lookalikes[serve]'")

__all__ = ['Ask', 'Augment', 'Backbone', 'BundleError', 'Calibration', 'Classifier', 'Cleaner', 'Decisions', 'Ensemble', 'ErrorRate', 'Gallery',
           'Heatmap', 'Hit', 'ImageSet', 'Limits', 'Local', 'Predictions', 'Ray', 'Recipe', 'Shards', 'Views', 'audit', 'auroc', 'calibrate',
           'cheats', 'contact_sheet', 'control_matrix', 'cross_validate', 'draw', 'draw_circles', 'draw_mask', 'embed', 'find', 'finetune',
           'fit_counter', 'fit_probe', 'heatmap', 'image_learner', 'label_issues', 'ladder', 'leaks', 'learning_curve', 'lesson_images', 'mcnemar',
           'measure', 'merge_duplicates', 'model_card', 'open_image', 'outliers', 'plant', 'planted', 'plot_cheats', 'plot_learning_curve',
           'plot_scores', 'predict', 'predict_csv', 'quarantine', 'register', 'relabel', 'restore', 'score', 'serve', 'ship', 'shortcuts',
           'sign_flip', 'source', 'space', 'truth', 'wilson']
