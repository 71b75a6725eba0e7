//! A toy format made of the crate's steps, on a host in memory: what scaling inputs changes, and what is refused.
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_precision_loss,
    clippy::panic,
    clippy::unwrap_used,
    reason = "numbers of tests"
)]

mod doubles;
mod toy;

use qhost_plugin_api::{
    documents::{Options, Plan, SegmentContent},
    sdk::{
        FailureKind, Result,
        testing::{Made, TestHost},
    },
};
use qhost_rounding::f16;

use crate::{doubles::measured, toy::Toy};

fn options(plugin: &[(&str, &str)]) -> Options {
    let plugin = plugin.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    Options { plugin, ..Options::default() }
}

fn made(options: Options, threads: u32) -> Made {
    let (model, host) = measured();
    host.threads(threads).connect::<Toy>().unwrap().make(&model, "toy", options).unwrap()
}

fn planned(options: Options) -> Result<Plan> {
    let (model, host) = measured();
    host.connect::<Toy>().unwrap().plan(&model, "toy", options)
}

/// The names of the tensors, in the order of their segments.
fn names(plan: &Plan) -> Vec<&str> {
    let tensors = plan.segments.iter().filter_map(|segment| match &segment.content {
        SegmentContent::Tensor(made) => Some(&*made.name),
        _ => None,
    });
    tensors.collect()
}

/// The bytes of a tensor.
fn tensor(made: &Made, name: &str) -> Vec<u8> {
    let is = |content: &SegmentContent| matches!(content, SegmentContent::Tensor(made) if made.name == name);
    let segment = made.plan.segments.iter().find(|segment| is(&segment.content)).unwrap();
    let file = &made.files[&made.plan.files[segment.file as usize].name];
    file[segment.offset as usize..][..segment.bytes as usize].to_vec()
}

fn halves(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|bytes| f16::from_le_bytes(*bytes).to_f32()).collect()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

const LINEARS: &str = "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj";

/// A folder in which all that is in the layer is as it was.
fn originals() -> Made {
    made(options(&[("leave", LINEARS), ("head", "true")]), 1)
}

const QUERY: &str = "model.layers.0.self_attn.q_proj";

#[test]
fn a_folder_is_whole_and_the_same_for_any_number_of_threads() {
    let one = made(options(&[]), 1);
    assert!(one.findings.passed(), "{:?}", one.findings);
    assert!(one.plan.files.len() > 1 && one.files.contains_key("toy.json"));
    assert!(one.files["config.json"].windows(19).any(|part| part == b"quantization_config"));
    let three = made(options(&[]), 3);
    assert_eq!((one.files, one.metrics), (three.files, three.metrics));
    let query = names(&one.plan).into_iter().position(|name| name == format!("{QUERY}.codes")).unwrap();
    assert_eq!(names(&one.plan)[query + 1..query + 3], [format!("{QUERY}.scales"), format!("{QUERY}.zeros")]);
}

/// Powers of two lose nothing, so that everything is the same to the bit.
#[test]
fn dividing_all_inputs_alike_changes_the_scales_and_nothing_else() {
    for (how, by) in [("by-two", 2.0), ("by-half", 0.5)] {
        let (plain, divided) = (made(options(&[]), 1), made(options(&[("divided", how)]), 1));
        assert_eq!(plain.metrics, divided.metrics, "{how}");
        for name in names(&plain.plan) {
            let (plain, divided) = (tensor(&plain, name), tensor(&divided, name));
            if name.ends_with(".scales") {
                let expected: Vec<_> = halves(&plain).iter().map(|scale| scale * by).collect();
                assert_eq!(halves(&divided), expected, "{how} {name}");
            } else {
                assert!(plain == divided, "{how} {name}");
            }
        }
    }
}

#[test]
fn figures_are_those_of_weights_and_inputs_as_they_were() {
    // Damping is a share of the Hessian at hand; without it the loss is that of the inputs as they were.
    let divided = made(options(&[("divided", "by-turns"), ("damp", "1e-9")]), 1);
    let (codes, zeros) = (tensor(&divided, &format!("{QUERY}.codes")), tensor(&divided, &format!("{QUERY}.zeros")));
    let scales = halves(&tensor(&divided, &format!("{QUERY}.scales")));
    let weights = floats(&tensor(&originals(), &format!("{QUERY}.weight")));
    let gram = tensor(&divided, "attn_in.Gram");
    let gram: Vec<f64> = gram.as_chunks().0.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect();
    let width = gram.len().isqrt();
    let made = weights.iter().enumerate().map(|(place, _)| {
        let (row, column) = (place / width, place % width);
        let group = row * (width / 32) + column / 32;
        let scaled = scales[group] * (f32::from(codes[place]) - f32::from(zeros[group]));
        scaled * 2_f32.powi(2 - (column % 5) as i32)
    });
    let errors: Vec<_> = made.zip(&weights).map(|(made, weight)| made - weight).collect();
    let squares = |numbers: &[f32]| numbers.iter().map(|number| f64::from(*number).powi(2)).sum::<f64>();
    let of_outputs = |numbers: &[f32]| {
        let of_row = |row: &[f32]| {
            let pairs = (0..width).flat_map(|i| (0..width).map(move |j| (i, j)));
            pairs.map(|(i, j)| f64::from(row[i]) * gram[i * width + j] * f64::from(row[j])).sum::<f64>()
        };
        numbers.chunks(width).map(of_row).sum::<f64>()
    };
    let first = names(&divided.plan).iter().position(|name| *name == format!("{QUERY}.codes")).unwrap();
    let segment = (first + divided.plan.files.len()) as u32;
    let told =
        |key: &str| divided.metrics.iter().find(|figure| figure.segment == segment && figure.key == key).unwrap().value;
    let figures = [
        (told("relative_rms_error"), (squares(&errors) / squares(&weights)).sqrt()),
        (told("output_loss"), of_outputs(&errors) / of_outputs(&weights)),
    ];
    for (told, expected) in figures {
        assert!((told - expected).abs() < 1e-3 * expected && expected > 0.0, "{told} {expected}");
    }
}

#[test]
fn targets_are_the_same_whatever_inputs_are_divided_by() {
    let targets = |divided: &[(&str, &str)]| {
        // Damping is a share of the Hessian at hand, and so not the same.
        let options = options(&[divided, &[("damp", "1e-12")]].concat());
        made(Options { effort: Some("best".into()), ..options }, 1).saved
    };
    let (plain, divided) = (targets(&[]), targets(&[("divided", "by-turns")]));
    assert_eq!(plain.len(), 7);
    let originals = originals();
    for (name, plain) in &plain {
        let original = floats(&tensor(&originals, &format!("{name}.weight")));
        let (plain, divided) = (floats(plain), floats(&divided[name]));
        let distance =
            |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt();
        let (change, apart) = (distance(&plain, &original), distance(&plain, &divided));
        assert!(change > 0.01 * distance(&original, &vec![0.0; original.len()]), "{name}: {change}");
        assert!(apart < 1e-3 * change, "{name}: {apart} of {change}");
    }
}

#[test]
fn what_is_left_out_is_kept_and_named() {
    let plan = planned(options(&[("leave", "o_proj,down_proj")])).unwrap();
    let names = names(&plan);
    let has = |name: &str| names.contains(&name);
    assert!(has("model.layers.0.self_attn.o_proj.weight") && has("lm_head.weight") && has("model.norm.weight"));
    assert!(has("model.layers.0.mlp.up_proj.zeros") && !has("model.layers.0.mlp.up_proj.weight"));
    let with_head = planned(options(&[("head", "true")])).unwrap();
    assert!(self::names(&with_head).contains(&"lm_head.codes"));
}

#[test]
fn what_cannot_be_made_is_refused_with_the_format_s_hints() {
    let refused = |options: Options| planned(options).unwrap_err();
    let cases = [
        (options(&[("leave", LINEARS)]), "nothing of this model", "leave fewer out"),
        (Options { group_size: Some(64), ..options(&[]) }, "down_proj has 96 inputs", "32, 16, 8 or -1"),
        (Options { group_size: Some(0), ..options(&[]) }, "a group of 0", "-1"),
        (Options { effort: Some("much".into()), ..options(&[]) }, "no effort", "fast"),
        (options(&[("damp", "1")]), "`1` has no meaning", "0.05"),
    ];
    for (options, message, hint) in cases {
        let failure = refused(options);
        assert!(failure.message.contains(message) && failure.hint.contains(hint), "{failure:?}");
    }
    let (mut model, host) = measured();
    model.model.tensors.iter_mut().filter(|tensor| tensor.name.contains("up_proj")).for_each(|up| up.shape[0] = 97);
    let failure = host.connect::<Toy>().unwrap().plan(&model, "toy", options(&[])).unwrap_err();
    assert!(failure.message.contains("packed by 16, along the outputs"), "{failure:?}");
    assert_eq!((failure.kind, &*failure.hint), (FailureKind::UNSUPPORTED, "leave it out"));
}

#[test]
fn a_host_that_runs_no_models_is_refused() {
    let (model, _) = measured();
    let failure = TestHost::new().connect::<Toy>().unwrap().plan(&model, "toy", options(&[])).unwrap_err();
    assert_eq!(failure.kind, FailureKind::UNSUPPORTED);
    assert!(failure.message.contains("the toy needs"), "{failure:?}");
}
