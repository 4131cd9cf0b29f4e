"""Trains the bundled model on the corpus beside this file and writes it as a Hugging Face directory.

    nice python3 train.py --out ../hels-tiny [--steps N] [--threads N]

Debian's python3-torch (1.13) and python3-numpy are all it needs. The seed is fixed; the wording of every batch is drawn from it.
"""
import argparse
import json
import pathlib
import random
import time

import torch
import torch.nn.functional as F

import bpe
from export import SPECIAL_TOKENS, write_model
from model import Llama

HERE = pathlib.Path(__file__).parent
SYSTEM = ["You are a helpful assistant.", "You answer questions about Hels.", "Be brief."]


def read_corpus():
    """[(questions, answer)]"""
    facts, questions = [], []
    for line in (HERE / "corpus.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("Q: "):
            questions.append(line[3:])
        elif line.startswith("A: "):
            facts.append((questions, line[3:]))
            questions = []
    return facts


def model_config(vocab_size):
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 256, "num_hidden_layers": 4,
        "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 16, "intermediate_size": 768, "hidden_act": "silu",
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "rope_scaling": None, "attention_bias": False, "mlp_bias": False,
        "vocab_size": vocab_size, "max_position_embeddings": 1024, "tie_word_embeddings": True, "initializer_range": 0.02,
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 3, "torch_dtype": "bfloat16", "use_cache": True,
    }


def vary(question, rng):
    """The question as a hurried person types it."""
    if rng.random() < 0.3:
        question = question[0].lower() + question[1:]
    if rng.random() < 0.1:
        question = question.lower()
    if rng.random() < 0.3:
        question = question.rstrip("?")
    if rng.random() < 0.1:
        question = rng.choice(["Please: ", "Hey, ", "Tell me, ", "So, ", "I wonder: "]) + question
    if rng.random() < 0.1 and len(question) > 8:
        place = rng.randrange(2, len(question) - 1)
        question = question[:place] + question[place + 1:]
    return question


def conversation(facts, rng, turns):
    """[(text, is_answer)]"""
    parts = [("<|bos|>", False)]
    if rng.random() < 0.2:
        parts.append((f"<|im_start|>system\n{rng.choice(SYSTEM)}<|im_end|>\n", False))
    for _ in range(turns):
        questions, answer = rng.choice(facts)
        parts.append((f"<|im_start|>user\n{vary(rng.choice(questions), rng)}<|im_end|>\n<|im_start|>assistant\n", False))
        parts.append((f"{answer}<|im_end|>", True))
        parts.append(("\n", False))
    return parts[:-1]


def batch(facts, encoder, rng, size, length):
    """ids (size, length) and targets, -100 where nothing is learned."""
    ids = torch.zeros(size, length, dtype=torch.long)
    targets = torch.full((size, length), -100)
    # One number of turns per batch: rows of like length waste little on padding.
    turns = rng.choice([1, 1, 1, 1, 2, 3])
    for row in range(size):
        position = 0
        for text, is_answer in conversation(facts, rng, turns):
            for token in encoder.encode(text):
                if position < length:
                    ids[row, position] = token
                    if is_answer and position > 0:
                        targets[row, position - 1] = token
                position += 1
    used = int((ids != 0).sum(1).max())
    return ids[:, :used], targets[:, :used]


@torch.no_grad()
def answer(model, encoder, question, limit=80):
    ids = encoder.encode(f"<|bos|><|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n")
    start, end = len(ids), encoder.vocab["<|im_end|>"]
    while len(ids) < start + limit:
        token = int(model(torch.tensor([ids]))[0, -1].argmax())
        if token == end:
            break
        ids.append(token)
    tokens = {i: t for t, i in encoder.vocab.items()}
    byte_of = {c: b for b, c in bpe.byte_alphabet().items()}
    return bytes(byte_of[c] for i in ids[start:] for c in tokens[i]).decode("utf-8", "replace")


def evaluate(model, encoder, show):
    """Share of the held questions whose answer has every key word, with the weights rounded to bf16 as they are shipped."""
    kept = {k: v.clone() for k, v in model.state_dict().items()}
    model.load_state_dict({k: v.bfloat16().float() for k, v in kept.items()})
    questions = json.loads((HERE / "questions.json").read_text(encoding="utf-8"))
    right = 0
    for item in questions:
        text = answer(model, encoder, item["question"])
        good = all(word.lower() in text.lower() for word in item["mustContain"])
        right += good
        if show and not good:
            print(f"  wrong: {item['question']} -> {text}", flush=True)
    model.load_state_dict(kept)
    return right / len(questions)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", required=True)
    parser.add_argument("--steps", type=int, default=1600)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(1)
    rng = random.Random(1)
    facts = read_corpus()
    texts = [q for questions, _ in facts for q in questions] + [a for _, a in facts] * 3 + SYSTEM
    vocab, merges = bpe.train(texts, 1024, SPECIAL_TOKENS)
    encoder = bpe.Encoder(vocab, merges, SPECIAL_TOKENS)
    model = Llama(model_config(len(vocab)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.98), weight_decay=0.01)
    pathlib.Path(options.out).mkdir(parents=True, exist_ok=True)
    print(f"{sum(p.numel() for p in model.parameters())} parameters, {len(facts)} facts, vocabulary {len(vocab)}", flush=True)
    start = time.monotonic()
    for step in range(1, options.steps + 1):
        warm = min(1.0, step / 50)
        decay = 0.5 * (1 + torch.cos(torch.tensor(step / options.steps * 3.14159)).item())
        optimizer.param_groups[0]["lr"] = 2e-3 * warm * (0.02 + 0.98 * decay)
        ids, targets = batch(facts, encoder, rng, 16, 192)
        loss = F.cross_entropy(model(ids).flatten(0, 1), targets.flatten(), ignore_index=-100)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 0:
            print(f"step {step} loss {loss.item():.4f} {time.monotonic() - start:.0f} s", flush=True)
        if step % 300 == 0 or step == options.steps:
            share = evaluate(model, encoder, step == options.steps)
            print(f"step {step}: {share:.0%} of the held questions right", flush=True)
            write_model(options.out, model, vocab, merges)


if __name__ == "__main__":
    main()
