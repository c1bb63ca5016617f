"""Imported once by the process from which test_notebooks.py forks one for each notebook, since importing takes longer than most of them run.

Only what others wrote: the package itself is imported by each notebook anew.
"""
import warnings

with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    import cleanlab.filter  # noqa: F401
    import fastai.vision.all
    import nbdev.test
    import onnxruntime
    import onnxscript
    import sklearn.linear_model
    import timm  # noqa: F401
