"""Recurrent layers with the dropout of Zaremba et al. (2014); usable alone in anybody's PyTorch code."""

from regrnn.nn.cells import GRUCell, LSTMCell, RNNCell
from regrnn.nn.corruption import CorruptionCount, corruption_count
from regrnn.nn.embedding import Embedding
from regrnn.nn.functional import gru_step, lstm_step, rnn_step, run_layer
from regrnn.nn.layers import GRU, LSTM, RNN
from regrnn.nn.loss import softmax_cross_entropy, token_log_probabilities
from regrnn.nn.regularization import Regularization, RowMasks, draw_mask

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "CorruptionCount",
    "Embedding",
    "GRUCell",
    "LSTMCell",
    "RNNCell",
    "Regularization",
    "RowMasks",
    "corruption_count",
    "draw_mask",
    "gru_step",
    "lstm_step",
    "rnn_step",
    "run_layer",
    "softmax_cross_entropy",
    "token_log_probabilities",
]
