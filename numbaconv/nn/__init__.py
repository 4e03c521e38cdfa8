"""Layers, losses, optimisers and saving for NumPy arrays: PyTorch's names and shapes, gradients by ``backward``.

Examples
--------
>>> import numpy as np
>>> from numbaconv import nn
>>> net = nn.Sequential(nn.Conv1d(1, 4, 3, padding=1, rng=0), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 8, 2, rng=1))
>>> loss, optimizer = nn.CrossEntropyLoss(), nn.Adam(net.parameters(), lr=0.05)
>>> x, target = np.eye(8, dtype=np.float32)[:, None], np.arange(8) // 4
>>> for _ in range(20):
...     value = loss(net(x), target)
...     net.zero_grad()
...     grad_x = net.backward(loss.backward())
...     optimizer.step()
>>> bool(value < 0.1)
True
"""

from numbaconv.nn.activation import GELU, LeakyReLU, ReLU, Sigmoid, SiLU, Tanh
from numbaconv.nn.conv import Conv1d, Conv2d, Conv3d
from numbaconv.nn.conv_transpose import ConvTranspose1d, ConvTranspose2d, ConvTranspose3d
from numbaconv.nn.linear import Flatten, Linear
from numbaconv.nn.losses import CrossEntropyLoss, MSELoss
from numbaconv.nn.module import Module, Parameter
from numbaconv.nn.optim import SGD, Adam
from numbaconv.nn.pooling import AvgPool, AvgPool1d, AvgPool2d, AvgPool3d, MaxPool, MaxPool1d, MaxPool2d, MaxPool3d
from numbaconv.nn.saving import load, save
from numbaconv.nn.sequential import Sequential

__all__ = [
    "GELU", "SGD", "Adam", "AvgPool", "AvgPool1d", "AvgPool2d", "AvgPool3d", "Conv1d", "Conv2d", "Conv3d",
    "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d", "CrossEntropyLoss", "Flatten", "LeakyReLU", "Linear", "MSELoss",
    "MaxPool", "MaxPool1d", "MaxPool2d", "MaxPool3d", "Module", "Parameter", "ReLU", "Sequential", "SiLU", "Sigmoid", "Tanh",
    "load", "save",
]  # fmt: skip
