"""What PyTorch reaches on this GPU: the peer that Hels is compared with.

The same Llama shapes with random bf16 weights: decode with scaled_dot_product_attention over a static KV cache as one
CUDA graph, and prefill; beside them the copy bandwidth and the matrix rate. Prints one JSON object; what fails is
recorded in its place and stops nothing else. Stops by itself after --seconds.
"""

import argparse
import json
import statistics
import sys
import time

import torch
import torch.nn.functional as F

SHAPES = {
    "8b": dict(layers=32, hidden=4096, groups=8, queries=4, head=128, ffn=14336, vocab=128256, theta=500000.0),
    "13b": dict(layers=40, hidden=5120, groups=40, queries=1, head=128, ffn=13824, vocab=32000, theta=10000.0),
    "tiny": dict(layers=2, hidden=64, groups=2, queries=2, head=16, ffn=128, vocab=256, theta=10000.0),
}
# Contexts are halved until the KV of a batch takes at most so much, so that every batch fits into 80 GB. The C++
# checker measures at the same contexts.
KV_BYTES_MAX = 36 << 30
# Of the tokens of a single prompt, each one's share in a batch.
PROMPT_SHARES = {1: 1, 16: 4, 64: 8, 256: 32}
DEVICE = "cuda"


def seconds_of(work, samples=5, warm=2):
    """Median seconds of `work`, by events."""
    for _ in range(warm):
        work()
    if DEVICE == "cpu":
        times = []
        for _ in range(samples):
            start = time.perf_counter()
            work()
            times.append(time.perf_counter() - start)
        return statistics.median(times)
    torch.cuda.synchronize()
    times = []
    for _ in range(samples):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        work()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1e-3)
    return statistics.median(times)


class Llama:
    """One set of weights; `layers` of them distinct. Products as PyTorch does them, q, k and v in one matrix."""

    def __init__(self, shape):
        self.shape = shape
        hidden, head, ffn = shape["hidden"], shape["head"], shape["ffn"]
        heads = shape["groups"] * shape["queries"]
        width = (heads + 2 * shape["groups"]) * head

        def weight(rows, columns):
            return torch.empty(rows, columns, dtype=torch.bfloat16, device=DEVICE).normal_(0, 0.02)

        self.layers = [
            dict(
                qkv=weight(width, hidden),
                o=weight(hidden, heads * head),
                gate_up=weight(2 * ffn, hidden),
                down=weight(hidden, ffn),
                norm1=torch.ones(hidden, dtype=torch.bfloat16, device=DEVICE),
                norm2=torch.ones(hidden, dtype=torch.bfloat16, device=DEVICE),
            )
            for _ in range(shape["layers"])
        ]
        self.embedding = weight(shape["vocab"], hidden)
        self.head = weight(shape["vocab"], hidden)
        self.norm = torch.ones(hidden, dtype=torch.bfloat16, device=DEVICE)

    def weight_bytes(self):
        """Of what a decode step reads: all layers and the head."""
        matrices = [layer[name] for layer in self.layers for name in ("qkv", "o", "gate_up", "down")] + [self.head]
        return sum(matrix.numel() * matrix.element_size() for matrix in matrices)

    def kv_bytes_per_token(self):
        return self.shape["layers"] * 2 * self.shape["groups"] * self.shape["head"] * 2

    def angles(self, positions):
        half = self.shape["head"] // 2
        rates = self.shape["theta"] ** (-torch.arange(half, device=DEVICE, dtype=torch.float32) / half)
        angle = positions[:, None].float() * rates
        return angle.cos().bfloat16(), angle.sin().bfloat16()

    @staticmethod
    def rotate(x, cos, sin):
        low, high = x.chunk(2, dim=-1)
        return torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1)

    def forward(self, tokens, positions, attend, last_only):
        """tokens (batch, count), positions (count); `attend(layer, q, k, v)` of (batch, heads, count, head)."""
        shape = self.shape
        batch, count = tokens.shape
        heads = shape["groups"] * shape["queries"]
        cos, sin = self.angles(positions)
        x = F.embedding(tokens, self.embedding)
        for index, layer in enumerate(self.layers):
            y = F.rms_norm(x, (shape["hidden"],), layer["norm1"], 1e-5)
            qkv = F.linear(y, layer["qkv"]).view(batch, count, heads + 2 * shape["groups"], shape["head"]).transpose(1, 2)
            q, k, v = qkv.split((heads, shape["groups"], shape["groups"]), dim=1)
            mixed = attend(index, self.rotate(q, cos, sin), self.rotate(k, cos, sin), v)
            x = x + F.linear(mixed.transpose(1, 2).reshape(batch, count, heads * shape["head"]), layer["o"])
            y = F.rms_norm(x, (shape["hidden"],), layer["norm2"], 1e-5)
            gate, up = F.linear(y, layer["gate_up"]).chunk(2, dim=-1)
            x = x + F.linear(F.silu(gate) * up, layer["down"])
        if last_only:
            x = x[:, -1]
        return F.linear(F.rms_norm(x, (shape["hidden"],), self.norm, 1e-5), self.head).argmax(-1)


def context_that_fits(model, batch, context):
    while context > 1 and batch * context * model.kv_bytes_per_token() > KV_BYTES_MAX:
        context //= 2
    return context


def decode(model, batch, context):
    """Seconds of one decode step of `batch` sequences whose KV holds `context` tokens, the new one among them."""
    shape = model.shape
    size = (shape["layers"], 2, batch, shape["groups"], context, shape["head"])
    cache = torch.empty(size, dtype=torch.bfloat16, device=DEVICE).normal_()
    tokens = torch.randint(shape["vocab"], (batch, 1), device=DEVICE)
    position = torch.full((1,), context - 1, device=DEVICE)

    def attend(index, q, k, v):
        cache[index, 0].index_copy_(2, position, k)
        cache[index, 1].index_copy_(2, position, v)
        return F.scaled_dot_product_attention(q, cache[index, 0], cache[index, 1], enable_gqa=shape["queries"] > 1)

    def step():
        return model.forward(tokens, position, attend, last_only=True)

    if DEVICE == "cpu":
        return seconds_of(step)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return seconds_of(graph.replay, samples=7)


def prefill(model, batch, count):
    """Seconds of one prefill of `batch` prompts of `count` tokens, the last token's logits included."""
    tokens = torch.randint(model.shape["vocab"], (batch, count), device=DEVICE)
    positions = torch.arange(count, device=DEVICE)

    def attend(_, q, k, v):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=model.shape["queries"] > 1)

    return seconds_of(lambda: model.forward(tokens, positions, attend, last_only=True), samples=3, warm=1)


def limits(quick):
    size = 64 if quick else 8192
    count = 1 << 16 if quick else 1 << 31
    source = torch.empty(count, dtype=torch.bfloat16, device=DEVICE).normal_()
    target = torch.empty_like(source)
    copy = 2 * source.numel() * source.element_size() / seconds_of(lambda: target.copy_(source))
    del source, target
    a = torch.empty(size, size, dtype=torch.bfloat16, device=DEVICE).normal_()
    b = torch.empty_like(a).normal_()
    rate = 2 * size**3 / seconds_of(lambda: torch.mm(a, b), samples=9, warm=3)
    return dict(copyBytesPerSecond=copy, matrixFlopPerSecond=rate, matrixSize=size)


def measure(shapes, batches, context, prompt, deadline, found):
    for name in shapes:
        result = found["shapes"][name] = dict(decode=[], prefill=[])
        try:
            model = Llama(SHAPES[name])
        except RuntimeError as error:
            result["error"] = str(error).splitlines()[0]
            continue
        result["weightBytes"] = model.weight_bytes()
        work = [("decode", batch, decode, context_that_fits(model, batch, context)) for batch in batches]
        work += [("prefill", batch, prefill, max(1, prompt // PROMPT_SHARES.get(batch, batch))) for batch in batches]
        for kind, batch, run, tokens in work:
            entry = dict(batch=batch, context=tokens)
            result[kind].append(entry)
            if time.monotonic() > deadline:
                entry["skipped"] = "time was up"
                continue
            try:
                seconds = run(model, batch, tokens)
                made = batch * (tokens if kind == "prefill" else 1)
                entry.update(seconds=seconds, tokensPerSecond=made / seconds)
                if kind == "decode":
                    moved = model.weight_bytes() + batch * tokens * model.kv_bytes_per_token()
                    entry.update(bytes=moved, bytesPerSecond=moved / seconds)
            except RuntimeError as error:
                entry["error"] = str(error).splitlines()[0]
            if DEVICE == "cuda":
                torch.cuda.empty_cache()
        del model
        if DEVICE == "cuda":
            torch.cuda.empty_cache()


def main():
    global DEVICE
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", default="8b,13b")
    parser.add_argument("--batches", default="1,16,64,256")
    parser.add_argument("--context", type=int, default=1024, help="tokens of KV of each sequence that decodes")
    parser.add_argument("--prompt", type=int, default=2048, help="tokens of a prefill")
    parser.add_argument("--seconds", type=float, default=50)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--json", default="-")
    options = parser.parse_args()
    DEVICE = options.device
    deadline = time.monotonic() + options.seconds
    found = dict(program="torch_peer", torch=torch.__version__, shapes={})
    found["date"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    if DEVICE == "cuda":
        if not torch.cuda.is_available():
            sys.exit("torch_peer: PyTorch sees no GPU")
        properties = torch.cuda.get_device_properties(0)
        found["device"] = dict(name=properties.name, multiprocessors=properties.multi_processor_count)
    shapes = [name for name in options.shapes.split(",") if name]
    unknown = [name for name in shapes if name not in SHAPES]
    if unknown:
        sys.exit(f"torch_peer: --shapes has {unknown[0]}; known are {', '.join(SHAPES)}")
    with torch.inference_mode():
        try:
            found["limits"] = limits(quick=shapes == ["tiny"])
        except RuntimeError as error:
            found["limits"] = dict(error=str(error).splitlines()[0])
        batches = [int(batch) for batch in options.batches.split(",")]
        measure(shapes, batches, options.context, options.prompt, deadline, found)
    text = json.dumps(found, indent=1)
    if options.json == "-":
        print(text)
    else:
        with open(options.json, "w", encoding="utf-8") as file:
            file.write(text + "\n")


if __name__ == "__main__":
    main()
