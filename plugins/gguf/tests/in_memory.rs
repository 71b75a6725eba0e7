//! Whole jobs on byte vectors: nothing is loaded, and no file is read or written.

use qhost_gguf::Gguf;
use qhost_plugin_api::{
    documents::{Options, Role, RoleKind},
    sdk::{
        FailureKind, Result,
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
