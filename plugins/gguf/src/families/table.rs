//! The families, each with what is different from the plain one, in the host's order.

use qhost_plugin_api::documents::RoleKind::{
    self, AttentionK, AttentionNorm, AttentionOutput, AttentionQ, AttentionQkv, AttentionV, ExpertsDown, ExpertsGateUp,
    FfnDown, FfnGate, FfnNorm, FfnUp, Output, OutputNorm, Router, RouterCorrection,
};

use super::{Family, Fused, Head, Rotary, Scaling, Window, keys, limits};

const RMS_NORM: &str = "attention.layer_norm_rms_epsilon";
const LAYER_NORM: &str = "attention.layer_norm_epsilon";
const POST_ATTENTION: &str = "post_attention_norm";
const SILU: &[&str] = &["silu", "swish"];
/// llama.cpp approximates GELU by the hyperbolic tangent, and that by a table.
const GELU_TANH: &[&str] = &["gelu_pytorch_tanh", "gelu_new", "gelu_fast", "gelu"];
const GELU: &[&str] = &["gelu", "gelu_pytorch_tanh", "gelu_new", "gelu_fast"];

const PLAIN: Family = Family {
    id: "",
    architecture: "",
    rotary: Rotary::Kept,
    fused: Fused::ByPart,
    shifted_norms: false,
    ffn_norm: "ffn_norm",
    epsilon: RMS_NORM,
    activations: SILU,
    biases: &[],
    needed_biases: &[],
    head: Head::Optional,
    square_attention: false,
    states_sizes: false,
    scalings: &[Scaling::Yarn],
    window: Window::Ignored,
    keys: keys::none,
    limits: limits::none,
    is_70b: |_| false,
};

/// The modules of Llama, any of which may have a bias.
const LLAMA_BIASES: &[RoleKind] = &[AttentionQ, AttentionK, AttentionV, AttentionOutput, FfnGate, FfnUp, FfnDown];

/// What llama.cpp calls llama.
const LLAMA: Family = Family {
    architecture: "llama",
    rotary: Rotary::Interleaved,
    states_sizes: true,
    scalings: &[Scaling::Llama3, Scaling::Yarn],
    is_70b: |model| model.layers == 80 && model.heads != model.kv_heads,
    ..PLAIN
};

pub(super) const FAMILIES: &[Family] = &[
    Family { id: "llama", biases: LLAMA_BIASES, ..LLAMA },
    Family { id: "mistral", ..LLAMA },
    Family { id: "mixtral", limits: limits::mixtral, ..LLAMA },
    Family {
        id: "qwen2",
        architecture: "qwen2",
        biases: &[AttentionQ, AttentionK, AttentionV],
        square_attention: true,
        is_70b: |model| model.layers == 80,
        ..PLAIN
    },
    Family {
        id: "qwen2_moe",
        architecture: "qwen2moe",
        biases: &[AttentionQ, AttentionK, AttentionV],
        square_attention: true,
        head: Head::Needed,
        keys: keys::shared_expert,
        limits: limits::qwen2_moe,
        ..PLAIN
    },
    Family { id: "qwen3", architecture: "qwen3", biases: &[AttentionQ, AttentionK, AttentionV], ..PLAIN },
    Family {
        id: "qwen3_moe",
        architecture: "qwen3moe",
        biases: &[AttentionQ, AttentionK, AttentionV],
        keys: keys::expert_width,
        limits: limits::qwen3_moe,
        ..PLAIN
    },
    Family {
        id: "gemma",
        architecture: "gemma",
        shifted_norms: true,
        activations: GELU_TANH,
        head: Head::Never,
        ..PLAIN
    },
    Family {
        id: "gemma2",
        architecture: "gemma2",
        shifted_norms: true,
        activations: GELU_TANH,
        head: Head::Never,
        window: Window::AllButEvery(2),
        keys: keys::gemma2,
        limits: limits::gemma2,
        ..PLAIN
    },
    Family {
        id: "gemma3",
        architecture: "gemma3",
        shifted_norms: true,
        activations: GELU_TANH,
        window: Window::AllButEvery(6),
        keys: keys::gemma3,
        limits: limits::gemma3,
        ..PLAIN
    },
    Family {
        id: "phi3",
        architecture: "phi3",
        square_attention: true,
        scalings: &[Scaling::Long, Scaling::Yarn],
        keys: keys::phi3,
        ..PLAIN
    },
    Family {
        id: "phi",
        architecture: "phi2",
        epsilon: LAYER_NORM,
        activations: GELU_TANH,
        square_attention: true,
        head: Head::Needed,
        biases: &[
            AttentionNorm,
            AttentionQ,
            AttentionK,
            AttentionV,
            AttentionOutput,
            FfnUp,
            FfnDown,
            OutputNorm,
            Output,
        ],
        needed_biases: &[Output],
        ..PLAIN
    },
    Family {
        id: "gpt_oss",
        architecture: "gpt-oss",
        ffn_norm: POST_ATTENTION,
        biases: &[AttentionQ, AttentionK, AttentionV, AttentionOutput, Router, ExpertsGateUp, ExpertsDown],
        needed_biases: &[AttentionOutput],
        head: Head::Needed,
        window: Window::AllButEvery(2),
        keys: keys::expert_width,
        limits: limits::gpt_oss,
        ..PLAIN
    },
    Family { id: "deepseek_v2", architecture: "deepseek2", keys: keys::deepseek, limits: limits::deepseek, ..PLAIN },
    Family {
        id: "deepseek_v3",
        architecture: "deepseek2",
        biases: &[RouterCorrection],
        keys: keys::deepseek,
        limits: limits::deepseek,
        ..PLAIN
    },
    Family { id: "glm4", architecture: "glm4", biases: &[AttentionQ, AttentionK, AttentionV], ..PLAIN },
    Family {
        id: "granite",
        architecture: "granite",
        rotary: Rotary::Interleaved,
        states_sizes: true,
        square_attention: false,
        biases: LLAMA_BIASES,
        scalings: &[Scaling::Llama3, Scaling::Yarn],
        keys: keys::granite,
        ..PLAIN
    },
    Family { id: "olmo2", architecture: "olmo2", square_attention: true, head: Head::Needed, ..PLAIN },
    Family {
        id: "smollm3",
        architecture: "smollm3",
        rotary: Rotary::Interleaved,
        states_sizes: true,
        biases: &[AttentionQ, AttentionK, AttentionV],
        limits: limits::smollm3,
        ..PLAIN
    },
    Family {
        id: "stablelm",
        architecture: "stablelm",
        epsilon: LAYER_NORM,
        square_attention: true,
        head: Head::Needed,
        biases: &[AttentionNorm, AttentionQ, AttentionK, AttentionV, FfnNorm, OutputNorm],
        keys: keys::parallel_residual,
        ..PLAIN
    },
    Family {
        id: "starcoder2",
        architecture: "starcoder2",
        epsilon: LAYER_NORM,
        square_attention: true,
        activations: GELU_TANH,
        biases: &[
            AttentionNorm,
            AttentionQ,
            AttentionK,
            AttentionV,
            AttentionOutput,
            FfnNorm,
            FfnUp,
            FfnDown,
            OutputNorm,
        ],
        needed_biases: &[AttentionOutput, FfnUp, FfnDown],
        ..PLAIN
    },
    Family {
        id: "cohere",
        architecture: "command-r",
        epsilon: LAYER_NORM,
        square_attention: true,
        head: Head::Never,
        keys: keys::cohere,
        limits: limits::cohere,
        ..PLAIN
    },
    Family {
        id: "exaone4",
        architecture: "exaone4",
        square_attention: true,
        scalings: &[Scaling::Llama3, Scaling::Yarn],
        states_sizes: true,
        window: Window::AllButEvery(4),
        limits: limits::exaone4,
        ..PLAIN
    },
    Family {
        id: "seed_oss",
        architecture: "seed_oss",
        ffn_norm: POST_ATTENTION,
        biases: &[AttentionQ, AttentionK, AttentionV],
        ..PLAIN
    },
    Family { id: "internlm3", biases: LLAMA_BIASES, ..LLAMA },
    Family {
        id: "gpt_neox",
        architecture: "gptneox",
        fused: Fused::ByHead,
        epsilon: LAYER_NORM,
        square_attention: true,
        activations: GELU,
        head: Head::Needed,
        biases: &[AttentionNorm, AttentionQkv, AttentionOutput, FfnNorm, FfnUp, FfnDown, OutputNorm],
        needed_biases: &[AttentionQkv, AttentionOutput],
        keys: keys::parallel_residual,
        ..PLAIN
    },
    Family {
        id: "gpt2",
        architecture: "gpt2",
        epsilon: LAYER_NORM,
        square_attention: true,
        activations: GELU_TANH,
        biases: &[AttentionNorm, AttentionQkv, AttentionOutput, FfnNorm, FfnUp, FfnDown, OutputNorm],
        limits: limits::gpt2,
        ..PLAIN
    },
];
