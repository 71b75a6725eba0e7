//! What the user asks for: groups, symmetry, and what `--plugin-option` sets.
//!
//! It knows no model: what does not fit a model's matrices is refused in `qhost-linears`.

use qhost_budget::Size;
use qhost_folder::{DEFAULT_SHARD_BYTES, shard_bytes};
use qhost_linears::{
    Calibration, Effort, Hints, Holds, Level, Module, Multiples, Offered, Selection, Settings, Taken, group_size,
    leaves_open, one_of,
};
use qhost_plugin_api::{
    documents::{Conversion, Model, OptionDescription, Options, SourceTensor},
    sdk::{Failure, Result},
};

use crate::{
    format::{BITS, DEFAULT_LEVEL},
    pack::CODES,
};

/// The option that leaves out modules.
pub(crate) const LEFT_OUT: &str = "modules-to-not-convert";

/// The keys of `--plugin-option`, each with a line about it.
const KEYS: [(&str, &str); 6] = [
    ("damp", "share of the Hessian's diagonal that is added to it, between 0 and 1 (default 0.01)"),
    ("fewest-tokens", "an expert that sees fewer tokens is scarce (default 256)"),
    (LEFT_OUT, "modules that are left as they are, by parts of their names: down_proj,layers.0."),
    ("scale-only", "true writes the scaled model without quantising it, for other quantisers to take (default false)"),
    (
        "scarce-experts",
        "experts that see few tokens: all-tokens (default, they are calibrated with every token) or as-is",
    ),
    ("shard-size", "weights in a file, such as 5GB (default) or 500MB"),
];

/// All that was asked for.
#[derive(Debug, Clone)]
pub(crate) struct Choices {
    /// How modules are quantised.
    pub(crate) settings: Settings,
    /// Parts of the names of modules that are left as they are.
    pub(crate) left_out: Vec<String>,
    /// How they are calibrated.
    pub(crate) calibration: Calibration,
    /// Whether the scaled model is what is written.
    pub(crate) scale_only: bool,
    /// The largest file, in bytes of weights.
    pub(crate) shard_bytes: u64,
    /// What is offered, if the model is converted.
    offered: Offered,
    /// Whether groups may be those that are offered: nothing was said of them.
    is_open: bool,
    /// The size that the files are to have at most.
    pub(crate) size: Option<Size>,
    /// Whether the user has said how large groups are.
    pub(crate) says_groups: bool,
}

/// What the files hold.
const HOLDS: Holds = Holds { widths: &BITS, least_zero: 0, orders: false };

impl Choices {
    /// Reads the options, and refuses what has no meaning.
    pub(crate) fn read(options: &Options) -> Result<Self> {
        if !options.tensor_types.is_empty() {
            return Err(Failure::usage("--tensor-type has no meaning for awq")
                .hint("modules that stay as they are can be named with --plugin-option modules-to-not-convert=NAMES"));
        }
        if options.imatrix.is_some() {
            return Err(Failure::usage("--imatrix has no meaning for awq")
                .hint("awq weighs inputs by their second moments anyway: give the data with --calibration"));
        }
        if options.act_order == Some(true) {
            return Err(Failure::usage("--desc-act has no meaning for awq: its files say nothing of the order")
                .hint("columns are put in order within their groups anyway"));
        }
        let named = |level: &String| {
            Level::parse(level, &BITS).ok_or_else(|| {
                Failure::unsupported(format!("awq has no level `{level}`"))
                    .hint("levels are 4 bits and a group size: 4bit-g128, 4bit-g64, 4bit-g32, 4bit-channel, …")
            })
        };
        let asked = Size::of(options, group_size)?;
        let of_options = options.level.as_ref().filter(|_| asked.is_none());
        let mut level = of_options.map(named).transpose()?.unwrap_or(DEFAULT_LEVEL);
        let of_size = asked.and_then(|(_, groups)| groups);
        level.group_size = of_size.unwrap_or(level.group_size);
        let level = level.with_flags(options, of_options.is_some() || of_size.is_some())?;
        if !BITS.contains(&level.bits) {
            return Err(Failure::unsupported(format!("AWQ files have 4 bits, not {}", level.bits))
                .about("--bits")
                .hint("--format gptq has 2, 3, 4 and 8 bits"));
        }
        let mut choices = Self {
            settings: Settings {
                bits: level.bits,
                group_size: level.group_size,
                symmetric: options.symmetric.unwrap_or(false),
                act_order: false,
            },
            left_out: Vec::new(),
            calibration: Calibration { effort: Effort::read(options.effort.as_deref())?, ..Calibration::default() },
            scale_only: false,
            shard_bytes: DEFAULT_SHARD_BYTES,
            offered: Offered::default(),
            is_open: leaves_open(options),
            size: asked.map(|(size, _)| size),
            says_groups: of_size.is_some() || options.group_size.is_some(),
        };
        choices.calibration.corrects = choices.calibration.effort == Effort::Best;
        for (key, value) in &options.plugin {
            choices.set(key, value)?;
        }
        if choices.scale_only && choices.size.is_some() {
            return Err(Failure::usage(
                "the scaled model has the size of the original: scale-only and a size contradict",
            )
            .hint("leave one of them out"));
        }
        if choices.scale_only {
            // What the layers before have changed is nothing.
            choices.calibration.corrects = false;
        }
        Ok(choices)
    }

    /// Takes what a conversion offers. All modules have groups of one size; where nothing is said of it, it is one that
    /// holds those of most weights.
    pub(crate) fn offer(&mut self, conversion: Option<&Conversion>, model: &Model) {
        if conversion.is_none() || self.scale_only {
            return;
        }
        self.offered = Offered::of(conversion, model);
        if self.is_open {
            let votes = self.offered.settings(model, &HOLDS);
            let sizes = votes.iter().filter_map(|(settings, _)| settings.group_size);
            let Some((first, _)) = votes.first() else { return };
            // Groups are held by groups that divide them, and whole rows by any that divide their length.
            let smallest = sizes.min().filter(|smallest| {
                votes.iter().filter_map(|(settings, _)| settings.group_size).all(|size| size.is_multiple_of(*smallest))
            });
            self.settings.group_size = smallest.or(first.group_size);
        }
    }

    fn set(&mut self, key: &str, value: &str) -> Result<()> {
        match key {
            LEFT_OUT => {
                let parts = value.split(',').map(str::trim).filter(|part| !part.is_empty());
                self.left_out = parts.map(str::to_owned).collect();
            }
            "scale-only" => self.scale_only = one_of(key, value, &[("true", true), ("false", false)])?,
            "shard-size" => {
                self.shard_bytes = shard_bytes(value).map_err(|failure| failure.about("--plugin-option shard-size"))?;
            }
            _ if self.calibration.set(key, value)? => {}
            _ => {
                let known: Vec<_> = KEYS.iter().map(|(key, _)| *key).collect();
                return Err(Failure::usage(format!("awq has no plugin option `{key}`"))
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
        false
    }

    fn settings(&self, module: &str) -> Result<Option<Settings>> {
        let left_out = self.left_out.iter().any(|part| module.contains(&**part));
        Ok((!left_out).then_some(self.settings))
    }

    fn taken(&self, module: &Module, settings: Settings) -> Option<(Settings, Taken)> {
        Taken::best(self.offered.offers(module.tensor), module.columns, Some(settings), &HOLDS)
    }

    fn leaves_out(&self, id: u32) -> bool {
        self.is_open && self.offered.leaves_out(id)
    }

    fn narrows(&self, id: u32, tensor: &SourceTensor) -> bool {
        self.offered.is_widened(id, tensor)
    }

    fn multiples(&self, _: Settings) -> Multiples {
        Multiples { rows: CODES as u64, columns: 1 }
    }

    fn hints(&self) -> Hints {
        Hints {
            some_experts: "modules-to-not-convert has to be about all experts of a layer, or about none",
            nothing: "modules-to-not-convert leaves every module as it is",
            stored_otherwise: "have nothing in modules-to-not-convert that leaves experts as they are",
            leave_one: "leave it as it is with --plugin-option modules-to-not-convert=NAME",
            leave_some: "leave such modules as they are with --plugin-option modules-to-not-convert=NAMES",
            own_groups: "--plugin-option modules-to-not-convert=NAMES leaves some modules as they are",
        }
    }
}

/// What `--plugin-option` takes, for lists.
pub(crate) fn descriptions() -> Vec<OptionDescription> {
    KEYS.iter().map(|(key, summary)| OptionDescription::new(*key, *summary)).collect()
}

#[cfg(test)]
mod tests {
    use qhost_plugin_api::sdk::FailureKind;

    use super::*;

    fn with(plugin: &[(&str, &str)]) -> Options {
        let plugin = plugin.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Options { plugin, ..Options::default() }
    }

    #[test]
    fn without_options_it_is_4_bits_with_zeros_in_groups_of_128() {
        let choices = Choices::read(&Options::default()).unwrap();
        let expected = Settings { bits: 4, group_size: Some(128), symmetric: false, act_order: false };
        assert_eq!(choices.settings, expected);
        assert_eq!((choices.level().as_str(), choices.scale_only), ("4bit-g128", false));
        assert!(!choices.calibration.corrects);
    }

    #[test]
    fn other_widths_sizes_and_orders_are_refused() {
        let kind = |options: Options| Choices::read(&options).unwrap_err().kind;
        assert_eq!(kind(Options { bits: Some(3), ..Options::default() }), FailureKind::UNSUPPORTED);
        assert_eq!(kind(Options { level: Some("8bit-g128".into()), ..Options::default() }), FailureKind::UNSUPPORTED);
        let level = Some("4bit-g64".into());
        assert_eq!(kind(Options { max_size: Some(1), level, ..Options::default() }), FailureKind::USAGE);
        assert_eq!(kind(Options { act_order: Some(true), ..Options::default() }), FailureKind::USAGE);
        assert_eq!(kind(Options { imatrix: Some(String::new()), ..Options::default() }), FailureKind::USAGE);
        assert_eq!(kind(Options { group_size: Some(0), ..Options::default() }), FailureKind::USAGE);
        assert_eq!(kind(Options { effort: Some("much".into()), ..Options::default() }), FailureKind::USAGE);
        for wrong in [("scale-only", "yes"), ("damp", "1"), ("lm-head", "true"), ("shard-size", "-1")] {
            assert_eq!(kind(with(&[wrong])), FailureKind::USAGE, "{wrong:?}");
        }
        assert!(Choices::read(&Options { act_order: Some(false), bits: Some(4), ..Options::default() }).is_ok());
    }

    #[test]
    fn every_hint_says_something() {
        let Hints { some_experts, nothing, stored_otherwise, leave_one, leave_some, own_groups } =
            Choices::read(&Options::default()).unwrap().hints();
        for hint in [some_experts, nothing, stored_otherwise, leave_one, leave_some, own_groups] {
            assert!(hint.contains(LEFT_OUT), "{hint:?}");
        }
    }

    #[test]
    fn modules_are_left_out_by_parts_of_their_names() {
        let choices = Choices::read(&with(&[(LEFT_OUT, "o_proj, layers.0.,")])).unwrap();
        let names = ["model.layers.0.mlp.up_proj", "model.layers.10.mlp.up_proj", "model.layers.1.self_attn.o_proj"];
        let quantised = names.map(|name| choices.settings(name).unwrap().is_some());
        assert_eq!(quantised, [false, true, false]);
        assert!(choices.refuse_unknown(&names).is_ok());
        assert_eq!(choices.refuse_unknown(&names[..2]).unwrap_err().kind, FailureKind::USAGE);
    }
}
