//! Checking files that exist: their structure, every number, what a loader asks, the report beside them,
//! and the weights that they were made from.
//!
//! Formats check their own structure (`verify/1`); this room cuts the work into pieces, looks at all of it on
//! all threads, and lets pages go that were looked at.

mod checkpoint;
mod compare;
mod error;
mod numbers;
mod report;

use std::path::{Path, PathBuf};

use qhost_plugin_api::documents::{Check, CheckStatus, Findings};

pub use compare::{Compared, Comparison, NAME as COMPARISON};
pub use error::Error;
pub use report::{NAME as REPORT, name_of as report_of};

use crate::{
    exit_code::{ExitCode, Fault},
    inspect::{self, Content, Inspection, Opened},
    plugin::{Catalog, ConnectSettings},
    run::Events,
};

/// What is to be checked.
#[derive(Debug, Clone)]
pub struct Request {
    /// The file or folder.
    pub path: PathBuf,
    /// The program that is to load it.
    pub loader: Option<String>,
    /// The checkpoint that it was made from.
    pub against: Option<PathBuf>,
}

/// What was found.
#[derive(Debug, Clone)]
pub struct Verification {
    /// What was checked.
    pub path: PathBuf,
    /// The format's id, if it could be told.
    pub format: Option<String>,
    /// The program that is to load it.
    pub loader: Option<String>,
    /// What is in the files, if that could be read.
    pub inspection: Option<Inspection>,
    /// The checks, in order.
    pub findings: Findings,
    /// How the weights differ from those that they were made from.
    pub comparison: Option<Comparison>,
    /// What the user should know.
    pub warnings: Vec<String>,
}

impl Verification {
    /// The checks that found something wrong.
    pub fn failed(&self) -> impl Iterator<Item = &Check> {
        self.findings.checks.iter().filter(|check| check.status == CheckStatus::Failed)
    }
}

/// Checks what is at a path.
///
/// # Errors
/// Fails when it cannot be checked; what is wrong with it is in the findings.
pub fn verify(
    request: &Request,
    catalog: &Catalog,
    settings: &ConnectSettings,
    events: &dyn Events,
) -> Result<Verification, Error> {
    let mut verification = Verification {
        path: request.path.clone(),
        format: None,
        loader: request.loader.clone(),
        inspection: None,
        findings: Findings::new(Vec::new()),
        comparison: None,
        warnings: Vec::new(),
    };
    let opened = match inspect::open(&request.path, catalog, settings) {
        Err(error) if error.exit_code() == ExitCode::Corrupt => {
            // To find that is what verifying is for.
            verification.findings.checks.push(Check::failed("structure", error.to_string()));
            return Ok(verification);
        }
        opened => opened?,
    };
    let (format, loaders) = opened.format();
    verification.format = Some(format.to_owned());
    if let Some(loader) = request.loader.as_deref().filter(|loader| !loaders.contains(loader)) {
        let known = loaders.iter().map(|&loader| loader.to_owned()).collect();
        return Err(Error::UnknownLoader { loader: loader.to_owned(), format: format.to_owned(), known });
    }
    check(&opened, request, settings, events, &mut verification)?;
    Ok(verification)
}

fn check(
    opened: &Opened,
    request: &Request,
    settings: &ConnectSettings,
    events: &dyn Events,
    verification: &mut Verification,
) -> Result<(), Error> {
    let loader = request.loader.as_deref();
    let checks = match &opened.content {
        Content::Plugin(plugin, _) => plugin.check_files(&inspect::named(&opened.files), loader)?.checks,
        Content::Checkpoint(checkpoint) => checkpoint::check(checkpoint, loader),
    };
    verification.findings.checks.extend(checks);
    if verification.failed().any(|check| check.name == "structure") {
        return Ok(());
    }
    let inspection = opened.inspect(Some(0))?;
    verification.warnings.extend(inspection.warnings.iter().cloned());
    let numbers = numbers::check(opened, &inspection.reading, settings, events)?;
    verification.findings.checks.push(numbers.check);
    verification.warnings.extend(numbers.warnings);
    verification.findings.checks.extend(report::check(&opened.path, &inspection));
    if let Some(source) = &request.against {
        compare(opened, &inspection, source, events, verification)?;
    }
    verification.inspection = Some(inspection);
    Ok(())
}

fn compare(
    opened: &Opened,
    inspection: &Inspection,
    source: &Path,
    events: &dyn Events,
    verification: &mut Verification,
) -> Result<(), Error> {
    let comparison = compare::compare(opened, &inspection.reading, source, events)?;
    verification.findings.checks.push(comparison.check());
    verification.warnings.extend(comparison.warnings.iter().cloned());
    verification.comparison = Some(comparison);
    Ok(())
}
