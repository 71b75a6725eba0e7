//! What the user asks for: bits, groups, and what `--plugin-option` sets.
//!
//! It knows no model: what does not fit a model's matrices is refused in [`qhost_linears::Contents`].

use qhost_folder::{DEFAULT_SHARD_BYTES, shard_bytes};
use qhost_linears::{
    Calibration, Effort, Hints, Holds, Level, Module, Multiples, Offered, Selection, Settings, Taken, leaves_open,
    one_of,
};
use qhost_plugin_api::{
    documents::{Conversion, Model, OptionDescription, Options, RoleKind, SourceTensor},
    sdk::{Failure, Result},
};

use crate::format::{self, BITS, DEFAULT_LEVEL, FORMAT};

/// The option that leaves out modules.
pub(crate) const LEFT_OUT: &str = "ignore";

/// The keys of `--plugin-option`, each with a line about it.
const KEYS: [(&str, &str); 6] = [
    ("damp", "share of the Hessian's mean diagonal that is added to it, between 0 and 1 (default 0.01)"),
    ("fewest-tokens", "an expert that sees fewer tokens is scarce (default 256)"),
    (LEFT_OUT, "modules that are left as they are, by parts of their names: down_proj,layers.0."),
    ("lm-head", "whether the head is quantised as well: true or false (default)"),
    (
        "scarce-experts",
        "experts that see few tokens: all-tokens (default, they are calibrated with every token) or as-is",
    ),
    ("shard-size", "weights in a file, such as 5GB (default) or 500MB"),
];

/// What the files hold.
const HOLDS: Holds = Holds { widths: &BITS, least_zero: 0, orders: true };

/// All that was asked for.
#[derive(Debug, Clone)]
pub(crate) struct Choices {
    /// How modules are quantised.
    pub(crate) settings: Settings,
    /// Parts of the names of modules that are left as they are.
    pub(crate) left_out: Vec<String>,
    /// Whether the head is quantised.
    pub(crate) lm_head: bool,
    /// Whether modules are rounded by what their inputs are; else each group for itself.
    pub(crate) calibrates: bool,
    /// How they are then.
    pub(crate) calibration: Calibration,
    /// The largest file, in bytes of weights.
    pub(crate) shard_bytes: u64,
    /// What is offered, if the model is converted.
    offered: Offered,
    /// Whether modules may come as they are offered: nothing was said of how they are quantised.
    is_open: bool,
}

impl Choices {
    /// Reads the options, and refuses what has no meaning. The user `calibrates` by naming data.
    pub(crate) fn read(options: &Options, calibrates: bool) -> Result<Self> {
        let refused = [
            (
                !options.tensor_types.is_empty(),
                "--tensor-type",
                "modules are left as they are by --plugin-option ignore=NAMES",
            ),
            (
                options.imatrix.is_some(),
                "--imatrix",
                "with --calibration DATA inputs are weighed by their second moments",
            ),
            (options.max_size.is_some(), "--max-size", "choose bits and groups: --bits 3 --group-size 64"),
        ];
        if let Some((_, flag, hint)) = refused.into_iter().find(|(is_set, ..)| *is_set) {
            return Err(Failure::usage(format!("{flag} has no meaning for {FORMAT}")).hint(hint));
        }
        let level = options.level.as_deref().map_or(Ok(DEFAULT_LEVEL), format::level)?;
        if let Some(bits) = options.bits.filter(|bits| !BITS.contains(bits)) {
            return Err(Failure::unsupported(format!("its codes have 2 to 8 bits, not {bits}")).about("--bits"));
        }
        let Level { bits, group_size } = level.with_flags(options, true)?;
        let settings = Settings {
            bits,
            group_size,
            symmetric: options.symmetric.unwrap_or(true),
            act_order: options.act_order.unwrap_or(false),
        };
        let effort = Effort::read(options.effort.as_deref())?;
        let corrects = calibrates && effort == Effort::Best;
        let mut choices = Self {
            settings,
            left_out: Vec::new(),
            lm_head: false,
            calibrates,
            calibration: Calibration { effort, corrects, ..Calibration::default() },
            shard_bytes: DEFAULT_SHARD_BYTES,
            offered: Offered::default(),
            is_open: leaves_open(options),
        };
        for (key, value) in &options.plugin {
            choices.set(key, value)?;
        }
        if settings.act_order && !calibrates {
            return Err(Failure::usage("columns are put in order by their inputs, of which nothing is known")
                .about("--desc-act")
                .hint("name data with --calibration, or leave it out"));
        }
        Ok(choices)
    }

    /// Takes what a conversion offers. Where nothing is said of bits and groups, they are those of most weights.
    pub(crate) fn offer(&mut self, conversion: Option<&Conversion>, model: &Model) {
        if conversion.is_none() {
            return;
        }
        self.offered = Offered::of(conversion, model);
        if !self.is_open {
            return;
        }
        if let Some((settings, _)) = self.offered.settings(model, &HOLDS).first() {
            // What is rounded anew has an order only by its inputs.
            self.settings = Settings { act_order: settings.act_order && self.calibrates, ..*settings };
        }
        // A head that the source has as codes in groups is one that loaders take.
        let head = (0..).zip(&model.tensors).find(|(_, tensor)| tensor.role.kind == RoleKind::Output);
        self.lm_head = self.lm_head
            || !model.hyperparameters.tied_embeddings && head.is_some_and(|(id, _)| self.offered.is_grouped(id));
    }

    fn set(&mut self, key: &str, value: &str) -> Result<()> {
        match key {
            LEFT_OUT => {
                let parts = value.split(',').map(str::trim).filter(|part| !part.is_empty());
                self.left_out = parts.map(str::to_owned).collect();
            }
            "lm-head" => self.lm_head = one_of(key, value, &[("true", true), ("false", false)])?,
            "shard-size" => {
                self.shard_bytes = shard_bytes(value).map_err(|failure| failure.about("--plugin-option shard-size"))?;
            }
            _ if self.calibration.set(key, value)? => {
                if !self.calibrates {
                    return Err(Failure::usage("it is about calibration, and there is none")
                        .about(format!("--plugin-option {key}"))
                        .hint("name data with --calibration, or leave it out"));
                }
            }
            _ => {
                let known: Vec<_> = KEYS.iter().map(|(key, _)| *key).collect();
                return Err(Failure::usage(format!("{FORMAT} has no plugin option `{key}`"))
                    .hint(format!("it has {}", known.join(", "))));
            }
        }
        Ok(())
    }

    /// The name of the level that was chosen.
    pub(crate) fn level(&self) -> String {
        Level { bits: self.settings.bits, group_size: self.settings.group_size }.name()
    }

    /// Refuses a part of a name that no module has.
    pub(crate) fn refuse_unknown(&self, modules: &[&str]) -> Result<()> {
        let unknown = |part: &&String| !modules.iter().any(|module| module.contains(&***part));
        match self.left_out.iter().find(unknown) {
            None => Ok(()),
            Some(part) => Err(Failure::usage(format!("no linear has `{part}` in its name"))
                .about(format!("--plugin-option {LEFT_OUT}"))
                .hint("names are the checkpoint's, such as model.layers.0.mlp.down_proj")),
        }
    }
}

impl Selection for Choices {
    fn quantises_head(&self) -> bool {
        self.lm_head
    }

    fn settings(&self, module: &str) -> Result<Option<Settings>> {
        let left_out = self.left_out.iter().any(|part| module.contains(part.as_str()));
        Ok((!left_out).then_some(self.settings))
    }

    fn taken(&self, module: &Module, settings: Settings) -> Option<(Settings, Taken)> {
        let asked = (!self.is_open).then_some(settings);
        let (mut own, taken) = Taken::best(self.offered.offers(module.tensor), module.columns, asked, &HOLDS)?;
        if own.group_size.is_none() && self.settings.group_size == Some(module.columns) {
            // A whole row is a group of as many.
            own.group_size = self.settings.group_size;
        }
        Some((own, taken))
    }

    fn leaves_out(&self, id: u32) -> bool {
        self.is_open && self.offered.leaves_out(id)
    }

    fn narrows(&self, id: u32, tensor: &SourceTensor) -> bool {
        self.offered.is_widened(id, tensor)
    }

    fn multiples(&self, _: Settings) -> Multiples {
        // The last word of a row need not be full.
        Multiples { rows: 1, columns: 1 }
    }

    fn hints(&self) -> Hints {
        HINTS
    }
}

/// What to tell a user about models that do not fit.
const HINTS: Hints = Hints {
    some_experts: "--plugin-option ignore has to be about all experts of a layer, or about none",
    nothing: "--plugin-option ignore leaves every module as it is",
    stored_otherwise: "leave experts out of --plugin-option ignore",
    leave_one: "leave it as it is with --plugin-option ignore=NAME",
    leave_some: "leave such modules as they are with --plugin-option ignore=NAMES",
    own_groups: "all modules have groups of one size",
};

/// What `--plugin-option` takes, for lists.
pub(crate) fn descriptions() -> Vec<OptionDescription> {
    KEYS.iter().map(|(key, summary)| OptionDescription::new(*key, *summary)).collect()
}

#[cfg(test)]
mod tests {
    use qhost_plugin_api::sdk::FailureKind;

    use super::*;

    fn options(plugin: &[(&str, &str)]) -> Options {
        let plugin = plugin.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Options { plugin, ..Options::default() }
    }

    #[test]
    fn without_options_it_is_4_bits_in_groups_of_128_rounded_for_themselves() {
        let choices = Choices::read(&Options::default(), false).unwrap();
        let expected = Settings { bits: 4, group_size: Some(128), symmetric: true, act_order: false };
        assert_eq!((choices.settings, choices.level().as_str(), choices.lm_head), (expected, "4bit-g128", false));
        assert!(!choices.calibrates);
        let best = Options { effort: Some("best".into()), ..Options::default() };
        assert!(Choices::read(&best, true).unwrap().calibration.corrects);
        assert!(!Choices::read(&best, false).unwrap().calibration.corrects);
    }

    #[test]
    fn what_has_no_meaning_is_refused() {
        let kind = |options: &Options, calibrates| Choices::read(options, calibrates).unwrap_err().kind;
        for (key, value) in [("damp", "0.05"), ("scarce-experts", "as-is"), ("fewest-tokens", "7")] {
            assert_eq!(kind(&options(&[(key, value)]), false), FailureKind::USAGE, "{key}");
            assert!(Choices::read(&options(&[(key, value)]), true).is_ok(), "{key}");
        }
        for (key, value) in [("damp", "1"), ("lm-head", "yes"), ("shard-size", "big"), ("dynamic", "{}")] {
            assert_eq!(kind(&options(&[(key, value)]), true), FailureKind::USAGE, "{key}={value}");
        }
        let order = Options { act_order: Some(true), ..Options::default() };
        assert_eq!(kind(&order, false), FailureKind::USAGE);
        assert!(Choices::read(&order, true).unwrap().settings.act_order);
        for wrong in [
            Options { imatrix: Some("auto".into()), ..Options::default() },
            Options { max_size: Some(1), ..Options::default() },
            Options { tensor_types: vec!["x=y".into()], ..Options::default() },
            Options { group_size: Some(0), ..Options::default() },
            Options { level: Some("4bit-g128".into()), bits: Some(3), ..Options::default() },
        ] {
            assert_eq!(kind(&wrong, false), FailureKind::USAGE, "{wrong:?}");
        }
        assert_eq!(kind(&Options { bits: Some(9), ..Options::default() }, false), FailureKind::UNSUPPORTED);
        assert_eq!(kind(&Options { bits: Some(1), ..Options::default() }, false), FailureKind::UNSUPPORTED);
    }

    #[test]
    fn modules_are_left_out_by_parts_of_their_names() {
        let choices = Choices::read(&options(&[("ignore", "down_proj, layers.0.")]), false).unwrap();
        let is_left = |name: &str| choices.settings(name).unwrap().is_none();
        assert!(is_left("model.layers.3.mlp.down_proj") && is_left("model.layers.0.mlp.up_proj"));
        assert!(!is_left("model.layers.10.mlp.up_proj"));
        assert!(choices.refuse_unknown(&["model.layers.0.mlp.down_proj"]).is_ok());
        assert!(choices.refuse_unknown(&["model.layers.0.mlp.up_proj"]).is_err());
    }
}
