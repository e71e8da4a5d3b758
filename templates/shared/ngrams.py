"""Features of texts: their words and the n-grams of characters in these, hashed into a fixed number of features.

The hash is CRC-32, which is the same in every process and version. Texts that share words or parts of words have
similar features (Weinberger et al. 2009); nothing is learnt from data, so new words have features, too.
"""

import re
from collections import Counter
from collections.abc import Sequence
from itertools import chain
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

NGRAMS = (3, 4)  # characters; a word has a mark at both ends
IDEOGRAPHS = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"  # of scripts that have no spaces between words, or short words
WORDS = re.compile(f"[{IDEOGRAPHS}]+|[^\\W{IDEOGRAPHS}]+")
ROWS_AT_ONCE = 8192  # whose counts are in memory in float64

LONG_NGRAM, SHORT_NGRAM = 5, 2  # characters that hardly come again by chance; of ideographs
SAMPLE = 500  # texts that tell whether their n-grams come again
LEAST_SHARE = 0.05  # of their n-grams that come again; in random codes of digits 0.03 do by chance, in others fewer
LEAST_AGAIN = 4  # n-grams
PHRASE = re.compile(r"[^\W\d_]{2,}[\W_]*\s.*[^\W\d_]{2,}", re.DOTALL)  # two words of letters with a space between them


def ngrams_of(word: str) -> list[str]:
    """A word with a mark at both ends and its n-grams; of ideographs, each one and each two."""
    if re.match(f"[{IDEOGRAPHS}]", word):
        return [word[start : start + n] for n in (1, 2) for start in range(len(word) - n + 1)]
    marked = f"<{word}>"
    grams = [marked[start : start + n] for n in NGRAMS for start in range(len(marked) - n + 1)]
    return [marked, *(gram for gram in grams if gram != marked)]


def hashed_texts(texts: Sequence[str], size: int) -> Tensor:
    """The hashed n-grams of each text, float32 (N, size): signed logarithmic counts, of length 1, or 0 without words.

    Args:
        texts: N of them; upper case is as lower case.
        size: features, a power of two.
    """
    distinct: dict[str, int] = {}
    rows = [distinct.setdefault(text, len(distinct)) for text in texts]
    words: dict[str, int] = {}
    split = [[words.setdefault(word, len(words)) for word in WORDS.findall(text.lower())] for text in distinct]
    hashes = [[crc32(gram.encode("utf-8", "replace")) for gram in ngrams_of(word)] for word in words]
    lengths = np.fromiter(map(len, hashes), np.int64, len(hashes))
    starts = lengths.cumsum() - lengths
    flat = np.fromiter(chain.from_iterable(hashes), np.int64, lengths.sum())
    features = np.zeros((len(distinct), size), np.float32)
    for first in range(0, len(split), ROWS_AT_ONCE):
        part = split[first : first + ROWS_AT_ONCE]
        numbers = np.fromiter(chain.from_iterable(part), np.int64)
        owners = np.repeat(np.arange(len(part)), [len(each) for each in part])
        counts = lengths[numbers]
        places = np.arange(counts.sum()) + np.repeat(starts[numbers] - counts.cumsum() + counts, counts)
        found = flat[places]
        signs = (found >> 31) * 2.0 - 1
        cells = np.repeat(owners, counts) * size + found % size
        sums = np.bincount(cells, signs, len(part) * size).reshape(len(part), size)
        logs = np.sign(sums) * np.log1p(np.abs(sums))
        lengths_of_rows = np.sqrt((logs**2).sum(1, keepdims=True))
        features[first : first + len(part)] = logs / np.maximum(lengths_of_rows, 1e-12)
    return torch.from_numpy(features)[torch.tensor(rows, dtype=torch.long)]


def why_codes(texts: Sequence[str]) -> str:
    """Why different texts surely are codes, whose parts say nothing; empty if they may have words in common.

    Codes differ in their digits alone, as CUST-0017, or have hardly an n-gram that comes again, as digests.
    """
    some = texts[:: max(1, len(texts) // SAMPLE)][:SAMPLE]
    if sum(bool(PHRASE.search(text)) for text in some) > len(some) / 2:
        return ""
    if len({re.sub(r"\d+", "0", text) for text in some}) == 1:
        return "codes that differ in digits alone"
    counts: Counter[str] = Counter()
    for text in some:
        n = SHORT_NGRAM if re.search(f"[{IDEOGRAPHS}]", text) else LONG_NGRAM
        marked = f"<{text.lower()}>"
        counts.update({marked[start : start + n] for start in range(max(1, len(marked) - n + 1))})
    again = sum(1 < count < 0.9 * len(some) for count in counts.values())
    least = max(LEAST_AGAIN, LEAST_SHARE * len(counts) * len(some) / SAMPLE)  # the more texts, the more by chance
    return "" if again >= least else "codes without a part that comes again"
