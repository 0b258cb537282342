"""Frame accuracy, phone error rate and confusions over whole utterances.

Shapes: T time (frames), I input, S states (phones times parts), P phones.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from regrnn.confusion import to_json
from regrnn.data.buckets import pad
from regrnn.tasks.protocol import Evaluation
from regrnn.tasks.speech.audio import Array
from regrnn.tasks.speech.data import IGNORED, Inventory, Normalizer, Utterance, labels
from regrnn.tasks.speech.decode import DecodingConfig, phone_error_rate, runs, whole_paths
from regrnn.tasks.speech.model import AcousticModel, between, centres, delayed, split_states, stack

TRAIN_UTTERANCES = 64
"""`train_` figures are taken on this many utterances of the training part, the first in its order."""

CONFUSION = "confusion.json"
"""The file of an evaluation that says how many frames of each phone were taken for each."""

AT_ONCE = 16
"""Utterances that are run side by side; the figures do not depend on it."""


@torch.no_grad()
def log_probabilities(model: AcousticModel, frames: Sequence[Array]) -> list[Array]:
    """ln p of each state at each frame, (T, S), of whole utterances given as normalised frames."""
    config = model.config
    device = model.decoder.weight.device
    steps = [stack(x_TF, config.context, config.subsample) for x_TF in frames]
    inputs = [delayed(x_TI, config.delay) for x_TI in steps]
    x_TBI = torch.from_numpy(pad(inputs)).to(device)
    h = model.packed_features(x_TBI, [len(x) for x in inputs])
    log_p = PackedSequence(torch.log_softmax(model.decoder(h.data), 1), *h[1:])
    padded_TBS, _ = pad_packed_sequence(log_p)
    found = []
    for row, (x_TF, x_TI) in enumerate(zip(frames, steps, strict=True)):
        own = padded_TBS[config.delay : config.delay + len(x_TI), row].cpu().numpy()
        found.append(between(own, centres(len(x_TF), config.subsample), range(len(x_TF))))
    return found


Member = tuple[AcousticModel, Normalizer, Sequence[Utterance]]
"""A model with the utterances as it needs them."""


def averaged(members: Sequence[Member]) -> Iterator[tuple[Sequence[Utterance], list[Array]]]:
    """Some utterances at a time, with ln of the members' mean distribution at each frame, (T, S)."""
    for start in range(0, len(members[0][2]), AT_ONCE):
        rows = []
        for model, normalize, utterances in members:
            part = utterances[start : start + AT_ONCE]
            rows.append(log_probabilities(model, [normalize(utterance) for utterance in part]))
        means = [np.logaddexp.reduce(np.stack(own), axis=0) - math.log(len(own)) for own in zip(*rows, strict=True)]
        yield members[0][2][start : start + AT_ONCE], means


def phone_log_probabilities(log_p_TS: Array, parts: int) -> Array:
    """ln p of each phone, (T, P): its parts together."""
    if parts == 1:
        return log_p_TS
    return np.asarray(np.logaddexp.reduce(log_p_TS.reshape(len(log_p_TS), -1, parts), axis=2))


def evaluate(
    members: Sequence[Member], inventory: Inventory, decoding: DecodingConfig, *, train: bool = False
) -> Evaluation:
    """Frame accuracy (the paper's figure) and phone error rate, in percent, of the members' average.

    A frame is right when its most probable phone is that of the alignment, whatever the smoothing; frames without a
    label do not count, nor does a phone that was found in such frames alone; phones unknown to the model count as
    mistakes. With several states a phone there is also the accuracy of states. `train`: what was given is the training
    part's fixed subset.
    """
    for model, _, _ in members:
        model.eval()
    parts = members[0][0].config.states
    right = right_states = predictions = 0
    table_PP = np.zeros((len(inventory.phones), len(inventory.phones)), np.int64)
    references: list[list[str]] = []
    found: list[list[str]] = []
    for utterances, log_ps_TS in averaged(members):
        paths = whole_paths(decoding, inventory.bigram, parts, log_ps_TS)
        for utterance, log_p_TS, path in zip(utterances, log_ps_TS, paths, strict=True):
            truth_T = labels(utterance, inventory)
            counted_T = truth_T != IGNORED
            guess_T = phone_log_probabilities(log_p_TS, parts).argmax(1)
            right += int((guess_T == truth_T)[counted_T].sum())
            right_states += int((log_p_TS.argmax(1) == split_states(truth_T, parts))[counted_T].sum())
            predictions += int(counted_T.sum())
            known_T = truth_T >= 0
            np.add.at(table_PP, (truth_T[known_T], guess_T[known_T]), 1)
            references.append(utterance.sequence)
            spoken = [phone for phone, first, end in runs(path, parts) if counted_T[first:end].any()]
            found.append([inventory.phones[phone] for phone in spoken])
    figures = {
        "frame_accuracy": 100.0 * right / predictions,
        "phone_error_rate": phone_error_rate(references, found),
    }
    if parts > 1:
        figures["state_accuracy"] = 100.0 * right_states / predictions
    how = {"viterbi": f"Viterbi with a phone bigram, weight {decoding.bigram_weight:g}"}
    how |= {"median": f"a median over {decoding.median} frames", "none": "no smoothing"}
    protocol = (
        f"whole utterances, every labelled frame; phone error rate of all phones, silence too, after "
        f"{how[decoding.smoothing]}"
    )
    if train:
        protocol += f", the first {len(members[0][2])} utterances"
    return Evaluation(figures, predictions, protocol, {CONFUSION: to_json(table_PP, inventory.phones)})
