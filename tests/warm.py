"""Imported once by the process from which tests fork notebooks, scripts and commands (`warm` in conftest.py), since importing takes longer than most of them run.

Only what others wrote: the package itself is imported by each of them anew.
"""
import gc
import importlib
import warnings

gc.disable()    # collecting while importing finds nothing and takes a quarter of the time
with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    for o in 'fastai.vision.all', 'timm', 'onnxruntime', 'onnxscript', 'sklearn.linear_model', 'cleanlab.filter', 'nbdev.test': importlib.import_module(o)
gc.freeze()
gc.enable()
