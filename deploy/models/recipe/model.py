"""The Llama architecture in PyTorch, with Hugging Face names, so that a state dict is the checkpoint."""
import torch
import torch.nn.functional as F
from torch import nn


class RmsNorm(nn.Module):
    def __init__(self, size, epsilon):
        super().__init__()
        self.weight, self.epsilon = nn.Parameter(torch.ones(size)), epsilon

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.epsilon) * self.weight


def rotate(x, cos, sin):
    half = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.heads, self.groups, self.dim = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
        size = c["hidden_size"]
        self.q_proj = nn.Linear(size, self.heads * self.dim, bias=False)
        self.k_proj = nn.Linear(size, self.groups * self.dim, bias=False)
        self.v_proj = nn.Linear(size, self.groups * self.dim, bias=False)
        self.o_proj = nn.Linear(self.heads * self.dim, size, bias=False)

    def forward(self, x, cos, sin, mask):
        b, t, _ = x.shape
        q = self.q_proj(x).view(b, t, self.heads, self.dim).transpose(1, 2)
        k = self.k_proj(x).view(b, t, self.groups, self.dim).transpose(1, 2)
        v = self.v_proj(x).view(b, t, self.groups, self.dim).transpose(1, 2)
        repeat = self.heads // self.groups
        k = rotate(k, cos, sin).repeat_interleave(repeat, 1)
        v = v.repeat_interleave(repeat, 1)
        scores = rotate(q, cos, sin) @ k.transpose(-1, -2) / self.dim**0.5 + mask
        return self.o_proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(b, t, -1))


class Mlp(nn.Module):
    def __init__(self, c):
        super().__init__()
        size, columns = c["hidden_size"], c["intermediate_size"]
        self.gate_proj = nn.Linear(size, columns, bias=False)
        self.up_proj = nn.Linear(size, columns, bias=False)
        self.down_proj = nn.Linear(columns, size, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.self_attn, self.mlp = Attention(c), Mlp(c)
        self.input_layernorm = RmsNorm(c["hidden_size"], c["rms_norm_eps"])
        self.post_attention_layernorm = RmsNorm(c["hidden_size"], c["rms_norm_eps"])

    def forward(self, x, cos, sin, mask):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, mask)
        return x + self.mlp(self.post_attention_layernorm(x))


class Llama(nn.Module):
    """Logits for every position; the output matrix is the embedding (tied)."""

    def __init__(self, c):
        super().__init__()
        self.config = c
        self.embed_tokens = nn.Embedding(c["vocab_size"], c["hidden_size"])
        self.layers = nn.ModuleList(Layer(c) for _ in range(c["num_hidden_layers"]))
        self.norm = RmsNorm(c["hidden_size"], c["rms_norm_eps"])
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                scale = 0.02 / (2 * len(self.layers)) ** 0.5 if "o_proj" in name or "down_proj" in name else 0.02
                nn.init.normal_(parameter, std=scale * 2)

    def forward(self, ids):
        t, c = ids.shape[1], self.config
        frequency = c["rope_theta"] ** (-torch.arange(0, c["head_dim"], 2).float() / c["head_dim"])
        angle = torch.arange(t).float()[:, None] * frequency[None, :]
        angle = torch.cat((angle, angle), -1)
        mask = torch.full((t, t), float("-inf")).triu(1)
        x = self.embed_tokens(ids)
        for layer in self.layers:
            x = layer(x, angle.cos(), angle.sin(), mask)
        return self.norm(x) @ self.embed_tokens.weight.T
