//! What the user asked for.

use qhost_linears::{Calibration, Effort};
use qhost_plugin_api::{
    documents::{OpenRequest, OptionDescription, Options, Scarce},
    sdk::{Failure, Result},
};

use crate::format::{LEVELS, Level};

/// The level taken when the user names none.
pub(crate) const DEFAULT_LEVEL: &str = "Q4_K_M";
/// The option that names the pre-tokenizer.
const PRE: &str = "pre";
/// The option that saves the importance matrix.
const SAVE: &str = "save-imatrix";
/// The options about the Hessian, which `Calibration` reads.
const OF_CALIBRATION: [&str; 2] = ["damp", "fewest-tokens"];

/// What the user asked for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Choices {
    /// The level, if one is named.
    pub(crate) level: Option<&'static Level>,
    /// Whether columns are weighed by importances, which are computed.
    pub(crate) weighed: bool,
    /// The pre-tokenizer's name.
    pub(crate) pre: Option<String>,
    /// Whether the importance matrix is saved.
    pub(crate) saves: bool,
    /// How matrices are rounded under the Hessian of their inputs, if they are.
    pub(crate) calibration: Option<Calibration>,
}

impl Choices {
    /// Reads the options.
    ///
    /// # Errors
    /// Fails with kind `USAGE` for options that have no meaning here, and `UNSUPPORTED` for what is not there.
    pub(crate) fn read(request: &OpenRequest) -> Result<Self> {
        let options = &request.options;
        let level = level(options)?;
        let weighed = imatrix(options)?;
        let effort = options.effort.as_deref();
        let mut calibration = (request.calibrates && !weighed).then(Calibration::default);
        if let Some(calibration) = &mut calibration {
            calibration.effort = Effort::read(effort)?;
            calibration.corrects = calibration.effort == Effort::Best;
            // With few tokens a Hessian says little: then columns are weighed, and no more.
            calibration.scarce = Scarce::AsItIs;
        } else if effort.is_some() {
            let failure = Failure::usage("--effort has no meaning for gguf without data to calibrate with");
            return Err(failure.hint("name some with --calibration, or leave --effort and --imatrix out"));
        }
        let mut choices = Self { level, weighed, pre: None, saves: false, calibration };
        for (key, value) in &options.plugin {
            choices.set(key, value)?;
        }
        Ok(choices)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<()> {
        match key {
            PRE => self.pre = Some(value.into()),
            SAVE => {
                self.saves = match value {
                    "false" => false,
                    "true" if self.weighed => true,
                    "true" => {
                        return Err(Failure::usage(format!("{SAVE} without --imatrix auto has nothing to save")));
                    }
                    other => return Err(Failure::usage(format!("{SAVE} is true or false, not `{other}`"))),
                };
            }
            key if OF_CALIBRATION.contains(&key) => match &mut self.calibration {
                Some(calibration) => drop(calibration.set(key, value)?),
                None => {
                    return Err(Failure::usage(format!("{key} has no meaning without data to calibrate with"))
                        .hint("name some with --calibration"));
                }
            },
            _ => {
                let known = [PRE, SAVE, OF_CALIBRATION[0], OF_CALIBRATION[1]].map(|known| format!("`{known}`"));
                return Err(Failure::usage(format!("gguf has no plugin option `{key}`"))
                    .hint(format!("it has {}", known.join(", "))));
            }
        }
        Ok(())
    }
}

/// The plugin's own options.
pub(crate) fn descriptions() -> Vec<OptionDescription> {
    [
        (PRE, "name of the pre-tokenizer for llama.cpp, where it is not recognised (llama-bpe, qwen2, …)"),
        (SAVE, "true writes the importance matrix of --imatrix auto beside the file, as llama-imatrix does"),
        ("damp", "what is added to the diagonal of a Hessian, as a share of its mean; 0.01 if not given"),
        ("fewest-tokens", "experts that see fewer tokens of --calibration are rounded without it; 256 if not given"),
    ]
    .map(|(key, what)| OptionDescription::new(key, what))
    .to_vec()
}

fn level(options: &Options) -> Result<Option<&'static Level>> {
    if let Some(flag) = options.flags_besides_level().into_iter().find(|flag| !["--imatrix", "--effort"].contains(flag))
    {
        return Err(Failure::usage(format!("{flag} has no meaning for gguf")).hint("choose the precision with --level"));
    }
    let Some(name) = options.level.as_deref() else { return Ok(None) };
    Level::named(name).map(Some).ok_or_else(|| {
        let known: Vec<_> = LEVELS.iter().map(|level| level.name).collect();
        Failure::unsupported(format!("gguf has no level `{name}`")).hint(format!("the levels are {}", known.join(", ")))
    })
}

/// Whether columns are weighed by importances, which are computed.
fn imatrix(options: &Options) -> Result<bool> {
    match options.imatrix.as_deref() {
        None => Ok(false),
        Some("auto") => Ok(true),
        Some(file) => Err(Failure::unsupported(format!("importance matrices are not read from files (`{file}`)"))
            .about("--imatrix")
            .hint("--imatrix auto computes one in the same run, from --calibration")),
    }
}
