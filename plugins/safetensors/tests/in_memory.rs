//! Whole jobs on byte vectors: nothing is loaded, and no file is read or written.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;

use half::{bf16, f16};
use qhost_plugin_api::{
    documents::{
        Arriving, BoundOf, Conversion, Encoding, Fidelity, OpenRequest, Options, Part, Plan, Role, RoleKind,
        SegmentContent, SourceTensor, TensorSegment, UnitInfo,
    },
    sdk::{
        DType, Failure, FailureKind, Result,
        testing::{Made, TestHost, TestModel},
    },
};
use qhost_safetensors::Safetensors;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};

fn level(name: &str) -> Options {
    Options { level: Some(name.into()), ..Options::default() }
}

fn make(model: &TestModel, options: Options) -> Result<Made> {
    TestHost::new().connect::<Safetensors>()?.make(model, "safetensors", options)
}

fn refused(model: &TestModel, options: Options) -> Failure {
    make(model, options).unwrap_err()
}

/// A small llama with a config.
fn llama() -> TestModel {
    let mut model = TestModel::llama(2, 64, 96, 100);
    let config = model.model.config.to_string();
    model.companion("config.json", config);
    model
}

/// A model of tensors alone, in one unit.
fn model(family: &str) -> TestModel {
    let mut model = TestModel::new("tiny", family);
    model.model.units.push(UnitInfo::layer(0, 0));
    model.companion("config.json", json!({"model_type": family}).to_string());
    model
}

/// Tensors by their names: dtypes, shapes, numbers.
fn tensors(made: &Made) -> BTreeMap<String, (Dtype, Vec<usize>, Vec<f32>)> {
    assert!(made.findings.passed(), "{:?}", made.findings);
    let mut all = BTreeMap::new();
    for (_, bytes) in made.files.iter().filter(|(name, _)| name.ends_with(".safetensors")) {
        for (name, tensor) in SafeTensors::deserialize(bytes).unwrap().tensors() {
            let data = tensor.data();
            let halves = || data.as_chunks().0.iter().map(|raw| u16::from_le_bytes(*raw));
            let numbers = match tensor.dtype() {
                Dtype::F32 => data.as_chunks().0.iter().map(|raw| f32::from_le_bytes(*raw)).collect(),
                Dtype::F16 => halves().map(|bits| f16::from_bits(bits).to_f32()).collect(),
                Dtype::BF16 => halves().map(|bits| bf16::from_bits(bits).to_f32()).collect(),
                other => unreachable!("{other:?}"),
            };
            all.insert(name, (tensor.dtype(), tensor.shape().to_vec(), numbers));
        }
    }
    all
}

fn planned(plan: &Plan) -> impl Iterator<Item = &TensorSegment> {
    plan.segments.iter().filter_map(|segment| match &segment.content {
        SegmentContent::Tensor(tensor) => Some(tensor),
        _ => None,
    })
}

fn bits(numbers: &[f32]) -> Vec<u32> {
    numbers.iter().map(|number| number.to_bits()).collect()
}

#[test]
fn plan_bytes_and_figures_do_not_depend_on_the_threads() {
    for name in ["F32", "F16", "BF16"] {
        let (one, many) = (TestHost::new(), TestHost::new().threads(5));
        let on = |host: &TestHost| host.connect::<Safetensors>()?.make(&llama(), "safetensors", level(name));
        let made = on(&one).unwrap();
        assert_eq!(tensors(&made).len(), llama().model.tensors.len(), "{name}");
        assert_eq!(made.weights, llama().model.parameters());
        assert_eq!(made, on(&many).unwrap(), "{name}");
        // What was granted is what was planned.
        let planned = |threads| made.plan.units.iter().map(|unit| unit.working_memory(threads)).max();
        assert_eq!((Some(one.peak_granted()), Some(many.peak_granted())), (planned(1), planned(5)), "{name}");
    }
}

#[test]
fn weights_are_rounded_once_and_the_plan_tells_how_far() {
    for (name, of_type, round) in [
        ("F32", Dtype::F32, (|x| x) as fn(f32) -> f32),
        ("F16", Dtype::F16, |x| f16::from_f32(x).to_f32()),
        ("BF16", Dtype::BF16, |x| bf16::from_f32(x).to_f32()),
    ] {
        let source = tensors(&make(&llama(), level("F32")).unwrap());
        let made = make(&llama(), level(name)).unwrap();
        let mut squares = BTreeMap::new();
        for (tensor, (dtype, shape, numbers)) in tensors(&made) {
            let (_, same, from) = &source[&tensor];
            let rounded: Vec<_> = from.iter().map(|x| round(*x)).collect();
            assert_eq!((dtype, &shape, bits(&numbers)), (of_type, same, bits(&rounded)), "{tensor}");
            let sum = |terms: &mut dyn Iterator<Item = f32>| terms.map(|term| f64::from(term).powi(2)).sum::<f64>();
            let errors = sum(&mut from.iter().zip(&numbers).map(|(a, b)| a - b));
            squares.insert(tensor, (errors / sum(&mut from.iter().copied())).sqrt());
        }
        let bound = if name == "F16" { 2.0_f64.powi(-11) } else { 2.0_f64.powi(-8) };
        let fidelity = if name == "F32" { Fidelity::exact() } else { Fidelity::rounded(bound, BoundOf::Weight) };
        for tensor in planned(&made.plan) {
            assert_eq!((&*tensor.encoding, tensor.fidelity.as_ref()), (name, Some(&fidelity)));
            assert!(tensor.cost.is_some_and(|cost| cost > 0.0));
        }
        for metric in &made.metrics {
            let SegmentContent::Tensor(tensor) = &made.plan.segments[metric.segment as usize].content else {
                unreachable!()
            };
            assert!((metric.value - squares[&tensor.name]).abs() < 1e-6, "{name}: {metric:?}");
            assert!((metric.value > 0.0) == (name != "F32") && metric.value < bound, "{name}: {metric:?}");
        }
        assert_eq!(made.metrics.len(), squares.len());
    }
}

/// Signed zeros, numbers below the normal ones and the largest: none is changed where the type is the same, or wider.
#[test]
fn every_finite_number_of_16_bits_is_kept() {
    for (name, dtype, infinity) in [("F16", DType::F16, 0x7c00_u16), ("BF16", DType::BF16, 0x7f80)] {
        let finite: Vec<u16> = (0..infinity).chain(0x8000..0x8000 + infinity).collect();
        let bytes: Vec<u8> = finite.iter().flat_map(|bits| bits.to_le_bytes()).collect();
        let mut model = model("llama");
        let shape = vec![finite.len() as u64 / 256, 256];
        let tensor = SourceTensor::new("w", Role::weight(RoleKind::FfnUp), 0, name, shape);
        model.stored_tensor(tensor, dtype, bytes.clone());
        let same = make(&model, Options::default()).unwrap();
        assert_eq!((&*same.plan.level, &*same.plan.output.suffix), (name, &*format!("-{name}")));
        let file = &same.files["model.safetensors"];
        assert_eq!(SafeTensors::deserialize(file).unwrap().tensor("w").unwrap().data(), bytes);
        let wide = tensors(&make(&model, level("F32")).unwrap());
        let widen = |bits: u16| match name {
            "F16" => f16::from_bits(bits).to_f32(),
            _ => bf16::from_bits(bits).to_f32(),
        };
        assert_eq!(bits(&wide["w"].2), finite.iter().map(|bits| widen(*bits).to_bits()).collect::<Vec<_>>());
    }
}

#[test]
fn a_weight_that_is_too_large_or_no_number_is_refused_by_name() {
    let with = |value: f32| {
        let mut model = model("llama");
        let values = (0..8_u16).map(|at| if at == 6 { value } else { f32::from(at) });
        model.tensor("layer.up", Role::weight(RoleKind::FfnUp), 0, &[4, 2], values);
        model
    };
    for (value, name, wider) in [(65520.0, "F16", "BF16 or F32"), (-1e20, "F16", "BF16"), (f32::MAX, "BF16", "F32")] {
        let failure = refused(&with(value), level(name));
        assert_eq!((failure.kind, &*failure.subject), (FailureKind::UNSUPPORTED, "layer.up"), "{failure}");
        assert!(failure.message.contains("row 3") && failure.hint.contains(wider), "{failure}");
    }
    // The last number that rounds to the largest.
    assert!(make(&with(65519.996), level("F16")).is_ok());
    for (value, name) in [(f32::NAN, "F32"), (f32::INFINITY, "BF16"), (f32::NEG_INFINITY, "F16")] {
        let failure = refused(&with(value), level(name));
        assert_eq!((failure.kind, &*failure.subject), (FailureKind::CORRUPT, "layer.up"), "{failure}");
    }
}

/// gpt-oss with its experts in blocks, and gpt2 whose linears came with an output in each row.
#[test]
fn what_the_family_stores_the_other_way_round_is_turned() {
    let numbers = |count: u16| (0..count).map(f32::from);
    let mut oss = model("gpt_oss");
    oss.tensor("mlp.experts.down_proj_blocks", Role::weight(RoleKind::ExpertsDown), 0, &[2, 3, 5], numbers(30));
    let as_stored = SourceTensor::new("e.gate_up_proj", Role::weight(RoleKind::ExpertsGateUp), 0, "F32", vec![1, 2, 3]);
    let bytes: Vec<u8> = numbers(6).flat_map(f32::to_le_bytes).collect();
    oss.stored_tensor(as_stored, DType::F32, bytes);
    oss.model.tensors[1].transposed = true;
    oss.tensor("mlp.experts.down_proj_bias", Role::bias(RoleKind::ExpertsDown), 0, &[2, 3], numbers(6));
    let made = make(&oss, level("F32")).unwrap();
    let written = tensors(&made);
    let (_, shape, down) = &written["mlp.experts.down_proj"];
    assert_eq!(*shape, [2, 5, 3]);
    let turned: Vec<_> = (0..30_u16).map(|at| f32::from(at / 15 * 15 + at % 3 * 5 + at % 15 / 3)).collect();
    assert_eq!(bits(down), bits(&turned));
    assert_eq!(
        (&*written["e.gate_up_proj"].1, &*written["mlp.experts.down_proj_bias"].1),
        (&[1, 2, 3][..], &[2, 3][..])
    );
    assert_eq!(bits(&written["e.gate_up_proj"].2), bits(&numbers(6).collect::<Vec<_>>()));
    assert_eq!(made.weights, oss.model.parameters());

    let mut gpt2 = model("gpt2");
    gpt2.tensor("h.0.mlp.c_fc.weight", Role::weight(RoleKind::FfnUp), 0, &[3, 2], numbers(6));
    gpt2.tensor("lm_head.weight", Role::weight(RoleKind::Output), 0, &[3, 2], numbers(6));
    let written = tensors(&make(&gpt2, level("BF16")).unwrap());
    assert_eq!((&*written["h.0.mlp.c_fc.weight"].1, &*written["lm_head.weight"].1), (&[2, 3][..], &[3, 2][..]));
    assert_eq!(bits(&written["h.0.mlp.c_fc.weight"].2), bits(&[0.0, 2.0, 4.0, 1.0, 3.0, 5.0]));

    let mut other = model("mixtral");
    other.tensor("x.down_proj_blocks", Role::weight(RoleKind::ExpertsDown), 0, &[1, 1, 1], [0.0]);
    assert_eq!(refused(&other, level("F32")).kind, FailureKind::UNSUPPORTED);
}

/// Matrices of more rows than are read at once, by several threads.
#[test]
fn a_large_matrix_is_turned_piece_by_piece() {
    let (rows, columns) = (700_u64, 300_u64);
    let mut model = model("gpt2");
    // Distinct within what F16 has.
    let value = |row: u64, column: u64| f32::from(u16::try_from((row * 7 + column * 3) % 2048).unwrap());
    let values = (0..2 * rows).flat_map(|row| (0..columns).map(move |column| value(row, column)));
    model.tensor("w", Role::weight(RoleKind::FfnDown), 0, &[2, rows, columns], values);
    let plugin = TestHost::new().threads(3).connect::<Safetensors>().unwrap();
    let written = tensors(&plugin.make(&model, "safetensors", level("F16")).unwrap());
    let (_, shape, numbers) = &written["w"];
    assert_eq!(*shape, [2, 300, 700]);
    let line = move |matrix: u64, column: u64| (0..rows).map(move |row| value(matrix * rows + row, column));
    let expected = (0..2).flat_map(|matrix| (0..columns).flat_map(move |column| line(matrix, column)));
    assert!(numbers.iter().zip(expected).all(|(a, b)| a.to_bits() == b.to_bits()));
}

#[test]
fn what_decides_between_experts_stays_in_32_bits() {
    let mut model = model("deepseek_v3");
    model.tensor("gate.bias", Role::new(RoleKind::RouterCorrection, Part::Bias), 0, &[2], [1.000_001, 1.000_002]);
    model.tensor("w", Role::weight(RoleKind::FfnUp), 0, &[2], [1.0, 2.0]);
    let made = make(&model, level("BF16")).unwrap();
    let written = tensors(&made);
    assert_eq!((written["gate.bias"].0, written["w"].0), (Dtype::F32, Dtype::BF16));
    assert_eq!(bits(&written["gate.bias"].2), bits(&[1.000_001, 1.000_002]));
    let told = planned(&made.plan).find(|tensor| tensor.name == "gate.bias").unwrap();
    assert_eq!((told.instead_of.as_deref(), &told.fidelity), (Some("BF16"), &Some(Fidelity::exact())));
}

#[test]
fn files_are_split_where_they_would_be_too_large() {
    let plugin = [("shard-size".to_owned(), "20kB".to_owned())].into();
    let split = make(&llama(), Options { plugin, ..level("BF16") }).unwrap();
    assert!(split.plan.files.len() > 3);
    assert_eq!(tensors(&split), tensors(&make(&llama(), level("BF16")).unwrap()));
    let index: Value = serde_json::from_slice(&split.files["model.safetensors.index.json"]).unwrap();
    for (name, file) in index["weight_map"].as_object().unwrap() {
        let bytes = &split.files[file.as_str().unwrap()];
        assert!(SafeTensors::deserialize(bytes).unwrap().tensor(name).is_ok(), "{name}");
    }
}

#[test]
fn small_files_are_those_of_the_source_and_the_config_tells_the_type() {
    let mut model = model("llama");
    model.tensor("w", Role::weight(RoleKind::FfnUp), 0, &[2], [1.0, 2.0]);
    for name in ["tokenizer.json", "generation_config.json", "README.md", "quantize_config.json", "x.bin.index.json"] {
        model.companion(name, "{}");
    }
    model.companion("additional_chat_templates/tool.jinja", "x");
    let made = make(&model, level("F16")).unwrap();
    let names: Vec<_> = made.files.keys().map(String::as_str).collect();
    assert_eq!(names, ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json"]);
    let config: Value = serde_json::from_slice(&made.files["config.json"]).unwrap();
    assert_eq!(config, json!({"model_type": "llama", "torch_dtype": "float16"}));
    assert!(made.plan.warnings.iter().any(|warning| warning.contains("tool.jinja")), "{:?}", made.plan.warnings);
}

/// The config comes with the model where no small file has it.
#[test]
fn a_source_without_a_config_file_gets_one() {
    let made = make(&TestModel::llama(1, 32, 64, 50), level("F32")).unwrap();
    let config: Value = serde_json::from_slice(&made.files["config.json"]).unwrap();
    assert_eq!((&config["model_type"], &config["torch_dtype"]), (&json!("llama"), &json!("float32")));
}

#[test]
fn of_a_larger_model_the_language_model_alone_is_written() {
    let mut model = TestModel::new("tiny", "gemma3_text");
    model.model.units.push(UnitInfo::layer(0, 0));
    let text = json!({"model_type": "gemma3_text", "hidden_size": 2});
    let outer = json!({"model_type": "gemma3", "text_config": text, "vision_config": {}});
    model.companion("config.json", outer.to_string());
    model.companion("preprocessor_config.json", "{}");
    model.tensor("language_model.model.norm.weight", Role::weight(RoleKind::OutputNorm), 0, &[2], [1.0, 2.0]);
    let made = make(&model, level("F32")).unwrap();
    assert!(tensors(&made).contains_key("model.norm.weight"));
    let config: Value = serde_json::from_slice(&made.files["config.json"]).unwrap();
    assert_eq!((&config["model_type"], &config["hidden_size"]), (&json!("gemma3_text"), &json!(2)));
    assert!(config.get("vision_config").is_none() && !made.files.contains_key("preprocessor_config.json"));
}

/// Dequantised weights are not worth 32 bits, unless these are asked for.
#[test]
fn without_a_level_quantised_files_become_f16() {
    let model = llama();
    let stored = |_: &SourceTensor| Arriving::new(Encoding::own("toy/blocks", 32, 18), Vec::new());
    let conversion = Conversion::new("toy", model.model.tensors.iter().map(stored).collect());
    let plugin = TestHost::new().connect::<Safetensors>().unwrap();
    let made = |options| {
        let mut request = OpenRequest::new("safetensors", options, model.model.clone());
        request.conversion = Some(conversion.clone());
        plugin.make_request(&model, &request).unwrap().plan.level
    };
    assert_eq!((&*made(Options::default()), &*made(level("F32"))), ("F16", "F32"));
    assert_eq!(make(&model, Options::default()).unwrap().plan.level, "F32");
}

#[test]
fn a_ceiling_that_is_too_low_is_a_failure_and_so_is_a_stop() {
    let on = |host: &TestHost| host.connect::<Safetensors>()?.make(&llama(), "safetensors", level("F16"));
    assert_eq!(on(&TestHost::new().memory(1 << 10)).unwrap_err().kind, FailureKind::RESOURCES);
    let host = TestHost::new();
    host.cancel();
    assert_eq!(on(&host).unwrap_err().kind, FailureKind::CANCELLED);
}
