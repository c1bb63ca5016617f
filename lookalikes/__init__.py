"""Tell lookalikes apart: a workbook and library for building, cleaning, training and shipping image classifiers"""

__version__ = "0.1.0"
