//! The wrapper itself: what it says of a small model, and that it refuses instead of aborting.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    clippy::unwrap_used,
    reason = "small numbers, in tests"
)]

mod tiny;

use std::path::Path;

use qhost_oracle::{Error, Gguf, Model, Recipe, Scored, Value};

const TEXT: &str = "the hat that sat. the heath. thee at the tea, <s> hé";

const F32: u32 = 0;
const Q8_0: u32 = 8;
const Q4_K: u32 = 12;

#[test]
fn text_survives_the_tokenizer() {
    let model = Model::load_vocabulary(&tiny::write("tokens.gguf", false)).unwrap();
    let tokens = model.tokenize(TEXT, true, false).unwrap();
    assert_eq!(tokens[0], 1, "begins with <s>");
    assert_eq!(tokens[1], 259, "▁the");
    assert_eq!(model.detokenize(&tokens[1..], false, false).unwrap(), TEXT.as_bytes());
    let pieces: Vec<u8> = tokens[1..].iter().flat_map(|&token| model.piece(token, true).unwrap()).collect();
    assert_eq!(String::from_utf8(pieces).unwrap().trim_start(), TEXT);

    assert_eq!(model.tokenize("", false, false).unwrap(), []);
    assert_eq!(model.tokenize("<s>", false, true).unwrap(), [1], "a control token by name");
    assert!(matches!(model.piece(999_999, false), Err(Error::Length(_))));
    assert!(matches!(model.detokenize(&[-1], false, false), Err(Error::Length(_))));
    assert!(matches!(model.logits(&[1]), Err(Error::Missing("weights"))));
}

#[test]
fn logits_depend_on_what_came_before_and_on_nothing_else() {
    let model = Model::load(&tiny::write("logits.gguf", false)).unwrap();
    let tokens = model.tokenize(TEXT, true, false).unwrap();
    let logits = model.logits(&tokens).unwrap();
    assert_eq!(logits.rows().len(), tokens.len());
    assert_eq!(logits.vocabulary, model.vocabulary_size());
    assert!(logits.values.iter().all(|value| value.is_finite()));
    let half = model.logits(&tokens[..tokens.len() / 2]).unwrap();
    for (whole, half) in logits.values.iter().zip(&half.values) {
        assert!((whole - half).abs() < 1e-3, "{whole} {half}");
    }
    assert_eq!(logits.values, model.logits(&tokens).unwrap().values);
    assert!(model.logits(&[]).is_err());
    assert!(model.logits(&[0, -5]).is_err());
}

#[test]
fn perplexity_is_what_the_logits_say() {
    let model = Model::load(&tiny::write("perplexity.gguf", false)).unwrap();
    let text = TEXT.repeat(2);
    let tokens = model.tokenize(&text, true, false).unwrap();
    for window in [16, 23] {
        for (scored, first) in [(Scored::All, 0), (Scored::SecondHalf, window / 2)] {
            let perplexity = model.perplexity(&text, window, scored).unwrap();
            let (mut total, mut count) = (0.0, 0);
            for window in tokens.chunks_exact(window) {
                let mut window = window.to_vec();
                window[0] = 1;
                let logits = model.logits(&window).unwrap();
                for (position, row) in logits.rows().enumerate().take(window.len() - 1).skip(first) {
                    let sum: f64 = row.iter().map(|&logit| f64::from(logit).exp()).sum();
                    total += sum.ln() - f64::from(row[window[position + 1] as usize]);
                    count += 1;
                }
            }
            assert_eq!(perplexity.scored, count);
            assert!((perplexity.mean_nll - total / count as f64).abs() < 1e-6);
            assert!((perplexity.value().ln() - perplexity.mean_nll).abs() < 1e-9);
        }
    }
    assert!(matches!(model.perplexity("the hat", 500, Scored::All), Err(Error::Length(_))));
    assert!(model.perplexity(&text, 1, Scored::All).is_err());
}

#[test]
fn divergence_is_what_the_logits_say() {
    let input = tiny::write("original.gguf", false);
    let output = input.with_file_name("coarse.gguf");
    let mut recipe = Recipe::new(10);
    recipe.pure = true;
    qhost_oracle::quantize_file(&input, &output, &recipe).unwrap();
    let (original, coarse) = (Model::load(&input).unwrap(), Model::load(&output).unwrap());
    let tokens = original.tokenize(TEXT, true, false).unwrap();
    // Rows of two lengths: what the first leaves behind must not be seen in the second.
    let rows = vec![tokens.clone(), tokens[3..11].to_vec()];

    let same = original.divergence_from(&original, &rows).unwrap();
    assert_eq!((same.kl, same.top1_agreement), (0.0, 1.0));
    let bits = f64::to_bits;
    assert_eq!(bits(same.mean_nll), bits(same.mean_nll_original));

    let (mut kl, mut nll, mut agreed, mut count) = (0.0, 0.0, 0, 0);
    for row in &rows {
        let (ours, theirs) = (coarse.logits(row).unwrap(), original.logits(row).unwrap());
        for ((ours, theirs), next) in ours.rows().zip(theirs.rows()).zip(&row[1..]) {
            let probabilities = |logits: &[f32]| -> Vec<f64> {
                let sum: f64 = logits.iter().map(|&logit| f64::from(logit).exp()).sum();
                logits.iter().map(|&logit| f64::from(logit).exp() / sum).collect()
            };
            let (p, q) = (probabilities(theirs), probabilities(ours));
            kl += p.iter().zip(&q).map(|(p, q)| p * (p / q).ln()).sum::<f64>();
            nll -= q[*next as usize].ln();
            let top = |p: &[f64]| (0..p.len()).max_by(|&a, &b| p[a].total_cmp(&p[b]));
            agreed += u32::from(top(&p) == top(&q));
            count += 1;
        }
    }
    let found = coarse.divergence_from(&original, &rows).unwrap();
    assert_eq!(found.scored, count);
    let count = count as f64;
    assert!(found.kl > 1e-4 && (found.kl - kl / count).abs() < 1e-6 * found.kl, "{} {}", found.kl, kl / count);
    assert!((found.mean_nll - nll / count).abs() < 1e-6, "{} {}", found.mean_nll, nll / count);
    assert!((found.top1_agreement - f64::from(agreed) / count).abs() < 1e-9);
    assert_eq!(bits(found.mean_nll_original), bits(same.mean_nll));

    assert!(original.divergence_from(&original, &[]).is_err());
    assert!(original.divergence_from(&original, &[tokens, vec![1]]).is_err());
}

#[test]
fn a_file_is_quantised_as_its_tensors_are() {
    let input = tiny::write("source.gguf", false);
    let output = input.with_file_name("quantised.gguf");
    let source = Gguf::open(&input).unwrap();
    assert_eq!(source.value("general.architecture"), Some(&Value::Text("llama".to_owned())));
    assert_eq!(source.value("llama.attention.layer_norm_rms_epsilon"), Some(&Value::F32(1e-5)));
    assert_eq!(source.value("tokenizer.ggml.add_bos_token"), Some(&Value::Bool(true)));
    let Some(Value::Array(tokens)) = source.value("tokenizer.ggml.tokens") else { panic!("no tokens") };
    assert_eq!(tokens[259], Value::Text("▁the".to_owned()));
    assert_eq!(source.tensor("output_norm.weight").map(|tensor| tensor.dims.len()), Some(1));

    let mut recipe = Recipe::new(15);
    recipe.threads = Some(2);
    qhost_oracle::quantize_file(&input, &output, &recipe).unwrap();
    let quantised = Gguf::open(&output).unwrap();
    assert_eq!(quantised.value("general.file_type"), Some(&Value::U32(15)));
    assert_eq!(quantised.tensors.len(), source.tensors.len());
    for tensor in &quantised.tensors {
        let original = source.tensor(&tensor.name).unwrap();
        assert_eq!(tensor.dims, original.dims);
        let weights = qhost_oracle::dequantize(F32, &source.read(original).unwrap()).unwrap();
        let bytes = qhost_oracle::quantize_chunk(tensor.ggml_type, &weights, tensor.dims[0] as usize).unwrap();
        assert_eq!(quantised.read(tensor).unwrap(), bytes, "{}", tensor.name);
    }
    assert_eq!(quantised.tensor("blk.0.attn_q.weight").map(|tensor| tensor.ggml_type), Some(Q4_K));
    let bytes = std::fs::read(&output).unwrap();
    recipe.threads = Some(1);
    qhost_oracle::quantize_file(&input, &output, &recipe).unwrap();
    assert!(bytes == std::fs::read(&output).unwrap(), "bytes depend on the number of threads");
    assert!(Model::load(&output).unwrap().logits(&[1, 259]).is_ok());

    recipe = Recipe::new(7);
    recipe.pure = true;
    recipe.output_type = Some(F32);
    qhost_oracle::quantize_file(&input, &output, &recipe).unwrap();
    let pure = Gguf::open(&output).unwrap();
    let kind = |name: &str| pure.tensor(name).map(|tensor| tensor.ggml_type);
    assert_eq!((kind("token_embd.weight"), kind("output.weight")), (Some(Q8_0), Some(F32)));
    assert_eq!(pure.difference(&pure).unwrap(), None);
    assert_eq!(pure.difference(&quantised).unwrap().as_deref(), Some("the metadata differ"));
    // Its last byte is one of a weight.
    let mut bytes = std::fs::read(&output).unwrap();
    let last = pure.tensors.iter().map(|tensor| pure.data_offset + tensor.offset + tensor.bytes).max().unwrap() - 1;
    bytes[last] ^= 1;
    let other = output.with_file_name("other.gguf");
    std::fs::write(&other, bytes).unwrap();
    let difference = pure.difference(&Gguf::open(&other).unwrap()).unwrap();
    assert!(difference.is_some_and(|text| text.starts_with("the bytes of ")));
}

#[test]
fn a_failure_tells_what_llama_cpp_said() {
    let missing = Model::load(Path::new("no/such/file.gguf")).unwrap_err().to_string();
    assert!(missing.contains("no/such/file.gguf") && missing.contains("failed to open"), "{missing}");
    let broken = Model::load(&tiny::write("broken.gguf", true)).unwrap_err().to_string();
    assert!(broken.contains("invalid data"), "{broken}");
    assert!(Gguf::open(Path::new(file!())).is_err());
    let nowhere = qhost_oracle::quantize_file(Path::new("no/such/file.gguf"), Path::new("out"), &Recipe::new(7));
    assert!(matches!(nowhere, Err(Error::Llama { .. })));
    assert!(matches!(Gguf::open(Path::new("nul\0byte")), Err(Error::Path(_))));
}

#[test]
fn what_ggml_would_abort_on_is_refused() {
    let quantize = |ggml_type, count: usize, row| qhost_oracle::quantize_chunk(ggml_type, &vec![0.5; count], row);
    for (what, ggml_type) in [("removed", 4), ("beyond", 43), ("far beyond", u32::MAX)] {
        assert!(matches!(quantize(ggml_type, 256, 256), Err(Error::UnknownType(_))), "{what}");
        assert!(qhost_oracle::dequantize(ggml_type, &[]).is_err(), "{what}");
        assert!(qhost_oracle::validate_row_data(ggml_type, &[]).is_err(), "{what}");
    }
    for (what, ggml_type) in [("Q8_1", 9), ("Q8_K", 15), ("I32", 26), ("IQ2_XXS", 16)] {
        assert!(matches!(quantize(ggml_type, 256, 256), Err(Error::NotConvertible { .. })), "{what}");
    }
    assert!(matches!(quantize(Q4_K, 32, 32), Err(Error::Length(_))));
    assert!(matches!(quantize(Q4_K, 256, 512), Err(Error::Length(_))));
    assert!(matches!(quantize(Q4_K, 256, 0), Err(Error::Length(_))));
    assert!(matches!(qhost_oracle::dequantize(Q4_K, &[0; 143]), Err(Error::Length(_))));
    assert!(matches!(qhost_oracle::dequantize(26, &[0; 4]), Err(Error::NotConvertible { .. })));
    let into = |columns, out: &mut [u64]| qhost_oracle::quantize_chunk_into(Q8_0, &[0.0; 32], 32, columns, out);
    assert!(into(None, &mut [0; 5]).is_ok());
    assert!(matches!(into(None, &mut [0; 4]), Err(Error::Length(_))));
    assert!(matches!(into(Some(&[1.0; 31]), &mut [0; 5]), Err(Error::Length(_))));
    let widen = |blocks: &[u64], out: &mut [f32]| qhost_oracle::dequantize_into(Q8_0, blocks, out);
    assert!(widen(&[0; 5], &mut [1.0; 32]).is_ok());
    assert!(matches!(widen(&[0; 4], &mut [1.0; 32]), Err(Error::Length(_))));
    assert!(matches!(widen(&[0; 5], &mut [1.0; 33]), Err(Error::Length(_))));
}

#[test]
fn every_type_that_can_be_made_can_be_read() {
    let x: Vec<f32> = (0..512_u16).map(|index| f32::from(index % 37) / 37.0 - 0.5).collect();
    let mut made = 0;
    for ggml_type in 0..43 {
        let Ok(info) = qhost_oracle::type_info(ggml_type) else { continue };
        // Their search tables take ggml twenty seconds to build.
        if ["iq1", "iq2", "iq3"].iter().any(|kind| info.name.starts_with(kind)) {
            continue;
        }
        let Ok(bytes) = qhost_oracle::quantize_chunk(ggml_type, &x, 256) else { continue };
        made += 1;
        assert_eq!(bytes.len(), 2 * qhost_oracle::row_size(ggml_type, 256).unwrap());
        assert!(qhost_oracle::validate_row_data(ggml_type, &bytes).unwrap(), "{}", info.name);
        let back = qhost_oracle::dequantize(ggml_type, &bytes).unwrap();
        let error: f32 = x.iter().zip(&back).map(|(x, back)| (x - back) * (x - back)).sum();
        assert!(error < 0.6 * x.iter().map(|x| x * x).sum::<f32>(), "{}: {error}", info.name);
    }
    assert!(made >= 13, "{made}");
}
