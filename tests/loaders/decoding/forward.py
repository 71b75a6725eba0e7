"""Forward passes in f32 of the families that the cases need: llama, qwen2, phi3, mixtral and qwen2_moe."""

import numpy as np

from . import demand


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def silu(x):
    return x / (1 + np.exp(-x))


class Model:
    """Weights by the names of an unquantised checkpoint, and what the config says of them."""

    def __init__(self, config, weights):
        self.config, self.weights = config, weights
        self.family = config["model_type"]
        demand(self.family in ("llama", "qwen2", "phi3", "mixtral", "qwen2_moe"), f"the model is a {self.family}")
        self.heads = config["num_attention_heads"]
        self.kv_heads = config.get("num_key_value_heads") or self.heads
        self.width = config.get("head_dim") or config["hidden_size"] // self.heads
        rope = config.get("rope_parameters") or {"rope_theta": config["rope_theta"]}
        plain = not config.get("rope_scaling") and rope.get("rope_type", "default") == "default"
        demand(plain and rope.get("partial_rotary_factor", 1) == 1, "positions are scaled")
        demand(not (config.get("sliding_window") and config.get("use_sliding_window", True)), "attention has a window")
        frequencies = 1.0 / float(rope["rope_theta"]) ** (np.arange(0, self.width, 2) / self.width)
        self.frequencies = np.tile(frequencies, 2)

    def norm(self, x, name):
        variance = np.mean(np.square(x), -1, keepdims=True, dtype=np.float32)
        return x / np.sqrt(variance + np.float32(self.config["rms_norm_eps"])) * self.weights[name + ".weight"]

    def linear(self, x, name):
        y = x @ self.weights[name + ".weight"].T
        return y + self.weights[name + ".bias"] if name + ".bias" in self.weights else y

    def split(self, x, count):
        return x.reshape(len(x), count, self.width).transpose(1, 0, 2)

    def rotate(self, x):
        angles = np.arange(x.shape[1])[:, None] * self.frequencies[None]
        cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
        half = self.width // 2
        return x * cos + np.concatenate([-x[..., half:], x[..., :half]], -1) * sin

    def queries_keys_values(self, x, at):
        if self.family != "phi3":
            return [self.linear(x, f"{at}{name}_proj") for name in "qkv"]
        ends = np.cumsum([self.heads * self.width, self.kv_heads * self.width])
        return np.split(self.linear(x, at + "qkv_proj"), ends, -1)

    def attention(self, x, at):
        q, k, v = self.queries_keys_values(x, at)
        q, k = self.rotate(self.split(q, self.heads)), self.rotate(self.split(k, self.kv_heads))
        k, v = (np.repeat(part, self.heads // self.kv_heads, 0) for part in (k, self.split(v, self.kv_heads)))
        mask = np.triu(np.full((len(x), len(x)), -np.inf, np.float32), 1)
        y = softmax(q @ k.transpose(0, 2, 1) / np.float32(np.sqrt(self.width)) + mask) @ v
        return self.linear(y.transpose(1, 0, 2).reshape(len(x), -1), at + "o_proj")

    def mlp(self, x, at, names=("gate_proj", "up_proj", "down_proj")):
        if self.family == "phi3":
            gate, up = np.split(self.linear(x, at + "gate_up_proj"), 2, -1)
        else:
            gate, up = self.linear(x, at + names[0]), self.linear(x, at + names[1])
        return self.linear(silu(gate) * up, at + names[2])

    def experts(self, x, at, names, normalised):
        """Each token's mixture of its best experts."""
        shares = softmax(self.linear(x, at + "gate"))
        best = np.argsort(-shares, -1, kind="stable")[:, : self.config["num_experts_per_tok"]]
        chosen = np.take_along_axis(shares, best, -1)
        if normalised:
            chosen = chosen / chosen.sum(-1, keepdims=True)
        y = np.zeros_like(x)
        for expert in range(shares.shape[1]):
            tokens, places = np.nonzero(best == expert)
            if len(tokens):
                y[tokens] += self.mlp(x[tokens], f"{at}experts.{expert}.", names) * chosen[tokens, places, None]
        return y

    def feed_forward(self, x, at):
        if self.family == "mixtral":
            return self.experts(x, at + "block_sparse_moe.", ("w1", "w3", "w2"), True)
        if self.family != "qwen2_moe":
            return self.mlp(x, at + "mlp.")
        routed = self.experts(x, at + "mlp.", ("gate_proj", "up_proj", "down_proj"), self.config["norm_topk_prob"])
        share = 1 / (1 + np.exp(-self.linear(x, at + "mlp.shared_expert_gate")))
        return routed + share * self.mlp(x, at + "mlp.shared_expert.")

    def logits(self, row):
        """[tokens, vocabulary]."""
        x = self.weights["model.embed_tokens.weight"][row]
        for layer in range(self.config["num_hidden_layers"]):
            at = f"model.layers.{layer}."
            x = x + self.attention(self.norm(x, at + "input_layernorm"), at + "self_attn.")
            x = x + self.feed_forward(self.norm(x, at + "post_attention_layernorm"), at)
        x = self.norm(x, "model.norm")
        return x @ self.weights["model.embed_tokens.weight" if self.config.get("tie_word_embeddings") else "lm_head.weight"].T

    def log_probabilities(self, row):
        """Of each next token but the last, in f64."""
        logits = self.logits(row)[:-1].astype(np.float64)
        logits -= logits.max(-1, keepdims=True)
        return logits - np.log(np.exp(logits).sum(-1, keepdims=True))
