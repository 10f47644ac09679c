"""Regularizers by name: importing this folder imports all of its modules, which register theirs."""

from importlib import import_module
from pkgutil import iter_modules

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
