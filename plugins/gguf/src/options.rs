//! What the user asked for.

use qhost_linears::{Calibration, Effort};
use qhost_plugin_api::{
    documents::{OpenRequest, OptionDescription, Options, Scarce},
    sdk::{Failure, FilesHandle, Result},
};

use qhost_budget::Size;
use qhost_ggml::BlockType;

use crate::{
    format::{LEVELS, Level},
    importance::file::Matrix,
    keys_given,
    metadata::Value,
    mixture::MIXED,
    split::Split,
    types::{Types, block_type},
};

/// The level taken when the user names none.
pub(crate) const DEFAULT_LEVEL: &str = "Q4_K_M";
/// The option that names the pre-tokenizer.
const PRE: &str = "pre";
/// The option that saves the importance matrix.
const SAVE: &str = "save-imatrix";
/// The options about the Hessian, which `Calibration` reads.
const OF_CALIBRATION: [&str; 2] = ["damp", "fewest-tokens"];
/// Options under the names that they have in `llama-quantize`.
const OUTPUT_TYPE: &str = "output-tensor-type";
const EMBEDDING_TYPE: &str = "token-embedding-type";
const PURE: &str = "pure";
const LEAVE_OUTPUT: &str = "leave-output-tensor";
const OVERRIDE: &str = "override-kv";
const SPLIT_SIZE: &str = "split-max-size";
const SPLIT_TENSORS: &str = "split-max-tensors";
const MIX: &str = "mix";
const INCLUDE: &str = "include-weights";
const EXCLUDE: &str = "exclude-weights";

/// Where importances come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Imatrix {
    /// There are none.
    None,
    /// They are computed.
    Computed,
    /// From a file, of this name; only of tensors whose names have one of the first texts in them, if there are any, and
    /// none of the others.
    File { name: String, included: Vec<String>, excluded: Vec<String> },
}

/// What the user asked for.
#[derive(Debug, Clone)]
pub(crate) struct Choices {
    /// The size that the file is to have, in the place of a level.
    pub(crate) size: Option<Size>,
    /// Whether what types are chosen by is to be measured yet.
    pub(crate) surveys: bool,
    /// The types that are chosen among.
    pub(crate) mixed: Vec<BlockType>,
    /// The level, if one is named.
    pub(crate) level: Option<&'static Level>,
    /// What columns are weighed by.
    pub(crate) imatrix: Imatrix,
    /// Where the output is cut into several files, if it is.
    pub(crate) split: Option<Split>,
    /// Types of single tensors.
    pub(crate) types: Types,
    /// Keys that the user gives, in order.
    pub(crate) keys: Vec<(String, Value)>,
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
        let size = Size::of(options, |_| None::<()>)?.map(|(size, _)| size);
        let level = level(options, size)?;
        let imatrix = imatrix(options);
        let effort = options.effort.as_deref();
        let mut calibration = (request.calibrates && imatrix == Imatrix::None).then(Calibration::default);
        if let Some(calibration) = &mut calibration {
            calibration.effort = Effort::read(effort)?;
            calibration.corrects = calibration.effort == Effort::Best;
            // With few tokens a Hessian says little: then columns are weighed, and no more.
            calibration.scarce = Scarce::AsItIs;
        } else if effort.is_some() {
            let failure = Failure::usage("--effort has no meaning for gguf without data to calibrate with");
            return Err(failure.hint("name some with --calibration, or leave --effort and --imatrix out"));
        }
        let mut types = Types::default();
        options.tensor_types.iter().try_for_each(|text| types.add_pattern(text))?;
        let surveys = size.is_some() && request.surveyed.is_none();
        let mixed = MIXED.to_vec();
        let mut choices = Self {
            split: None,
            size,
            surveys,
            mixed,
            level,
            imatrix,
            types,
            keys: Vec::new(),
            pre: None,
            saves: false,
            calibration,
        };
        for (key, value) in &options.plugin {
            choices.set(key, value)?;
        }
        Ok(choices)
    }

    /// The importance matrix that is to be read, if one is.
    ///
    /// # Errors
    /// Fails when it cannot be read, or is none.
    pub(crate) fn matrix(&self, files: &FilesHandle) -> Result<Option<Matrix>> {
        let Imatrix::File { name, included, excluded } = &self.imatrix else { return Ok(None) };
        let mut matrix = Matrix::open(files, name)?;
        matrix.keep(included, excluded);
        if matrix.len() == 0 {
            return Err(Failure::usage(format!("{INCLUDE} and {EXCLUDE} leave nothing of the importance matrix"))
                .hint("leave them out, or leave --imatrix out"));
        }
        Ok(Some(matrix))
    }

    fn set(&mut self, key: &str, value: &str) -> Result<()> {
        match key {
            PRE => self.pre = Some(value.into()),
            SAVE => {
                self.saves = yes_or_no(SAVE, value)?;
                if self.saves && self.imatrix != Imatrix::Computed {
                    return Err(Failure::usage(format!("{SAVE} without --imatrix auto has nothing to save")));
                }
            }
            OUTPUT_TYPE => self.types.output = Some(block_type(OUTPUT_TYPE, value)?),
            EMBEDDING_TYPE => self.types.embedding = Some(block_type(EMBEDDING_TYPE, value)?),
            MIX if self.size.is_some() => self.mixed = mixed(value)?,
            MIX => {
                return Err(Failure::usage(format!("{MIX} has no meaning without a size"))
                    .hint("name one with --max-size, or with --level 4.5bpw"));
            }
            PURE => {
                self.types.pure = yes_or_no(PURE, value)?;
                if self.types.pure && self.size.is_some() {
                    return Err(Failure::usage("a file of a size is a mixture of types, and cannot be pure")
                        .hint("leave one of them out"));
                }
            }
            LEAVE_OUTPUT => self.types.leaves_output = yes_or_no(LEAVE_OUTPUT, value)?,
            SPLIT_SIZE | SPLIT_TENSORS if self.split.is_some() => {
                return Err(Failure::usage(format!("{SPLIT_SIZE} and {SPLIT_TENSORS} both say where files are cut"))
                    .hint("leave one of them out"));
            }
            SPLIT_SIZE => self.split = Some(Split::of_size(SPLIT_SIZE, value)?),
            SPLIT_TENSORS => self.split = Some(Split::of_tensors(SPLIT_TENSORS, value)?),
            OVERRIDE => self.keys = keys_given::read(OVERRIDE, value)?,
            INCLUDE | EXCLUDE => {
                let Imatrix::File { included, excluded, .. } = &mut self.imatrix else {
                    return Err(Failure::usage(format!(
                        "{key} is about the entries of --imatrix FILE, and there is none"
                    )));
                };
                let names = value.split([',', '\n']).filter(|name| !name.is_empty()).map(str::to_owned);
                *(if key == INCLUDE { included } else { excluded }) = names.collect();
            }
            key if OF_CALIBRATION.contains(&key) => match &mut self.calibration {
                Some(calibration) => drop(calibration.set(key, value)?),
                None => {
                    return Err(Failure::usage(format!("{key} has no meaning without data to calibrate with"))
                        .hint("name some with --calibration"));
                }
            },
            _ => {
                let known: Vec<_> = DESCRIPTIONS.iter().map(|(known, _)| format!("`{known}`")).collect();
                return Err(Failure::usage(format!("gguf has no plugin option `{key}`"))
                    .hint(format!("it has {}", known.join(", "))));
            }
        }
        Ok(())
    }
}

/// The plugin's own options.
pub(crate) fn descriptions() -> Vec<OptionDescription> {
    DESCRIPTIONS.map(|(key, what)| OptionDescription::new(key, what)).to_vec()
}

const DESCRIPTIONS: [(&str, &str); 14] = [
    (SPLIT_SIZE, "a folder of files with at most so many bytes of tensors each, such as 2G or 500M"),
    (SPLIT_TENSORS, "a folder of files with at most so many tensors each"),
    (OUTPUT_TYPE, "type of output.weight, such as Q8_0; of the embedding too where that is the output"),
    (EMBEDDING_TYPE, "type of token_embd.weight"),
    (MIX, "the types that are chosen among for a size, such as Q4_K,Q5_K,Q6_K"),
    (PURE, "true gives every tensor the level's own type, and not those of its mixture"),
    (LEAVE_OUTPUT, "true leaves output.weight in the floats that the checkpoint has"),
    (OVERRIDE, "KEY=TYPE:VALUE puts a key into the metadata (int, float, bool, str); may be given several times"),
    (INCLUDE, "of --imatrix FILE only the entries whose names have one of these in them (commas between)"),
    (EXCLUDE, "of --imatrix FILE none of the entries whose names have one of these in them"),
    (PRE, "name of the pre-tokenizer for llama.cpp, where it is not recognised (llama-bpe, qwen2, …)"),
    (SAVE, "true writes the importance matrix of --imatrix auto beside the file, as llama-imatrix does"),
    ("damp", "what is added to the diagonal of a Hessian, as a share of its mean; 0.01 if not given"),
    ("fewest-tokens", "experts that see fewer tokens of --calibration are rounded without it; 256 if not given"),
];

fn mixed(value: &str) -> Result<Vec<BlockType>> {
    let mut types = value.split(',').map(|name| block_type(MIX, name.trim())).collect::<Result<Vec<_>>>()?;
    types.sort_by(|a, b| b.expected_error().total_cmp(&a.expected_error()));
    types.dedup();
    Ok(types)
}

fn yes_or_no(key: &str, value: &str) -> Result<bool> {
    match value {
        "true" => Ok(true),
        "false" => Ok(false),
        other => Err(Failure::usage(format!("{key} is true or false, not `{other}`"))),
    }
}

fn level(options: &Options, size: Option<Size>) -> Result<Option<&'static Level>> {
    if let Some(flag) = options
        .flags_besides_level()
        .into_iter()
        .find(|flag| !["--imatrix", "--effort", "--tensor-type", "--max-size"].contains(flag))
    {
        return Err(Failure::usage(format!("{flag} has no meaning for gguf")).hint("choose the precision with --level"));
    }
    let Some(name) = options.level.as_deref().filter(|_| size.is_none()) else { return Ok(None) };
    Level::named(name).map(Some).ok_or_else(|| {
        let known: Vec<_> = LEVELS.iter().map(|level| level.name).collect();
        Failure::unsupported(format!("gguf has no level `{name}`"))
            .hint(format!("the levels are {}, or a size such as 4.5bpw", known.join(", ")))
    })
}

fn imatrix(options: &Options) -> Imatrix {
    match options.imatrix.as_deref() {
        None => Imatrix::None,
        Some("auto") => Imatrix::Computed,
        Some(name) => Imatrix::File { name: name.into(), included: Vec::new(), excluded: Vec::new() },
    }
}
