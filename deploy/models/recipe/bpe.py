"""Byte-level BPE in the GPT-2 manner, trained in plain Python on a small text."""
import collections
import re

# GPT-2's pre-tokenizer, with ASCII classes in place of \\p{L} and \\p{N}: the corpus is plain English.
PATTERN = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+")


def byte_alphabet():
    """byte -> printable character, as GPT-2 maps them."""
    printable = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    table, extra = {}, 0
    for byte in range(256):
        if byte in printable:
            table[byte] = chr(byte)
        else:
            table[byte] = chr(256 + extra)
            extra += 1
    return table


def train(texts, vocab_size, special_tokens):
    """Returns (vocab: token -> id, merges: list of pairs). Special tokens take the first ids."""
    alphabet = byte_alphabet()
    words = collections.Counter()
    for text in texts:
        for piece in PATTERN.findall(text):
            words[tuple(alphabet[b] for b in piece.encode("utf-8"))] += 1
    tokens = list(special_tokens) + sorted(alphabet.values())
    merges = []
    words = dict(words)
    while len(tokens) < vocab_size:
        pairs = collections.Counter()
        for word, count in words.items():
            for pair in zip(word, word[1:]):
                pairs[pair] += count
        if not pairs:
            break
        # Ties go to the smallest pair, so that a run repeats exactly.
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        tokens.append(best[0] + best[1])
        words = {merge_word(word, best): count for word, count in words.items()}
    return {token: i for i, token in enumerate(tokens)}, merges


def merge_word(word, pair):
    merged, i = [], 0
    while i < len(word):
        if i + 1 < len(word) and (word[i], word[i + 1]) == pair:
            merged.append(word[i] + word[i + 1])
            i += 2
        else:
            merged.append(word[i])
            i += 1
    return tuple(merged)


class Encoder:
    """Text -> ids; special tokens are split off first."""

    def __init__(self, vocab, merges, special_tokens):
        self.vocab, self.special = vocab, special_tokens
        self.rank = {pair: i for i, pair in enumerate(merges)}
        self.alphabet = byte_alphabet()
        self.split = re.compile("(" + "|".join(re.escape(t) for t in special_tokens) + ")")
        self.cache = {}

    def encode(self, text):
        ids = []
        for part in self.split.split(text):
            if part in self.special:
                ids.append(self.vocab[part])
                continue
            for piece in PATTERN.findall(part):
                ids.extend(self.encode_piece(piece))
        return ids

    def encode_piece(self, piece):
        if piece not in self.cache:
            word = tuple(self.alphabet[b] for b in piece.encode("utf-8"))
            while len(word) > 1:
                known = [(self.rank[p], p) for p in zip(word, word[1:]) if p in self.rank]
                if not known:
                    break
                word = merge_word(word, min(known)[1])
            self.cache[piece] = [self.vocab[token] for token in word]
        return self.cache[piece]
