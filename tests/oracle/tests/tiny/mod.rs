//! A llama of one layer with arbitrary weights and a SentencePiece vocabulary, as a GGUF file.

use std::path::PathBuf;

/// Width of the model: one super-block, so that every level can be made of it.
pub(crate) const WIDTH: usize = 256;

const FEED_FORWARD: usize = 512;

/// Pieces beside the three control tokens and the bytes; later ones are less likely.
const PIECES: [&str; 14] = ["▁the", "the", "▁t", "he", "th", "▁h", "at", "▁", "t", "h", "e", "a", "s", "."];

/// Writes the model into the folder for test files and tells where. `broken` puts a NaN into it.
pub(crate) fn write(name: &str, broken: bool) -> PathBuf {
    let mut file = File::default();
    file.metadata();
    let mut seed = 1;
    for (name, dims) in file.tensor_list() {
        let elements = dims.iter().product();
        let mut weights: Vec<f32> = (0..elements).map(|_| uniform(&mut seed)).collect();
        if dims.len() == 1 {
            weights.fill(1.0);
        }
        if broken && name == "blk.0.ffn_up.weight" {
            weights[77] = f32::NAN;
        }
        file.tensor(&name, &dims, &weights);
    }
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, file.finish()).unwrap();
    path
}

/// Uniform in ±0.1.
fn uniform(seed: &mut u32) -> f32 {
    *seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
    (f32::from((*seed >> 16) as u16) / 65536.0 - 0.5) / 5.0
}

/// The parts of a GGUF file, written in the order of the format.
#[derive(Default)]
struct File {
    keys: u64,
    head: Vec<u8>,
    tensors: u64,
    infos: Vec<u8>,
    data: Vec<u8>,
}

impl File {
    fn metadata(&mut self) {
        self.text("general.architecture", "llama");
        self.number("llama.block_count", 1);
        self.number("llama.context_length", 512);
        self.number("llama.embedding_length", WIDTH as u32);
        self.number("llama.feed_forward_length", FEED_FORWARD as u32);
        self.number("llama.attention.head_count", 4);
        self.number("llama.attention.head_count_kv", 2);
        self.number("llama.rope.dimension_count", 64);
        self.key("llama.attention.layer_norm_rms_epsilon", 6, &1e-5_f32.to_le_bytes());
        self.text("tokenizer.ggml.model", "llama");
        self.number("tokenizer.ggml.bos_token_id", 1);
        self.number("tokenizer.ggml.eos_token_id", 2);
        self.number("tokenizer.ggml.unknown_token_id", 0);
        self.key("tokenizer.ggml.add_bos_token", 7, &[1]);
        let controls = ["<unk>", "<s>", "</s>"].map(str::to_owned);
        let bytes = (0..256).map(|byte| format!("<0x{byte:02X}>"));
        let tokens: Vec<String> = controls.into_iter().chain(bytes).chain(PIECES.map(str::to_owned)).collect();
        let kinds = (0..tokens.len()).map(|id| match id {
            0 => 2_i32,
            1 | 2 => 3,
            3..259 => 6,
            _ => 1,
        });
        let kinds: Vec<[u8; 4]> = kinds.map(i32::to_le_bytes).collect();
        let scores: Vec<[u8; 4]> = (0..tokens.len()).map(|id| (-(id as f32)).to_le_bytes()).collect();
        let tokens: Vec<Vec<u8>> = tokens.iter().map(|token| string(token)).collect();
        self.array("tokenizer.ggml.tokens", 8, tokens.iter().map(Vec::as_slice));
        self.array("tokenizer.ggml.token_type", 5, kinds.iter().map(<[u8; 4]>::as_slice));
        self.array("tokenizer.ggml.scores", 6, scores.iter().map(<[u8; 4]>::as_slice));
    }

    #[expect(clippy::unused_self, reason = "it belongs to the file's content")]
    fn tensor_list(&self) -> Vec<(String, Vec<usize>)> {
        let vocabulary = 259 + PIECES.len();
        let layer = [
            ("attn_norm", vec![WIDTH]),
            ("attn_q", vec![WIDTH, WIDTH]),
            ("attn_k", vec![WIDTH, WIDTH / 2]),
            ("attn_v", vec![WIDTH, WIDTH / 2]),
            ("attn_output", vec![WIDTH, WIDTH]),
            ("ffn_norm", vec![WIDTH]),
            ("ffn_gate", vec![WIDTH, FEED_FORWARD]),
            ("ffn_up", vec![WIDTH, FEED_FORWARD]),
            ("ffn_down", vec![FEED_FORWARD, WIDTH]),
        ];
        let mut list = vec![("token_embd.weight".to_owned(), vec![WIDTH, vocabulary])];
        list.extend(layer.into_iter().map(|(name, dims)| (format!("blk.0.{name}.weight"), dims)));
        list.push(("output_norm.weight".to_owned(), vec![WIDTH]));
        list.push(("output.weight".to_owned(), vec![WIDTH, vocabulary]));
        list
    }

    fn key(&mut self, key: &str, kind: u32, value: &[u8]) {
        self.keys += 1;
        self.head.extend(string(key));
        self.head.extend(kind.to_le_bytes());
        self.head.extend(value);
    }

    fn number(&mut self, key: &str, value: u32) {
        self.key(key, 4, &value.to_le_bytes());
    }

    fn text(&mut self, key: &str, value: &str) {
        self.key(key, 8, &string(value));
    }

    fn array<'a>(&mut self, key: &str, kind: u32, values: impl ExactSizeIterator<Item = &'a [u8]>) {
        let mut packed = kind.to_le_bytes().to_vec();
        packed.extend((values.len() as u64).to_le_bytes());
        packed.extend(values.flatten());
        self.key(key, 9, &packed);
    }

    fn tensor(&mut self, name: &str, dims: &[usize], weights: &[f32]) {
        self.tensors += 1;
        self.infos.extend(string(name));
        self.infos.extend((dims.len() as u32).to_le_bytes());
        self.infos.extend(dims.iter().flat_map(|dim| (*dim as u64).to_le_bytes()));
        self.infos.extend(0_u32.to_le_bytes());
        self.infos.extend((self.data.len() as u64).to_le_bytes());
        self.data.extend(weights.iter().flat_map(|weight| weight.to_le_bytes()));
        self.data.resize(self.data.len().next_multiple_of(32), 0);
    }

    fn finish(self) -> Vec<u8> {
        let mut file = b"GGUF".to_vec();
        file.extend(3_u32.to_le_bytes());
        file.extend(self.tensors.to_le_bytes());
        file.extend(self.keys.to_le_bytes());
        file.extend(self.head);
        file.extend(self.infos);
        file.resize(file.len().next_multiple_of(32), 0);
        file.extend(self.data);
        file
    }
}

fn string(text: &str) -> Vec<u8> {
    let mut packed = (text.len() as u64).to_le_bytes().to_vec();
    packed.extend(text.as_bytes());
    packed
}
