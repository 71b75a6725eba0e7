//! Trying a plugin: loading it, having it describe itself, and the conformance suite of the plugin API.
//!
//! It runs the plugin's code in this very process, so whoever does not trust it does that in another one.

use std::{fs, sync::Arc};

use qhost_plugin_api::{
    documents::{Document, Manifest},
    sdk::testing::conformance::{self, ComputeService, Outcome, Verdict},
};
use serde::{Deserialize, Serialize};

use super::{ConnectSettings, Found, LoadedPlugin, calls::Caller, catalog::digest, library};

/// One thing that was tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial {
    /// What, in a few words that stay the same.
    pub check: String,
    /// The format that it is about; none for the whole plugin.
    pub format: Option<String>,
    /// How it went: `passed`, `failed` or `skipped`.
    pub verdict: String,
    /// What was seen, and what to do about it.
    pub detail: String,
}

impl Trial {
    /// Something that is as it should be.
    #[must_use]
    pub fn passed(check: &str, detail: impl Into<String>) -> Self {
        Self { check: check.to_owned(), format: None, verdict: "passed".into(), detail: detail.into() }
    }

    /// Something that is wrong.
    #[must_use]
    pub fn failed(check: &str, detail: impl Into<String>) -> Self {
        Self { check: check.to_owned(), format: None, verdict: "failed".into(), detail: detail.into() }
    }

    /// Whether it is wrong.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.verdict == "failed"
    }
}

impl From<Outcome> for Trial {
    fn from(outcome: Outcome) -> Self {
        let verdict = match outcome.verdict {
            Verdict::Passed => "passed",
            Verdict::Failed => "failed",
            Verdict::Skipped => "skipped",
        };
        let Outcome { check, format, words, .. } = outcome;
        Self { check: check.to_owned(), format, verdict: verdict.to_owned(), detail: words }
    }
}

/// Loads a plugin as a run would, and has it describe itself.
#[must_use]
pub fn load_and_describe(found: &Found, manifest: &Manifest, settings: &ConnectSettings) -> Vec<Trial> {
    let loaded = match LoadedPlugin::load(found, manifest, settings) {
        Ok(loaded) => loaded,
        Err(error) => return vec![Trial::failed("load", error.to_string())],
    };
    let mut trials = vec![Trial::passed("load", "its layouts are those of this host, and it starts")];
    trials.push(match loaded.describe() {
        Ok(description) => {
            let missing: Vec<_> = manifest
                .formats
                .iter()
                .filter(|format| description.formats.iter().all(|described| described.id != format.id))
                .map(|format| format.id.clone())
                .collect();
            if missing.is_empty() {
                Trial::passed("description", "it describes the formats of its manifest")
            } else {
                let missing = crate::text::list(&missing);
                Trial::failed("description", format!("it describes no format {missing}, which its manifest has"))
            }
        }
        Err(error) => Trial::failed("description", error.to_string()),
    });
    trials
}

/// Loads a plugin and runs the conformance suite over it; it cannot be loaded for anything else afterwards.
#[must_use]
pub fn conformance_of(found: &Found, manifest: &Manifest, settings: &ConnectSettings) -> Vec<Trial> {
    let sha256 = fs::read(&found.path).map(|bytes| digest(&bytes)).unwrap_or_default();
    let caller = Caller::new(manifest, &sha256, &found.path);
    let module = match library::load_module(caller, &found.path) {
        Ok(module) => module,
        Err(error) => return vec![Trial::failed("load", error.to_string())],
    };
    let report = caller.call("while it was checked", || {
        let compute = Some(ComputeService(Arc::clone(&settings.compute)));
        conformance::run(manifest, &conformance::Settings { compute, ..Default::default() }, |host| {
            let facts = host.facts().to_json()?;
            module.connect()(host.object(), facts.as_str().into()).into_result()
        })
    });
    let loaded = Trial::passed("load", "its layouts are those of this host");
    std::iter::once(loaded).chain(report.outcomes.into_iter().map(Trial::from)).collect()
}
