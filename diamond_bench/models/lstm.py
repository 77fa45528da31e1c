"""The initial weights of both LSTMs, and their state (method section 1, golden README 3.3)."""

import torch
from torch import Tensor, nn

LstmState = tuple[Tensor, Tensor]
"""Hidden and cell state (h, c), float32."""


@torch.no_grad()
def init_lstm(lstm: nn.LSTM | nn.LSTMCell) -> None:
    """Sets input weights to Xavier-uniform, recurrent weights to an orthogonal stacked matrix, and biases to 0 except the forget gate's.

    The forget gate (second of input, forget, cell, output) has a bias of 1, from the input bias.
    """
    for name, parameter in lstm.named_parameters():
        if name.startswith("weight_ih"):
            nn.init.xavier_uniform_(parameter)
        elif name.startswith("weight_hh"):
            nn.init.orthogonal_(parameter)
        else:
            nn.init.zeros_(parameter)
            if name.startswith("bias_ih"):
                parameter[lstm.hidden_size : 2 * lstm.hidden_size] = 1.0
