"""What the processes of `forks.py` have in common: imported once, with one thread for each of them."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported

import accelerate.utils
import matplotlib.pyplot
import scipy.stats
import sklearn.metrics
import torch.distributed.fsdp
import torch.distributed.tensor
import torch.utils.tensorboard
import transformers
import transformers.models.bert.modeling_bert

import mtdnn.cli.main
import mtdnn.report.write
import mtdnn.runs.train

__all__ = ["accelerate", "matplotlib", "mtdnn", "scipy", "sklearn", "torch", "transformers"]
