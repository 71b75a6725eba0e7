//! The arguments as the user writes them, and the help that goes with them.

use std::{num::NonZero, path::PathBuf};

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use qhost_compute::DeviceChoice;

use crate::{report::Verbosity, run::FormatRequest};

/// Quantises Hugging Face language models to any format that a plugin brings.
///
/// Formats are plugins: `qhost plugins list` shows what is installed. One step leads from the original
/// checkpoint to the finished output; a run that was interrupted goes on where it stopped when the same
/// command is given again.
#[derive(Debug, Parser)]
#[command(name = "qhost", version, propagate_version = true, after_long_help = EXIT_CODES)]
pub(super) struct CommandLine {
    #[command(flatten)]
    pub(super) global: Global,
    #[command(subcommand)]
    pub(super) command: Command,
}

const EXIT_CODES: &str = "\
Exit codes:
    0  done
    1  internal error
    2  usage
    3  model not found or not reachable
    4  unsupported architecture, shape, level or option
    5  corrupt or incomplete input
    6  out of disk or memory, planned or met; output that cannot be written
    7  plugin missing, incompatible or failed
    8  verification failed
    9  confirmation needed
  130  interrupted; the checkpoint is kept";

#[derive(Debug, Args)]
pub(super) struct Global {
    /// Say what is being done; twice for everything.
    #[arg(short, long, action = ArgAction::Count, global = true, conflicts_with = "verbosity", help_heading = "Output")]
    verbose: u8,
    /// Say nothing but errors.
    #[arg(short, long, global = true, conflicts_with_all = ["verbose", "verbosity"], help_heading = "Output")]
    quiet: bool,
    /// The same as -vv.
    #[arg(long, global = true, conflicts_with_all = ["quiet", "verbosity"], help_heading = "Output")]
    debug: bool,
    /// How much to say beside the result.
    #[arg(long, value_name = "LEVEL", global = true, help_heading = "Output")]
    verbosity: Option<VerbosityName>,
    /// Write everything down to debug messages into this file, too.
    #[arg(long, value_name = "FILE", global = true, help_heading = "Output")]
    pub(super) log_file: Option<PathBuf>,
    /// How the result and errors are printed, on standard output; with json, progress is JSON lines on
    /// standard error.
    #[arg(long, value_name = "FORMAT", default_value = "human", global = true, help_heading = "Output")]
    pub(super) output_format: OutputFormat,
    /// The same as --output-format json.
    #[arg(long, global = true, help_heading = "Output")]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) plugins: PluginChoice,
}

/// Which plugins are used, and how.
#[derive(Debug, Args)]
pub(super) struct PluginChoice {
    /// Look for plugins in this folder first; may be given several times.
    ///
    /// After these come the folders in the environment variable `QHOST_PLUGIN_PATH`, `plugins` beside the
    /// executable, `lib/qhost/plugins` of the installation, what `qhost plugins install` has installed, and
    /// `qhost/plugins` in the user's data folder. Folders that anybody may write to are refused.
    #[arg(long = "plugin-dir", value_name = "DIR", global = true, help_heading = "Plugins")]
    pub(super) plugin_dirs: Vec<PathBuf>,
    /// Run plugins in processes of their own: one that crashes does not take qhost along. Linux only.
    #[arg(long, global = true, help_heading = "Plugins")]
    pub(super) isolate: bool,
    /// Use only plugins that came with qhost, or that `plugins.lock` lists with the very same contents.
    #[arg(long, global = true, help_heading = "Plugins")]
    pub(super) locked: bool,
}

impl Global {
    pub(super) fn verbosity(&self) -> Verbosity {
        match (self.verbosity, self.quiet, self.debug, self.verbose) {
            (Some(VerbosityName::Quiet), ..) | (None, true, ..) => Verbosity::Quiet,
            (Some(VerbosityName::Debug), ..) | (None, _, true, _) | (None, _, _, 2..) => Verbosity::Debug,
            (Some(VerbosityName::Verbose), ..) | (None, _, _, 1) => Verbosity::Verbose,
            (Some(VerbosityName::Normal), ..) | (None, false, false, 0) => Verbosity::Normal,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum VerbosityName {
    Quiet,
    Normal,
    Verbose,
    Debug,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum OutputFormat {
    /// Words and small tables.
    Human,
    /// One JSON document.
    Json,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Quantise a checkpoint.
    ///
    /// Reads a Hugging Face checkpoint, quantises it to the format of a plugin, checks the result by
    /// reading it back, and puts it in place in one step. Until then the work is in a folder NAME.partial
    /// beside the output; if the run is interrupted, the same command goes on from there.
    #[command(after_long_help = QUANTIZE_EXAMPLES)]
    Quantize(QuantizeArguments),
    /// Make another format of a model that is quantised already.
    ///
    /// Reads whatever an installed plugin reads, a file or a folder. Of every tensor the numbers that are stored are
    /// kept where the target can hold them; what it cannot hold is rounded or quantised anew, and is told. Where that
    /// costs quality it is asked first, or --yes is needed: the original checkpoint makes a better model. Without
    /// --level and the like, what loses least is made.
    #[command(after_long_help = CONVERT_EXAMPLES)]
    Convert(ConvertArguments),
    /// Show what quantize or convert would do, without writing anything.
    Plan(QuantizeArguments),
    /// Show what is in a checkpoint or in a quantised file.
    ///
    /// Reads safetensors (a file, or a folder with its config.json) and whatever an installed plugin reads:
    /// format, architecture, metadata, and every tensor with its type, shape and size. Of a split file all
    /// parts that lie beside it are read. No weight is touched.
    Inspect(InspectArguments),
    /// Check a checkpoint or a quantised file, whoever made it.
    ///
    /// Checks the structure, that every scale and every value is a finite number, and the report that a run
    /// of qhost left beside it. With --against, tells for every tensor how far its weights are from those of
    /// the original. Ends with exit code 8 if something is wrong.
    Verify(VerifyArguments),
    /// Measure how well a model predicts a text.
    ///
    /// Runs the model layer by layer, on all cores, and tells its perplexity. With --against, also how far its
    /// predictions and its hidden states are from those of another model, such as the one that it was made from.
    Eval(EvalArguments),
    /// Show, try, install and remove plugins.
    Plugins(PluginsArguments),
    /// A plugin in a process of its own, which `--isolate` starts.
    #[command(hide = true)]
    PluginProcess,
    /// Print a completion script for a shell.
    #[command(after_long_help = COMPLETIONS_EXAMPLES)]
    Completions(CompletionsArguments),
    /// Print the manual page, or write those of all commands into a folder.
    #[command(after_long_help = MAN_EXAMPLES)]
    Man(ManArguments),
}

impl Command {
    /// The output format that the command's own `--format` names, where that is not a target format.
    pub(super) fn output_format(&self) -> Option<OutputFormat> {
        match self {
            Self::Plugins(PluginsArguments {
                command:
                    PluginsCommand::List { format }
                    | PluginsCommand::Info { format, .. }
                    | PluginsCommand::Remove { format, .. }
                    | PluginsCommand::Check(CheckArguments { format, .. })
                    | PluginsCommand::Install(InstallArguments { format, .. })
                    | PluginsCommand::New(NewPluginArguments { format, .. }),
            })
            | Self::Inspect(InspectArguments { format, .. })
            | Self::Verify(VerifyArguments { format, .. })
            | Self::Eval(EvalArguments { format, .. }) => *format,
            _ => None,
        }
    }
}

/// The examples are for reading; nothing in the host depends on a format's name.
const QUANTIZE_EXAMPLES: &str = include_str!("quantize_examples.txt");
const CONVERT_EXAMPLES: &str = include_str!("convert_examples.txt");

const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  qhost completions bash > ~/.local/share/bash-completion/completions/qhost
  qhost completions zsh > ~/.zfunc/_qhost
      with `fpath+=~/.zfunc` before `compinit` in ~/.zshrc
  qhost completions fish > ~/.config/fish/completions/qhost.fish";
const MAN_EXAMPLES: &str = "\
Examples:
  qhost man | man -l -
      shows it at once
  qhost man ~/.local/share/man/man1
      from then on `man qhost` and `man qhost-quantize` show them";

/// Where a command's model comes from.
#[derive(Debug, Args)]
pub(super) struct ModelArguments {
    /// The checkpoint: a folder with config.json and *.safetensors, or the name of a model on the Hugging Face
    /// Hub, such as org/name.
    ///
    /// A folder of that name comes first; `hf://org/name` is always the Hub's. Models of the Hub are kept in the
    /// cache that `huggingface_hub` uses, and taken from there. Environment variables: `HF_TOKEN` (or the file
    /// `HF_TOKEN_PATH`), `HF_HOME`, `HF_HUB_CACHE`, `HF_ENDPOINT`, `HF_HUB_OFFLINE`, `HF_HUB_DOWNLOAD_TIMEOUT`.
    #[arg(value_name = "MODEL")]
    pub(super) model: PathBuf,
    /// The branch, tag or commit of a model on the Hub; main if not given.
    #[arg(long, value_name = "REV")]
    pub(super) revision: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct QuantizeArguments {
    #[command(flatten)]
    pub(super) model: ModelArguments,
    #[command(flatten)]
    pub(super) make: MakeArguments,
}

#[derive(Debug, Args)]
pub(super) struct ConvertArguments {
    /// The quantised model: a file, a folder with one model, or the name of a model on the Hugging Face Hub, which is
    /// fetched first.
    #[arg(value_name = "MODEL")]
    pub(super) model: PathBuf,
    /// The branch, tag or commit of a model on the Hub; main if not given.
    #[arg(long, value_name = "REV")]
    pub(super) revision: Option<String>,
    #[command(flatten)]
    pub(super) make: MakeArguments,
    /// Make it even if it costs quality, without asking.
    #[arg(short, long, help_heading = "What to do")]
    pub(super) yes: bool,
    /// Measure what is lost, of this original: a checkpoint here or on the Hub. The source and the output are held
    /// against it when the output is done.
    #[arg(long, value_name = "ORIGINAL", help_heading = "Measuring")]
    pub(super) against: Option<PathBuf>,
    /// The text for --against, as of `qhost eval`.
    #[arg(long, value_name = "FILE|ID", requires = "against", help_heading = "Measuring")]
    pub(super) dataset: Option<String>,
}

/// How an output is made.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "they are the command's flags")]
pub(super) struct MakeArguments {
    /// The target format, and its level if not that of --level; see `qhost plugins list`.
    ///
    /// Several, with commas or by giving the option several times, are made in one pass over the source. Options go to the
    /// formats that take them. When all outputs are made and checked, they are put in place together.
    #[arg(long, value_name = "ID[=LEVEL]", required = true, value_delimiter = ',', value_parser = format_request)]
    pub(super) format: Vec<FormatRequest>,
    /// The folder for the output.
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    pub(super) output: PathBuf,
    /// The format's named level; see `qhost plugins info ID`.
    #[arg(long, value_name = "LEVEL", help_heading = "Quantisation")]
    pub(super) level: Option<String>,
    /// Bits per weight, for formats without named levels.
    #[arg(long, value_name = "N", help_heading = "Quantisation")]
    pub(super) bits: Option<u32>,
    /// Weights that share a scale; −1 is the whole row.
    #[arg(long, value_name = "N", allow_negative_numbers = true, help_heading = "Quantisation")]
    pub(super) group_size: Option<i64>,
    /// Symmetric quantisation.
    #[arg(long, overrides_with = "asym", help_heading = "Quantisation")]
    pub(super) sym: bool,
    /// Asymmetric quantisation.
    #[arg(long, overrides_with = "sym", help_heading = "Quantisation")]
    pub(super) asym: bool,
    /// Order columns by their activations.
    #[arg(long, overrides_with = "no_desc_act", help_heading = "Quantisation")]
    pub(super) desc_act: bool,
    /// Keep columns in their order.
    #[arg(long, overrides_with = "desc_act", help_heading = "Quantisation")]
    pub(super) no_desc_act: bool,
    /// How much each column of a weight matters: `auto` measures it while quantising, on the data of
    /// --calibration; for formats that use an importance matrix.
    #[arg(long, value_name = "FILE|auto", help_heading = "Quantisation")]
    pub(super) imatrix: Option<String>,
    /// How much is tried for a better result; for formats that search.
    #[arg(long, value_name = "EFFORT", value_parser = ["fast", "default", "best"], help_heading = "Quantisation")]
    pub(super) effort: Option<String>,
    /// The most that the output's weights take, such as 2.5GiB: what each tensor gets is chosen by the loss that is
    /// measured with it; for formats that mix precisions.
    #[arg(long, value_name = "SIZE", help_heading = "Quantisation")]
    pub(super) max_size: Option<bytesize::ByteSize>,
    /// Another type for the tensors whose names in the output match, such as `ffn_down=Q6_K`; may be given several
    /// times, and the first that matches counts. For formats whose tensors have types.
    #[arg(long = "tensor-type", value_name = "REGEX=TYPE", value_parser = pattern_and_type, help_heading = "Quantisation")]
    pub(super) tensor_types: Vec<String>,
    /// An option of the plugin's own; may be given several times. ID.KEY=VALUE is for the format ID alone.
    #[arg(long = "plugin-option", value_name = "KEY=VALUE", value_parser = key_value, help_heading = "Quantisation")]
    pub(super) plugin_options: Vec<(String, String)>,
    #[command(flatten)]
    pub(super) calibration: CalibrationArguments,
    /// What models are run on: cpu, cuda, cuda:N, or auto, which takes a GPU if there is one.
    ///
    /// The last bits of results differ from device to device.
    #[arg(long, value_name = "DEVICE", default_value = "cpu", help_heading = "Resources")]
    pub(super) device: DeviceChoice,
    /// Threads to work with; all cores if not given. The output does not depend on it.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024), help_heading = "Resources")]
    pub(super) threads: Option<u16>,
    /// Ceiling of working memory, such as 8GiB; refused in the plan if it cannot be kept.
    #[arg(long, value_name = "SIZE", help_heading = "Resources")]
    pub(super) max_memory: Option<bytesize::ByteSize>,
    /// Show the plan and stop.
    #[arg(long, help_heading = "What to do")]
    pub(super) dry_run: bool,
    /// Replace an output that exists.
    #[arg(long, help_heading = "What to do")]
    pub(super) force: bool,
    /// Begin anew, even if an interrupted run left finished work.
    #[arg(long, help_heading = "What to do")]
    pub(super) fresh: bool,
    /// Do not write qhost-report.json beside the output.
    #[arg(long, help_heading = "What to do")]
    pub(super) no_report: bool,
    /// Do not write a model card (README.md in a folder, NAME.md beside a file).
    #[arg(long, help_heading = "What to do")]
    pub(super) no_card: bool,
}

/// What activations are taken from.
#[derive(Debug, Args)]
pub(super) struct CalibrationArguments {
    /// Text that the model is run on, where the format or level uses activations: a file (text, JSONL, parquet), or
    /// the name of a data set on the Hub; WikiText-2 if not given.
    ///
    /// Formats that can do without use activations if a text is named, and lose less then.
    ///
    /// Rows of JSONL have `text`, `messages` (put into the model's chat template) or `input_ids`, which are used as
    /// they are, in order. Without a network a text that comes with qhost is used.
    #[arg(long, value_name = "PATH|ID", help_heading = "Calibration")]
    pub(super) calibration: Option<String>,
    /// Rows of tokens to run.
    #[arg(long, value_name = "N", default_value = "128", help_heading = "Calibration")]
    pub(super) samples: NonZero<usize>,
    /// Tokens of a row.
    #[arg(long, value_name = "N", default_value = "2048", help_heading = "Calibration")]
    pub(super) seq_len: NonZero<usize>,
    /// Seed of the choice of rows.
    #[arg(long, value_name = "N", default_value = "0", help_heading = "Calibration")]
    pub(super) seed: u64,
}

fn pattern_and_type(text: &str) -> Result<String, String> {
    match text.rsplit_once('=') {
        Some((pattern, wanted)) if !pattern.is_empty() && !wanted.is_empty() => Ok(text.to_owned()),
        _ => Err("it has to be REGEX=TYPE".into()),
    }
}

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("it has to be KEY=VALUE".into()),
    }
}

fn format_request(text: &str) -> Result<FormatRequest, String> {
    let (id, level) = text.split_once('=').map_or((text, None), |(id, level)| (id, Some(level)));
    if id.is_empty() || level.is_some_and(str::is_empty) {
        return Err("it has to be ID, or ID=LEVEL".into());
    }
    Ok(FormatRequest { id: id.to_owned(), level: level.map(str::to_owned) })
}

#[derive(Debug, Args)]
pub(super) struct InspectArguments {
    /// A file, or a folder with one model.
    pub(super) path: PathBuf,
    /// Every tensor on a line of its own, and every element of long metadata.
    #[arg(long)]
    pub(super) full: bool,
    /// How it is printed.
    #[arg(long, value_name = "FORMAT")]
    pub(super) format: Option<OutputFormat>,
}

#[derive(Debug, Args)]
pub(super) struct VerifyArguments {
    /// A file, or a folder with one model.
    pub(super) path: PathBuf,
    /// Compare with the original: a folder with config.json and *.safetensors.
    #[arg(long, value_name = "SOURCE")]
    pub(super) against: Option<PathBuf>,
    /// Check what this program asks, too: one that loads the format.
    #[arg(long = "for", value_name = "LOADER")]
    pub(super) loader: Option<String>,
    /// Threads to work with; all cores if not given.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(super) threads: Option<u16>,
    /// How it is printed.
    #[arg(long, value_name = "FORMAT")]
    pub(super) format: Option<OutputFormat>,
}

#[derive(Debug, Args)]
pub(super) struct EvalArguments {
    /// The model: a folder with config.json and *.safetensors, a file of an installed plugin's format, or the name
    /// of a model on the Hugging Face Hub.
    pub(super) path: PathBuf,
    /// Compare with this model, which is named in the same way: divergence of the predictions, agreement on the most
    /// probable token, difference of the perplexities, and the error of hidden states after every layer.
    #[arg(long, value_name = "ORIGINAL")]
    pub(super) against: Option<PathBuf>,
    /// The branch, tag or commit of the model on the Hub; where PATH is here, that of ORIGINAL.
    #[arg(long, value_name = "REV")]
    pub(super) revision: Option<String>,
    /// The text: a file (text, JSONL or parquet), or a data set on the Hub; WikiText-2 if not given, or where that
    /// cannot be had, a short text that is built in.
    ///
    /// Rows of `input_ids` are taken as they are, and every predicted token is scored, whatever --ctx and --score say.
    #[arg(long, value_name = "FILE|ID", help_heading = "Text")]
    pub(super) dataset: Option<String>,
    /// Tokens of each window that a text is cut into.
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(2..), help_heading = "Text")]
    pub(super) ctx: u32,
    /// Which predictions of a window are scored.
    #[arg(long, value_name = "RULE", default_value = "second-half", help_heading = "Text")]
    pub(super) score: ScoreName,
    /// Use the first N windows or rows only.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), help_heading = "Text")]
    pub(super) windows: Option<u32>,
    /// Write a page with the figures and plots of them; one that is there is replaced.
    #[arg(long, value_name = "FILE")]
    pub(super) html: Option<PathBuf>,
    /// What models are run on: cpu, cuda, cuda:N, or auto, which takes a GPU if there is one.
    ///
    /// The last bits of results differ from device to device.
    #[arg(long, value_name = "DEVICE", default_value = "cpu", help_heading = "Resources")]
    pub(super) device: DeviceChoice,
    /// Threads to work with; all cores if not given. The figures do not depend on it.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024), help_heading = "Resources")]
    pub(super) threads: Option<u16>,
    /// Ceiling of working memory, such as 8GiB.
    #[arg(long, value_name = "SIZE", help_heading = "Resources")]
    pub(super) max_memory: Option<bytesize::ByteSize>,
    /// How it is printed.
    #[arg(long, value_name = "FORMAT")]
    pub(super) format: Option<OutputFormat>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum ScoreName {
    /// Those of its second half, with the first token replaced by the one that begins a text, where the model wants
    /// one: the rule of llama-perplexity.
    SecondHalf,
    /// All.
    All,
}

#[derive(Debug, Args)]
pub(super) struct PluginsArguments {
    #[command(subcommand)]
    pub(super) command: PluginsCommand,
}

#[derive(Debug, Subcommand)]
pub(super) enum PluginsCommand {
    /// List every library on the search path, usable or not; none is loaded.
    List {
        /// How the list is printed.
        #[arg(long, value_name = "FORMAT")]
        format: Option<OutputFormat>,
    },
    /// Load a plugin and show what its formats can do.
    Info {
        /// The plugin's id.
        id: String,
        /// How it is printed.
        #[arg(long, value_name = "FORMAT")]
        format: Option<OutputFormat>,
    },
    /// Try a plugin in a process of its own.
    ///
    /// Reads the manifest, loads the library and has it describe itself; with --full it also runs the conformance suite:
    /// whole jobs on any number of threads, odd shapes, weights that are no numbers, refusals, damaged files, and reading
    /// back. A plugin that crashes or hangs harms nothing but the process that it is tried in. Ends with 8 where something
    /// is wrong.
    Check(CheckArguments),
    /// Install a plugin for this user.
    ///
    /// The library is copied, checked in a process of its own, and put into the store of the user's data folder under the
    /// digest of its contents; `plugins.lock` there lists what is installed. A plugin is native code and runs with your
    /// rights: install what you trust. One that is installed already is replaced, from another file only with --yes.
    Install(InstallArguments),
    /// Remove a plugin that was installed.
    Remove {
        /// The plugin's id.
        id: String,
        /// How it is printed.
        #[arg(long, value_name = "FORMAT")]
        format: Option<OutputFormat>,
    },
    /// Write a crate for a plugin of your own: a small format that works, with tests.
    New(NewPluginArguments),
}

#[derive(Debug, Args)]
pub(super) struct CheckArguments {
    /// The path of a library, or the id of a plugin.
    #[arg(value_name = "FILE|ID")]
    pub(super) plugin: String,
    /// Run the conformance suite, too.
    #[arg(long)]
    pub(super) full: bool,
    /// Let it be loaded again after a crash, if it passes.
    #[arg(long)]
    pub(super) release: bool,
    /// How many seconds it may take.
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    pub(super) timeout: u64,
    /// How much memory it may take, 4GiB if not given.
    #[arg(long, value_name = "SIZE")]
    pub(super) max_memory: Option<bytesize::ByteSize>,
    /// How the outcome is printed.
    #[arg(long, value_name = "FORMAT")]
    pub(super) format: Option<OutputFormat>,
    /// This is the process of its own.
    #[arg(long, hide = true)]
    pub(super) in_this_process: bool,
}

#[derive(Debug, Args)]
pub(super) struct InstallArguments {
    /// The plugin's library, or a .tar.gz, .tar or .zip with one library in it.
    pub(super) file: PathBuf,
    /// Replace a plugin that was installed from another file.
    #[arg(long)]
    pub(super) yes: bool,
    /// How the outcome is printed.
    #[arg(long, value_name = "FORMAT")]
    pub(super) format: Option<OutputFormat>,
}

#[derive(Debug, Args)]
pub(super) struct NewPluginArguments {
    /// The format's name, made of a-z, 0-9 and hyphens.
    pub(super) name: String,
    /// The folder for the crate, new or empty; without it the name, in the current directory.
    #[arg(long, value_name = "DIR")]
    pub(super) path: Option<PathBuf>,
    /// Depend on this source of qhost-plugin-api instead of a published version.
    #[arg(long, value_name = "DIR")]
    pub(super) plugin_api: Option<PathBuf>,
    /// How the result is printed.
    #[arg(long, value_name = "FORMAT")]
    pub(super) format: Option<OutputFormat>,
}

#[derive(Debug, Args)]
pub(super) struct CompletionsArguments {
    /// The shell.
    pub(super) shell: clap_complete::Shell,
}

#[derive(Debug, Args)]
pub(super) struct ManArguments {
    /// The folder for the pages of all commands; without it the main page is printed.
    #[arg(value_name = "DIR")]
    pub(super) folder: Option<PathBuf>,
}
