//! The SDK and its host in memory: what breaks the contract is found, what panics is contained.

use std::{
    borrow::Cow,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use qhost_plugin_api::{
    documents::{
        Check, Description, Findings, OpenRequest, Options, Output, Plan, PlannedFile, PlannedUnit, Role, RoleKind,
        Segment, TensorSegment, UnitInfo,
    },
    sdk::{
        DType, Failure, FailureKind, FilesHandle, Format, FormatJob, FormatService, HostHandle, Operand, OperandMut,
        Result, ServiceAnswer, UnitHandle,
        testing::{Made, TestHost, TestModel, TestPlugin},
    },
};
use serde_json::json;

/// Does what the plugin option `do` says.
struct Puppet {
    host: HostHandle,
}

struct PuppetJob {
    act: String,
    plan: Plan,
}

/// What panics when it is dropped.
struct PanicsWhenDropped;

impl Drop for PanicsWhenDropped {
    #[expect(clippy::panic, reason = "that is what it is for")]
    fn drop(&mut self) {
        panic!("told to panic while being dropped");
    }
}

impl Format for Puppet {
    type Job = PuppetJob;

    fn connect(host: HostHandle) -> Result<Self> {
        Ok(Self { host })
    }

    fn describe(&self) -> Description {
        Description::new(Vec::new())
    }

    fn open(&self, request: OpenRequest, _: FilesHandle) -> Result<PuppetJob> {
        let act = request.options.plugin.get("do").cloned().unwrap_or_default();
        if act == "needs-service" && !self.host.facts().has_service("statistics/1") {
            return Err(Failure::unsupported("the host has no statistics"));
        }
        let mut plan = Plan::new("puppet", "only", Output::file(".puppet"));
        plan.files = vec![PlannedFile::single(16)];
        plan.segments = vec![Segment::tensor(0, 0, 16, TensorSegment::new("w", 0, vec![0], "F32", 4))];
        plan.units = vec![PlannedUnit::new(0)];
        match act.as_str() {
            "plan-drop" => plan.segments.clear(),
            "plan-long" => plan.segments[0].bytes = 17,
            _ => {}
        }
        Ok(PuppetJob { act, plan })
    }

    fn service(&self, name: &str) -> Option<Arc<dyn FormatService>> {
        (name == "double/1").then(|| Arc::new(Double) as Arc<dyn FormatService>)
    }
}

impl Drop for PuppetJob {
    fn drop(&mut self) {
        if self.act == "panic-drop" {
            drop(PanicsWhenDropped);
        }
    }
}

impl FormatJob for PuppetJob {
    fn plan(&self) -> &Plan {
        &self.plan
    }

    fn constant(&self, segment: u32) -> Result<Cow<'_, [u8]>> {
        Err(Failure::internal(format!("segment {segment} is not constant")))
    }

    fn run_unit(&self, _: u32, io: &UnitHandle) -> Result<()> {
        match self.act.as_str() {
            "short" => return io.write(0, 0, &[0; 15]),
            "past-end" => return io.write(0, 15, &[0; 2]),
            "twice" => {
                io.write(0, 0, &[0; 16])?;
                return io.write(0, 3, &[0; 1]);
            }
            "leak-rows" => std::mem::forget(io.rows(0, 0, 1)?),
            "leak-memory" => std::mem::forget(io.host().grant(7, "nothing")?),
            "greedy" => drop(io.host().grant(1 << 40, "everything")?),
            "panic-loop" => io.host().parallel(8, |index| {
                assert_ne!(index, 5, "told to panic in a loop");
                Ok(())
            })?,
            "nest" => {
                let sums = io.host().parallel_map(4, |_| io.host().parallel_map(4, Ok))?;
                assert_eq!(sums.concat().len(), 16);
            }
            _ => {}
        }
        let rows = io.rows(0, 0, 2)?;
        io.write(0, 0, rows.bytes())?;
        io.save("seen", b"yes")?;
        io.progress(4);
        io.metric(0, "error", 0.5);
        Ok(())
    }

    fn check(&self, files: &FilesHandle) -> Result<Findings> {
        let length = files.length("").unwrap_or(0);
        Ok(Findings::new(vec![Check::passed("length", format!("{length} bytes"))]))
    }
}

/// Gives the sum of its first input as JSON, its bytes as the blob, and fills its output with the doubles.
struct Double;

impl FormatService for Double {
    fn call(
        &self,
        method: &str,
        request: &str,
        inputs: &[Operand<'_>],
        outputs: &mut [OperandMut<'_>],
    ) -> Result<ServiceAnswer> {
        assert_ne!(request, "\"panic\"", "told to panic in a service");
        if method != "double" {
            return Err(Failure::unsupported(format!("double has no method `{method}`")));
        }
        for (output, input) in outputs[0].data.iter_mut().zip(inputs[0].data) {
            *output = input * 2;
        }
        let mut answer =
            ServiceAnswer::new(&json!({"sum": inputs[0].data.iter().map(|byte| u32::from(*byte)).sum::<u32>()}))?;
        answer.blob = inputs[0].data.to_vec();
        Ok(answer)
    }
}

fn model() -> TestModel {
    let mut model = TestModel::new("m", "llama");
    model.model.units.push(UnitInfo::layer(0, 0));
    model.tensor("w", Role::weight(RoleKind::FfnUp), 0, &[2, 2], [1.0, 2.0, 3.0, 4.0]);
    model
}

fn plugin(host: &TestHost) -> Result<TestPlugin> {
    host.connect::<Puppet>()
}

fn told(act: &str) -> Options {
    Options { plugin: [("do".to_owned(), act.to_owned())].into(), ..Options::default() }
}

fn make(act: &str) -> Result<Made> {
    plugin(&TestHost::new().threads(3).memory(1 << 20))?.make(&model(), "puppet", told(act))
}

#[test]
fn a_job_gives_its_bytes_figures_and_saved_blobs() {
    for act in ["", "nest"] {
        let made = make(act).unwrap();
        assert_eq!(made.files[""], [1.0_f32, 2.0, 3.0, 4.0].map(f32::to_le_bytes).concat(), "{act}");
        assert_eq!(
            (made.weights, made.metrics[0].value.to_bits(), made.saved["seen"].as_slice()),
            (4, 0.5_f64.to_bits(), &b"yes"[..])
        );
        assert_eq!(made.findings.checks[0].detail, "16 bytes");
    }
}

#[test]
fn what_breaks_the_contract_is_found() {
    for (act, kind, words) in [
        ("plan-drop", FailureKind::PLUGIN, "neither uses w"),
        ("plan-long", FailureKind::PLUGIN, "not within its file"),
        ("short", FailureKind::PLUGIN, "did not write all of w"),
        ("past-end", FailureKind::PLUGIN, "past the end"),
        ("twice", FailureKind::PLUGIN, "twice"),
        ("leak-rows", FailureKind::PLUGIN, "kept rows"),
        ("leak-memory", FailureKind::PLUGIN, "kept granted memory"),
        ("greedy", FailureKind::RESOURCES, "everything needs"),
        ("panic-loop", FailureKind::PLUGIN, "told to panic in a loop"),
        ("needs-service", FailureKind::UNSUPPORTED, "no statistics"),
    ] {
        let failure = make(act).unwrap_err();
        assert_eq!(failure.kind, kind, "{act}: {failure}");
        assert!(failure.message.contains(words), "{act}: {failure}");
    }
}

#[test]
fn a_panic_while_a_job_is_dropped_is_contained_and_logged() {
    let host = TestHost::new();
    plugin(&host).unwrap().make(&model(), "puppet", told("panic-drop")).unwrap();
    let messages = host.messages();
    assert!(messages.iter().any(|message| message.text.contains("told to panic while being dropped")), "{messages:?}");
}

#[test]
fn an_option_that_this_version_does_not_know_is_refused_by_name() {
    let mut options = Options::default();
    options.other.insert("act_bits".into(), json!(null));
    plugin(&TestHost::new()).unwrap().plan(&model(), "puppet", options.clone()).unwrap();
    options.other.insert("damp_percent".into(), json!(0.01));
    let failure = plugin(&TestHost::new()).unwrap().plan(&model(), "puppet", options).unwrap_err();
    assert_eq!(failure.kind, FailureKind::UNSUPPORTED);
    assert!(failure.message.contains("--damp-percent"), "{failure}");
}

#[test]
fn services_go_both_ways_and_their_panics_are_contained() {
    let host = TestHost::new().service("statistics/1", Double);
    assert!(host.handle().facts().has_service("statistics/1"));
    let plugin = plugin(&host).unwrap();
    plugin.make(&model(), "puppet", told("needs-service")).unwrap();
    assert!(plugin.service("half/1").is_none());
    for service in [plugin.service("double/1").unwrap(), host.handle().service("statistics/1").unwrap()] {
        let data = [1, 2, 3];
        let input = Operand { dtype: DType::U8, rows: 1, row_elements: 3, data: &data };
        let mut doubled = [0; 3];
        let output = OperandMut { dtype: DType::U8, rows: 1, row_elements: 3, data: &mut doubled };
        let answer = service.call("double", &json!({}), &[input], &mut [output]).unwrap();
        assert_eq!((answer.value::<serde_json::Value>().unwrap(), answer.blob), (json!({"sum": 6}), vec![1, 2, 3]));
        assert_eq!(doubled, [2, 4, 6]);
        assert_eq!(service.call("halve", &json!({}), &[], &mut []).unwrap_err().kind, FailureKind::UNSUPPORTED);
        assert_eq!(service.call("double", &"panic", &[], &mut []).unwrap_err().kind, FailureKind::PLUGIN);
    }
}

#[test]
fn a_cancelled_loop_starts_no_further_iteration() {
    let host = TestHost::new();
    let (ran, stopped) = (Mutex::new(Vec::new()), AtomicBool::new(false));
    let outcome = host.handle().parallel(10, |index| {
        ran.lock().unwrap_or_else(PoisonError::into_inner).push(index);
        if index == 2 {
            host.cancel();
            stopped.store(true, Ordering::Relaxed);
        }
        Ok(())
    });
    assert_eq!(outcome.unwrap_err().kind, FailureKind::CANCELLED);
    assert!(stopped.into_inner());
    assert_eq!(ran.into_inner().unwrap(), [0, 1, 2]);
}
