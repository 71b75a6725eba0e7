//! `qhost inspect`.

use qhost_compute::DeviceChoice;

use super::{CommandResult, Session, arguments::InspectArguments, quantize::all_cores};
use crate::{
    cancel::CancelFlag,
    inspect, report,
    run::{self, Resources},
};

/// Elements of a list that are told unless all are asked for: enough to see what it is.
const SOME: u64 = 16;

pub(super) fn run(session: &Session, arguments: &InspectArguments) -> CommandResult {
    let resources = Resources {
        threads: all_cores(),
        max_memory: None,
        log_level: session.log.level(),
        isolate: session.isolate,
        cancel: CancelFlag::default(),
        device: DeviceChoice::Cpu,
    };
    let opened = inspect::open(&arguments.path, &session.catalog()?, &run::connect(&resources)?)?;
    let inspection = opened.inspect((!arguments.full).then_some(SOME))?;
    session.print(|| report::inspection_document(&inspection), || report::show_inspection(&inspection, arguments.full))
}
