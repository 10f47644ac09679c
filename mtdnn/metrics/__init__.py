"""Prediction records → numbers. Importing the folder imports its files, so that every metric is registered."""

from importlib import import_module
from pkgutil import iter_modules

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
