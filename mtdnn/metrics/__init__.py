"""Prediction records → numbers. Every file here is imported with the folder, so that each metric registers itself."""

from importlib import import_module
from pkgutil import iter_modules

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
