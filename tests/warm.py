"""Imported once by the process from which test_notebooks.py forks one for each notebook, since importing takes longer than most of them run.

Only what others wrote: the package itself is imported by each notebook anew.
"""
import importlib
import warnings

with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    for o in 'fastai.vision.all', 'timm', 'onnxruntime', 'onnxscript', 'sklearn.linear_model', 'cleanlab.filter', 'nbdev.test': importlib.import_module(o)
