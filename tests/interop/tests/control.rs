//! What `llama-quantize` lets its users choose, against `llama_model_quantize` with the same choices: types of single
//! tensors, keys, and importance matrices from files of both forms. The type and the bytes of every tensor have to be the
//! same, and so have all keys in their order.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use qhost_gguf::format::{BlockType, LEVELS, Level};
use qhost_oracle::{Gguf, Given, Recipe, quantize_file};
use qhost_tests::{checkpoint::RandomLlama, command::Qhost, fixture};
use tempfile::TempDir;

/// A model, and the file that llama.cpp starts from: in the floats that the checkpoint has.
struct Bench {
    folder: TempDir,
    model: PathBuf,
    base: PathBuf,
}

impl Bench {
    fn new(model: &Path, floats: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let base = qhost_interop::quantize(model, floats, &folder.path().join("base"));
        Self { folder, model: model.to_owned(), base }
    }

    fn ours(&self, level: &str, options: &[&str], folder: &str) -> Gguf {
        let qhost = Qhost::new(["quantize", "--format", "gguf", "--level", level, "--force", "-o"]);
        let result = qhost.arg(self.folder.path().join(folder)).arg(&self.model).args(options.iter().copied()).json();
        Gguf::open(Path::new(result["output_path"].as_str().unwrap())).unwrap()
    }

    fn reference(&self, recipe: &Recipe) -> Gguf {
        let path = self.folder.path().join("reference.gguf");
        quantize_file(&self.base, &path, recipe).unwrap();
        Gguf::open(&path).unwrap()
    }

    /// Makes a file both ways.
    fn assert_same(&self, level: &str, options: &[&str], choose: impl FnOnce(&mut Recipe)) {
        let mut recipe = Recipe::new(Level::named(level).unwrap().file_type);
        choose(&mut recipe);
        let (ours, reference) = (self.ours(level, options, "ours"), self.reference(&recipe));
        let what = format!("{level} {}", options.join(" "));
        assert_eq!(ours.tensors.len(), reference.tensors.len(), "{what}");
        for (mine, theirs) in ours.tensors.iter().zip(&reference.tensors) {
            let same_kind = (&mine.name, mine.ggml_type) == (&theirs.name, theirs.ggml_type);
            assert!(same_kind, "{what}: {mine:?} is not {theirs:?}");
            let same = ours.read(mine).unwrap() == reference.read(theirs).unwrap();
            assert!(same, "{what}: the bytes of {} differ", mine.name);
        }
        assert_eq!(ours.metadata, reference.metadata, "{what}");
    }
}

fn types(patterns: &[(&str, BlockType)]) -> Vec<(String, u32)> {
    patterns.iter().map(|(pattern, kind)| ((*pattern).to_owned(), kind.ggml_type())).collect()
}

#[test]
fn types_of_single_tensors() {
    let bench = Bench::new(&fixture("tinylm"), "BF16");
    bench.assert_same("Q4_K_M", &["--tensor-type", "ffn_down=q8_0"], |recipe| {
        recipe.tensor_types = types(&[("ffn_down", BlockType::Q8_0)]);
    });
    // The first that is found counts, and what has a type of its own is not counted by the mixture.
    let several = [r"blk\.(0|2)\..*(attn_v|ffn_down)=Q3_K", "attn_v=IQ4_XS", "^output=Q5_0", "_norm=Q8_0"];
    let options: Vec<_> = several.iter().flat_map(|pattern| ["--tensor-type", pattern]).collect();
    for level in ["Q4_K_M", "Q2_K", "Q3_K_L", "Q4_0"] {
        bench.assert_same(level, &options, |recipe| {
            recipe.tensor_types = types(&[
                (r"blk\.(0|2)\..*(attn_v|ffn_down)", BlockType::Q3K),
                ("attn_v", BlockType::IQ4XS),
                ("^output", BlockType::Q5_0),
                ("_norm", BlockType::Q8_0),
            ]);
        });
    }
    bench.assert_same("Q5_K_M", &["--plugin-option", "pure=true"], |recipe| recipe.pure = true);
    bench.assert_same("Q5_K_M", &["--plugin-option", "pure=true", "--tensor-type", "attn_q=Q2_K"], |recipe| {
        recipe.pure = true;
        recipe.tensor_types = types(&[("attn_q", BlockType::Q2K)]);
    });
    bench.assert_same("Q4_K_S", &["--plugin-option", "leave-output-tensor=true"], |recipe| {
        recipe.leave_output_tensor = true;
    });
    let options = ["--plugin-option", "output-tensor-type=q4_1", "--plugin-option", "token-embedding-type=IQ4_NL"];
    bench.assert_same("Q6_K", &options, |recipe| {
        recipe.output_type = Some(BlockType::Q4_1.ggml_type());
        recipe.embedding_type = Some(BlockType::IQ4NL.ggml_type());
    });
}

/// Where the embedding is the output, and where rows are no whole super-blocks.
#[test]
fn types_where_the_embedding_is_the_output() {
    let bench = Bench::new(&fixture("stories260K"), "F32");
    bench.assert_same("Q4_K_M", &["--plugin-option", "output-tensor-type=Q6_K"], |recipe| {
        recipe.output_type = Some(BlockType::Q6K.ggml_type());
    });
    let both = ["--plugin-option", "output-tensor-type=Q4_0", "--plugin-option", "token-embedding-type=Q5_1"];
    bench.assert_same("Q8_0", &both, |recipe| {
        recipe.output_type = Some(BlockType::Q4_0.ggml_type());
        recipe.embedding_type = Some(BlockType::Q5_1.ggml_type());
    });
    bench.assert_same("Q4_K_M", &["--tensor-type", "token_embd=Q5_K", "--plugin-option", "pure=true"], |recipe| {
        recipe.pure = true;
        recipe.tensor_types = types(&[("token_embd", BlockType::Q5K)]);
    });
}

#[test]
fn keys_that_are_given() {
    let bench = Bench::new(&fixture("tinylm"), "BF16");
    let options = [
        ["--plugin-option", "override-kv=general.name=str:another: name=1"],
        ["--plugin-option", "override-kv=llama.context_length=int:77"],
        ["--plugin-option", "override-kv=my.float=float:-0.5"],
        ["--plugin-option", "override-kv=tokenizer.ggml.add_bos_token=bool:false"],
    ];
    bench.assert_same("Q4_0", options.as_flattened(), |recipe| {
        let key = |key: &str, value| (key.to_owned(), value);
        recipe.keys = vec![
            key("general.name", Given::Text("another: name=1".into())),
            key("llama.context_length", Given::Integer(77)),
            key("my.float", Given::Float(-0.5)),
            key("tokenizer.ggml.add_bos_token", Given::Bool(false)),
        ];
    });
}

/// Importances of every tensor with columns, the embedding and the output too, of which some are nothing.
fn importances(base: &Path) -> BTreeMap<String, Vec<f32>> {
    let base = Gguf::open(base).unwrap();
    let mut state = 7_u32;
    let mut next = move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let number = f32::from(u16::try_from(state >> 16).unwrap()) / 65536.0;
        if number < 0.03 { 0.0 } else { number.powi(6) * 900.0 }
    };
    let matrices = base.tensors.iter().filter(|tensor| tensor.dims.len() > 1);
    let columns = matrices.map(|tensor| {
        let count = tensor.dims[0] * tensor.dims.get(2).copied().unwrap_or(1);
        (tensor.name.clone(), (0..count).map(|_| next()).collect())
    });
    columns.collect()
}

/// The older form. Its values are divided by the number beside them, which is another for every tensor.
fn dat(importances: &BTreeMap<String, Vec<f32>>, dataset: &str) -> (Vec<u8>, BTreeMap<String, Vec<f32>>) {
    let number = |count: usize| u32::try_from(count).unwrap().to_le_bytes();
    let mut bytes = number(importances.len()).to_vec();
    let mut meant = BTreeMap::new();
    for (index, (name, values)) in importances.iter().enumerate() {
        bytes.extend(number(name.len()));
        bytes.extend(name.bytes());
        bytes.extend(number(index % 5));
        bytes.extend(number(values.len()));
        bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        let divisor = f32::from(u8::try_from((index % 5).max(1)).unwrap());
        meant.insert(name.clone(), values.iter().map(|value| value / divisor).collect());
    }
    bytes.extend(number(31));
    bytes.extend(number(dataset.len()));
    bytes.extend(dataset.bytes());
    (bytes, meant)
}

/// The keys by which `llama-quantize` tells of a matrix.
fn told(file: &str, dataset: &str, entries: usize, chunks: i64) -> Vec<(String, Given)> {
    vec![
        ("quantize.imatrix.file".into(), Given::Text(file.into())),
        ("quantize.imatrix.dataset".into(), Given::Text(dataset.into())),
        ("quantize.imatrix.entries_count".into(), Given::Integer(i64::try_from(entries).unwrap())),
        ("quantize.imatrix.chunks_count".into(), Given::Integer(chunks)),
    ]
}

fn assert_same_at_all_levels(model: &Path) {
    let bench = Bench::new(model, "BF16");
    let (bytes, meant) = dat(&importances(&bench.base), "wiki.train.raw");
    let file = bench.folder.path().join("imatrix.dat");
    fs::write(&file, bytes).unwrap();
    for level in LEVELS.iter().filter(|level| level.base.uses_importance()) {
        bench.assert_same(level.name, &["--imatrix", file.to_str().unwrap()], |recipe| {
            recipe.importances = meant.clone();
            recipe.keys = told("imatrix.dat", "wiki.train.raw", meant.len(), 31);
        });
    }
}

#[test]
fn importance_matrices_of_the_older_form_at_all_levels() {
    assert_same_at_all_levels(&fixture("tinylm"));
}

/// Every expert has values of its own.
#[test]
fn importance_matrices_of_the_older_form_with_experts() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("experts");
    RandomLlama { layers: 2, experts: 3, ffn: 256, heads: 8, kv_heads: 2, ..RandomLlama::default() }.write(&model);
    assert_same_at_all_levels(&model);
}

/// Of some tensors only, and among choices of other kinds.
#[test]
fn entries_that_are_included_and_excluded() {
    let bench = Bench::new(&fixture("tinylm"), "BF16");
    let (bytes, meant) = dat(&importances(&bench.base), "wiki");
    let file = bench.folder.path().join("m.dat");
    fs::write(&file, bytes).unwrap();
    let file = ["--imatrix", file.to_str().unwrap(), "--tensor-type", "ffn_up=IQ4_NL"];
    let case = |option: &str, keeps: &dyn Fn(&str) -> bool| {
        let options = [&file[..], &["--plugin-option", option, "--plugin-option", "override-kv=a=int:1"]].concat();
        bench.assert_same("Q4_K_M", &options, |recipe| {
            recipe.importances = meant.clone().into_iter().filter(|(name, _)| keeps(name)).collect();
            recipe.tensor_types = types(&[("ffn_up", BlockType::IQ4NL)]);
            recipe.keys = vec![("a".into(), Given::Integer(1))];
            recipe.keys.extend(told("m.dat", "wiki", recipe.importances.len(), 31));
        });
    };
    case("include-weights=attn_v,ffn_down", &|name| name.contains("attn_v") || name.contains("ffn_down"));
    case("exclude-weights=output", &|name| !name.contains("output"));
}

/// The matrix that a run saved is read like one of `llama-imatrix`, and gives the bytes of that run.
#[test]
fn importance_matrices_in_the_form_of_gguf() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("experts");
    RandomLlama { layers: 2, experts: 6, ffn: 256, heads: 8, kv_heads: 2, ..RandomLlama::default() }.write(&model);
    // Few tokens: an expert sees none.
    let rows = folder.path().join("rows.jsonl");
    fs::write(&rows, "{\"input_ids\": [3, 5, 8]}\n").unwrap();
    for model in [&model, &fixture("tinylm")] {
        let bench = Bench::new(model, "BF16");
        let options = ["--imatrix", "auto", "--calibration", rows.to_str().unwrap(), "--plugin-option"];
        let computed = bench.ours("Q4_K_M", &[&options[..], &["save-imatrix=true"]].concat(), "computed");
        let name = model.file_name().unwrap().to_str().unwrap();
        let saved = bench.folder.path().join("computed").join(format!("{name}-Q4_K_M.imatrix.gguf"));
        let read = bench.ours("Q4_K_M", &["--imatrix", saved.to_str().unwrap()], "read");
        for (one, other) in computed.tensors.iter().zip(&read.tensors) {
            assert!(computed.read(one).unwrap() == read.read(other).unwrap(), "the bytes of {} differ", one.name);
        }
        let keys = |file: &Gguf| -> Vec<_> {
            // What the file has is counted, also of matrices that stay in floats.
            let other = ["quantize.imatrix.file", "quantize.imatrix.entries_count"];
            let keys = file.metadata.iter().filter(|(key, _)| !other.contains(&key.as_str()));
            keys.cloned().collect()
        };
        assert_eq!(keys(&computed), keys(&read));
    }
}
