"""BLEU, ROUGE-L and CIDEr-D of token lists with several references, as the MSCOCO evaluation defines them.

Tokens count as they are given: nothing is lower-cased or stripped here.
"""

import math
from collections import Counter
from collections.abc import Sequence

Tokens = Sequence[str]
NGram = tuple[str, ...]

ORDERS = 4
CIDER_SIGMA = 6.0
ROUGE_BETA = 1.2


def ngrams(tokens: Tokens, n: int) -> Counter[NGram]:
    """How often each run of n tokens occurs."""
    return Counter(tuple(tokens[start : start + n]) for start in range(len(tokens) - n + 1))


def bleu(candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> list[float]:
    """BLEU-1 to BLEU-4 of a corpus, in percent (Papineni et al. 2002).

    Counts are clipped by the reference that has most of an n-gram; the brevity penalty takes of each sentence the
    reference nearest in length, the shorter of two equally near ones. 0 where no n-gram matches.
    """
    _check(candidates, references)
    right, made = [0] * ORDERS, [0] * ORDERS
    length = nearest = 0
    for candidate, theirs in zip(candidates, references, strict=True):
        length += len(candidate)
        nearest += min((abs(len(reference) - len(candidate)), len(reference)) for reference in theirs)[1]
        for n in range(1, ORDERS + 1):
            allowed: Counter[NGram] = Counter()
            for reference in theirs:
                allowed |= ngrams(reference, n)
            mine = ngrams(candidate, n)
            right[n - 1] += (mine & allowed).total()
            made[n - 1] += mine.total()
    brevity = 1.0 if length >= nearest else math.exp(1.0 - nearest / length) if length else 0.0
    found: list[float] = []
    logs = 0.0
    for n in range(ORDERS):
        if not right[n]:
            return found + [0.0] * (ORDERS - n)
        logs += math.log(right[n] / made[n])
        found.append(100.0 * brevity * math.exp(logs / (n + 1)))
    return found


def rouge_l(candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> float:
    """The mean F (beta 1.2) of the longest common subsequence, in percent (Lin 2004).

    Of each sentence precision and recall are each those of the reference where they are best.
    """
    _check(candidates, references)
    total = 0.0
    for candidate, theirs in zip(candidates, references, strict=True):
        common = [(_common(candidate, reference), len(reference)) for reference in theirs]
        precision = max(length for length, _ in common) / max(1, len(candidate))
        recall = max(length / max(1, of) for length, of in common)
        if precision and recall:
            total += (1 + ROUGE_BETA**2) * precision * recall / (recall + ROUGE_BETA**2 * precision)
    return 100.0 * total / len(candidates)


def _common(a: Tokens, b: Tokens) -> int:
    """The length of the longest common subsequence."""
    best = [0] * (len(b) + 1)
    for x in a:
        before = 0
        for place, y in enumerate(b, 1):
            before, best[place] = best[place], before + 1 if x == y else max(best[place], best[place - 1])
    return best[-1]


def cider_d(candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> float:
    """CIDEr-D (Vedantam et al. 2015), on the scale on which it is published: 10 at most.

    N-grams are weighted by their rarity among the images: how many have them in a reference. A candidate's counts are
    clipped by the reference's, and a Gaussian punishes a difference in length.
    """
    _check(candidates, references)
    images: Counter[NGram] = Counter()
    for theirs in references:
        images.update({gram for reference in theirs for n in range(1, ORDERS + 1) for gram in ngrams(reference, n)})
    log_count = math.log(len(references))

    def weigh(tokens: Tokens) -> list[dict[NGram, float]]:
        return [
            {gram: count * (log_count - math.log(max(1, images[gram]))) for gram, count in ngrams(tokens, n).items()}
            for n in range(1, ORDERS + 1)
        ]

    def norm(vector: dict[NGram, float]) -> float:
        return math.sqrt(sum(weight * weight for weight in vector.values()))

    total = 0.0
    for candidate, theirs in zip(candidates, references, strict=True):
        mine = weigh(candidate)
        similarity = 0.0
        for reference in theirs:
            # Lengths are counted in bigrams, as the published program does.
            difference = max(0, len(candidate) - 1) - max(0, len(reference) - 1)
            penalty = math.exp(-(difference**2) / (2 * CIDER_SIGMA**2))
            for own, other in zip(mine, weigh(reference), strict=True):
                product = sum(min(weight, other.get(gram, 0.0)) * other.get(gram, 0.0) for gram, weight in own.items())
                norms = norm(own) * norm(other)
                similarity += penalty * (product / norms if norms else product)
        total += similarity / len(theirs) / ORDERS
    return 10.0 * total / len(candidates)


def _check(candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> None:
    if len(candidates) != len(references) or not candidates or not all(references):
        raise ValueError("there must be a candidate, as many lists of references, and a reference in each")
