"""Everything a lesson's reader needs, for notebooks: `from lookalikes.all import *`."""
from lookalikes.audit import Audit, audit, write_audit
from lookalikes.backbone import Backbone, Features, embed
from lookalikes.batch import predict_csv
from lookalikes.build import Built, Credits
from lookalikes.calibration import Calibration
from lookalikes.circles import draw_circles
from lookalikes.classifier import BundleError, Classifier
from lookalikes.clean import label_issues, leaks, merge_duplicates, outliers
from lookalikes.cleaner import Cleaner
from lookalikes.confidence import auroc, calibrate, plot_scores
from lookalikes.copies import Copies, find_copies
from lookalikes.decisions import Decisions, quarantine, relabel, restore
from lookalikes.defects import plant, planted
from lookalikes.draw import circles, draw, draw_mask, draw_picture, lesson_images, truth
from lookalikes.embedding_map import EmbeddingMap
from lookalikes.engines import Local, Ray
from lookalikes.fetch import Fetched, fetch
from lookalikes.gallery import Gallery
from lookalikes.heatmaps import Heatmap, deletion_curve, heatmap, occlusion
from lookalikes.imageset import ImageSet
from lookalikes.interpret import Versus
from lookalikes.loaders import Augment, image_loaders
from lookalikes.measures import Measures
from lookalikes.picture import ImageError, Preprocess, contact_sheet, open_image
from lookalikes.predictions import Predictions, predict
from lookalikes.probe import Probe, cross_validate, fit_probe, learning_curve, plot_learning_curve
from lookalikes.quality import quality_issues
from lookalikes.recipe import Recipe, RecipeError
from lookalikes.report import Chart, write_report
from lookalikes.scoring import score
from lookalikes.search import Ask, Found, Hit, find, register, source
from lookalikes.shards import Shards
from lookalikes.ship import model_card, ship
from lookalikes.shortcuts import cheats, control_matrix, fit_counter, measure, plot_cheats, shortcuts
from lookalikes.space import space
from lookalikes.stats import ErrorRate, PairedTest, bootstrap, mcnemar, sign_flip, wilson
from lookalikes.train import Ensemble, Ladder, Views, finetune, image_learner, ladder
from lookalikes.web import Limits

__all__ = ['Ask', 'Audit', 'Augment', 'Backbone', 'Built', 'BundleError', 'Calibration', 'Chart', 'Classifier', 'Cleaner', 'Copies', 'Credits', 'Decisions',
           'EmbeddingMap', 'Ensemble', 'ErrorRate', 'Features', 'Fetched', 'Found', 'Gallery', 'Heatmap', 'Hit', 'ImageError', 'ImageSet', 'Ladder',
           'Limits', 'Local', 'Measures', 'PairedTest', 'Predictions', 'Preprocess', 'Probe', 'Ray', 'Recipe', 'RecipeError', 'Shards', 'Versus', 'Views', 'audit', 'auroc',
           'bootstrap', 'calibrate', 'cheats', 'circles', 'contact_sheet', 'control_matrix', 'cross_validate', 'deletion_curve', 'draw',
           'draw_circles', 'draw_mask', 'draw_picture', 'embed', 'fetch', 'find', 'find_copies', 'finetune', 'fit_counter', 'fit_probe', 'heatmap',
           'image_learner', 'image_loaders', 'label_issues', 'ladder', 'leaks', 'learning_curve', 'lesson_images', 'mcnemar', 'measure',
           'merge_duplicates', 'model_card', 'occlusion', 'open_image', 'outliers', 'plant', 'planted', 'plot_cheats', 'plot_learning_curve', 'plot_scores',
           'predict', 'predict_csv', 'quality_issues', 'quarantine', 'register', 'relabel', 'restore', 'score', 'ship', 'shortcuts', 'sign_flip', 'source', 'space', 'truth',
           'wilson', 'write_audit', 'write_report']
