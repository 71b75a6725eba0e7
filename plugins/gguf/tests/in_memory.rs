//! Whole jobs on byte vectors: nothing is loaded, and no file is read or written.

use std::collections::BTreeMap;

use qhost_gguf::Gguf;
use qhost_plugin_api::{
    documents::{FilesRequest, Findings, Options, Reading, Role, RoleKind, SourceFile},
    sdk::{
        DType, FailureKind, Operand, READER, Result, VERIFY,
        testing::{Made, TestHost, TestModel},
    },
};

/// Rows of whole super-blocks, and a real tokenizer of 512 tokens.
fn model() -> TestModel {
    let mut model = TestModel::llama(2, 256, 512, 512);
    model.companion("tokenizer.model", include_bytes!("../../../tests/fixtures/stories260K/tokenizer.model"));
    model.companion(
        "tokenizer_config.json",
        include_bytes!("../../../tests/fixtures/stories260K/tokenizer_config.json"),
    );
    model
}

fn level(name: &str) -> Options {
    Options { level: Some(name.into()), ..Options::default() }
}

fn make(host: &TestHost, name: &str) -> Result<Made> {
    host.connect::<Gguf>()?.make(&model(), "gguf", level(name))
}

#[test]
fn plan_bytes_and_figures_do_not_depend_on_the_threads() {
    for name in ["Q4_K_M", "Q8_0", "F16"] {
        let (one, many) = (TestHost::new(), TestHost::new().threads(5));
        let made = make(&one, name).unwrap();
        assert!(made.findings.passed(), "{name}: {:?}", made.findings);
        assert_eq!(made.files[""][..4], *b"GGUF");
        assert_eq!(made.weights, model().model.parameters());
        assert_eq!(made, make(&many, name).unwrap(), "{name}");
        // What was granted is what was planned.
        let planned = |threads| made.plan.units.iter().map(|unit| unit.working_memory(threads)).max();
        assert_eq!((Some(one.peak_granted()), Some(many.peak_granted())), (planned(1), planned(5)), "{name}");
    }
}

#[test]
fn fewer_bits_give_a_larger_error() {
    let error = |name| {
        let made = make(&TestHost::new(), name).unwrap();
        made.metrics.iter().map(|metric| metric.value).fold(0.0, f64::max)
    };
    let errors = ["Q2_K", "Q4_K_S", "Q6_K", "F32"].map(error);
    assert!(errors.windows(2).all(|pair| pair[0] > pair[1]), "{errors:?}");
    assert_eq!(errors[3].to_bits(), 0.0_f64.to_bits());
}

#[test]
fn a_weight_that_is_no_number_is_refused_by_name() {
    let mut model = model();
    let is_norm = |role: &Role| role.kind == RoleKind::OutputNorm;
    let (norm, tensor) = (0..).zip(&model.model.tensors).find(|(_, tensor)| is_norm(&tensor.role)).unwrap();
    let name = tensor.name.clone();
    model.set_values(norm, (0..256).map(|column| if column == 7 { f32::NAN } else { 1.0 }));
    let failure = TestHost::new().connect::<Gguf>().unwrap().make(&model, "gguf", level("Q8_0")).unwrap_err();
    assert_eq!((failure.kind, &*failure.subject), (FailureKind::CORRUPT, &*name));
    assert!(failure.message.contains("column 7"), "{failure}");
}

#[test]
fn a_ceiling_that_is_too_low_is_a_failure_and_so_is_a_stop() {
    let failure = make(&TestHost::new().threads(2).memory(1 << 10), "Q4_0").unwrap_err();
    assert_eq!(failure.kind, FailureKind::RESOURCES);
    let host = TestHost::new();
    host.cancel();
    assert_eq!(make(&host, "Q4_0").unwrap_err().kind, FailureKind::CANCELLED);
}

/// Their halves could not be interleaved: some rows would stay empty.
#[test]
fn heads_of_an_odd_length_are_refused() {
    let mut model = model();
    model.model.hyperparameters.head_dim = 31;
    let refused = TestHost::new().connect::<Gguf>().unwrap().plan(&model, "gguf", level("Q4_0")).unwrap_err();
    assert_eq!(refused.kind, FailureKind::UNSUPPORTED);
    assert!(refused.message.contains("31"), "{refused}");
}

#[test]
fn a_file_compared_with_its_source_has_the_errors_that_were_measured_when_it_was_made() {
    for name in ["Q4_K_M", "Q8_0", "F32"] {
        let made = make(&TestHost::new(), name).unwrap();
        let compare = |host: TestHost, files: &BTreeMap<String, Vec<u8>>| {
            host.connect::<Gguf>().unwrap().compare(&model(), "gguf", files).unwrap()
        };
        let (plan, metrics) = compare(TestHost::new(), &made.files);
        assert_eq!((plan.unused.len(), plan.warnings.len()), (0, 0), "{plan:?}");
        let relative = metrics.iter().filter(|metric| metric.key == "relative_rms_error").map(|metric| metric.value);
        assert!(relative.eq(made.metrics.iter().map(|metric| metric.value)), "{name}: {metrics:?}");
        assert_eq!((plan, metrics), compare(TestHost::new().threads(5), &made.files), "{name}");
    }
}

/// Calls `reader/1` and `verify/1` as the host does: a file that was tampered with gives an answer or a
/// failure, and never a panic, which would have the kind `PLUGIN`.
#[test]
fn no_byte_of_a_header_makes_the_reader_panic() {
    let host = TestHost::new();
    let plugin = host.connect::<Gguf>().unwrap();
    let made = plugin.make(&model(), "gguf", level("Q8_0")).unwrap();
    let whole = &made.files[""];
    let (reader, verify) = (plugin.service(READER).unwrap(), plugin.service(VERIFY).unwrap());
    let call = |bytes: &[u8]| {
        let mut request = FilesRequest::new(vec![SourceFile::new("x.gguf", bytes.len() as u64)]);
        request.most_elements = Some(4);
        request.loader = Some("llama.cpp".into());
        let file = Operand { dtype: DType::U8, rows: 1, row_elements: bytes.len() as u64, data: bytes };
        let opened = reader.call("open", &request, &[file], &mut []).and_then(|answer| answer.value::<Reading>());
        let checked = verify.call("check", &request, &[file], &mut []).and_then(|answer| answer.value::<Findings>());
        (opened, checked.unwrap())
    };
    let (opened, checked) = call(whole);
    let (opened, end) = (opened.unwrap(), made.plan.segments[0].bytes);
    assert_eq!((opened.tensors.len(), checked.passed()), (model().model.tensors.len(), true), "{checked:?}");
    let end = usize::try_from(end).unwrap();
    for at in (0..end).step_by(7).chain(end - 2500..end) {
        let (opened, checked) = call(&whole[..at]);
        assert!(opened.is_err() && !checked.passed(), "cut at {at}");
        let mut flipped = whole.clone();
        for flip in [0x01, 0xff] {
            flipped[at] ^= flip;
            if let Err(failure) = call(&flipped).0 {
                let told = [FailureKind::CORRUPT, FailureKind::UNSUPPORTED].contains(&failure.kind);
                assert!(told && !failure.message.is_empty(), "byte {at}: {failure:?}");
            }
        }
    }
}
