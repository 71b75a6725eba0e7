//! What the user asks for: bits, groups, and what `--plugin-option` sets.
//!
//! It knows no model: what does not fit a model's matrices is refused in [`qhost_linears::Contents`].

use qhost_budget::{Size, bits_per_weight};
use qhost_folder::{DEFAULT_SHARD_BYTES, shard_bytes};
use qhost_linears::{
    Calibration, Effort, Hints, Holds, Level, Module, Multiples, Offered, Selection, Settings, Taken, bad, group_name,
    group_size, leaves_open, one_of,
};
use qhost_plugin_api::{
    documents::{Conversion, Model, OptionDescription, Options, RoleKind, SourceTensor},
    sdk::{Failure, Result},
};

use crate::{
    format::{self, BITS, DEFAULT_LEVEL},
    pack::multiples,
    rules::Rules,
};

/// The keys of `--plugin-option`, each with a line about it.
const KEYS: [(&str, &str); 8] = [
    (
        "checkpoint-format",
        "how zero-points are stored: gptq (less one; default with symmetric codes) or gptq_v2 (as they are; default without)",
    ),
    ("damp", "share of the Hessian's mean diagonal that is added to it, between 0 and 1 (default 0.01)"),
    (
        "dynamic",
        "JSON: settings for modules by pattern, as GPTQModel has them: {\"+:.*down_proj\": {\"bits\": 8}, \"-:.*o_proj\": {}}",
    ),
    ("mix", "widths that --max-size and levels such as 3.5bpw choose from (default 2,3,4,8); vLLM loads 4,8"),
    ("lm-head", "whether the head is quantised as well: true or false (default)"),
    (
        "scarce-experts",
        "experts that see few tokens: all-tokens (default, they are calibrated with every token) or as-is",
    ),
    ("shard-size", "weights in a file, such as 5GB (default) or 500MB"),
    ("fewest-tokens", "an expert that sees fewer tokens is scarce (default 256)"),
];

/// How zero-points are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CheckpointFormat {
    /// Less one.
    V1,
    /// As they are.
    V2,
}

impl CheckpointFormat {
    /// The name in config files.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::V1 => "gptq",
            Self::V2 => "gptq_v2",
        }
    }
}

/// All that was asked for.
#[derive(Debug, Clone)]
pub(crate) struct Choices {
    /// How modules are quantised that no rule is about.
    pub(crate) settings: Settings,
    /// Rules for some modules.
    pub(crate) rules: Rules,
    /// How zero-points are stored.
    pub(crate) format: CheckpointFormat,
    /// Whether the head is quantised.
    pub(crate) lm_head: bool,
    /// How modules are rounded by what their inputs are.
    pub(crate) calibration: Calibration,
    /// The largest file, in bytes of weights.
    pub(crate) shard_bytes: u64,
    /// How large the output may be, where that is asked for and not bits.
    pub(crate) target: Option<Size>,
    /// Widths of codes to choose from then.
    pub(crate) mix: Vec<u32>,
    /// The weights of the model, once it is known.
    pub(crate) parameters: u64,
    /// What is offered, if the model is converted.
    offered: Offered,
    /// Whether modules may come as they are offered: nothing was said of how they are quantised.
    is_open: bool,
    /// Whether the user has said how zero-points are stored.
    says_format: bool,
}

impl Choices {
    /// Reads the options, and refuses what has no meaning.
    pub(crate) fn read(options: &Options) -> Result<Self> {
        if !options.tensor_types.is_empty() {
            return Err(Failure::usage("--tensor-type has no meaning for gptq")
                .hint("settings for single modules are --plugin-option dynamic=JSON"));
        }
        if options.imatrix.is_some() {
            return Err(Failure::usage("--imatrix has no meaning for gptq")
                .hint("gptq weighs inputs by their second moments anyway: give the data with --calibration"));
        }
        let target = Size::of(options, group_size)?;
        let mut level = match &options.level {
            Some(level) if target.is_none() => format::level(level)?,
            _ => format::level(DEFAULT_LEVEL)?,
        };
        if let Some((_, Some(of_level))) = target {
            level.group_size = of_level;
        }
        if let Some(bits) = options.bits.filter(|bits| !BITS.contains(bits)) {
            return Err(Failure::unsupported(format!("GPTQ files have 2, 3, 4 or 8 bits, not {bits}")).about("--bits"));
        }
        let says_groups = !matches!(target, Some((_, None)));
        let Level { bits, group_size } = level.with_flags(options, says_groups)?;
        let settings = Settings {
            bits,
            group_size,
            symmetric: options.symmetric.unwrap_or(true),
            act_order: options.act_order.unwrap_or(false),
        };
        let effort = Effort::read(options.effort.as_deref())?;
        let mut choices = Self {
            settings,
            rules: Rules::default(),
            // Readers trust asymmetric zero-points that are stored less one only where they know who wrote them.
            format: if settings.symmetric { CheckpointFormat::V1 } else { CheckpointFormat::V2 },
            lm_head: false,
            calibration: Calibration { effort, corrects: effort == Effort::Best, ..Calibration::default() },
            shard_bytes: DEFAULT_SHARD_BYTES,
            target: target.map(|(target, _)| target),
            mix: BITS.to_vec(),
            parameters: 0,
            offered: Offered::default(),
            is_open: leaves_open(options),
            says_format: options.plugin.contains_key("checkpoint-format"),
        };
        for (key, value) in &options.plugin {
            choices.set(key, value)?;
        }
        match choices.target {
            Some(target) => choices.refuse_bits_of_rules(target)?,
            None if options.plugin.contains_key("mix") => {
                return Err(Failure::usage("there are widths to choose from, and nothing to choose them by")
                    .about("--plugin-option mix")
                    .hint("say how large the output may be, with --max-size or a level such as 3.5bpw"));
            }
            None => {}
        }
        // Until the choice is made.
        choices.settings.bits = choices.target.and(choices.mix.last().copied()).unwrap_or(bits);
        Ok(choices)
    }

    /// Takes what a conversion offers. Where nothing is said of bits and groups, they are those of most weights.
    pub(crate) fn offer(&mut self, conversion: Option<&Conversion>, model: &Model) {
        if conversion.is_none() || self.target.is_some() {
            return;
        }
        self.offered = Offered::of(conversion, model);
        if !self.is_open {
            return;
        }
        if let Some((settings, _)) = self.offered.settings(model, &self.holds()).first() {
            self.settings = *settings;
        }
        // A head that the source has as codes in groups is one that loaders take.
        let head = (0..).zip(&model.tensors).find(|(_, tensor)| tensor.role.kind == RoleKind::Output);
        self.lm_head = self.lm_head
            || !model.hyperparameters.tied_embeddings && head.is_some_and(|(id, _)| self.offered.is_grouped(id));
    }

    /// Settles how zero-points are stored, once it is known which modules there are.
    pub(crate) fn settle_format<'a>(&mut self, mut modules: impl Iterator<Item = &'a Module>) {
        if !self.says_format {
            // Readers trust asymmetric zero-points that are stored less one only where they know who wrote them.
            let all = self.settings.symmetric && modules.all(|module| module.settings.symmetric);
            self.format = if all { CheckpointFormat::V1 } else { CheckpointFormat::V2 };
        }
    }

    /// Refuses modules that only the other way of storing zero-points could take over.
    pub(crate) fn refuse_zeros<'a>(&self, mut modules: impl Iterator<Item = &'a Module>) -> Result<()> {
        let held = self.holds();
        let other = Holds { least_zero: 0, ..held };
        let has_zero = |module: &&Module| {
            let offers = self.offered.offers(module.tensor);
            module.taken.is_none() && Taken::best(offers, module.columns, Some(module.settings), &other).is_some()
        };
        match modules.find(has_zero).filter(|_| held.least_zero > 0) {
            None => Ok(()),
            Some(module) => Err(Failure::unsupported("it has a zero-point of 0, which cannot be stored less one")
                .about(&*module.name)
                .hint("leave --plugin-option checkpoint-format out: gptq_v2 stores it as it is")),
        }
    }

    /// What the files hold.
    fn holds(&self) -> Holds {
        // Less one, 0 would borrow from its neighbour.
        let less = self.says_format && self.format == CheckpointFormat::V1;
        Holds { widths: &BITS, least_zero: i64::from(less), orders: true }
    }

    fn set(&mut self, key: &str, value: &str) -> Result<()> {
        match key {
            "checkpoint-format" => {
                self.format = one_of(key, value, &[("gptq", CheckpointFormat::V1), ("gptq_v2", CheckpointFormat::V2)])?;
            }
            "dynamic" => self.rules = Rules::read(value).map_err(|failure| failure.about("--plugin-option dynamic"))?,
            "lm-head" => self.lm_head = one_of(key, value, &[("true", true), ("false", false)])?,
            "shard-size" => {
                self.shard_bytes = shard_bytes(value).map_err(|failure| failure.about("--plugin-option shard-size"))?;
            }
            "mix" => {
                self.mix = widths(value).ok_or_else(|| bad(key, value).hint("some of 2, 3, 4 and 8, such as 4,8"))?;
            }
            _ if self.calibration.set(key, value)? => {}
            _ => {
                let known: Vec<_> = KEYS.iter().map(|(key, _)| *key).collect();
                return Err(Failure::usage(format!("gptq has no plugin option `{key}`"))
                    .hint(format!("it has {}", known.join(", "))));
            }
        }
        Ok(())
    }

    /// A rule that says bits leaves nothing to choose.
    fn refuse_bits_of_rules(&self, target: Size) -> Result<()> {
        let Some(rule) = self.rules.saying_bits() else { return Ok(()) };
        Err(Failure::usage(format!("the rule `{rule}` says bits, which {} would choose", target.flag()))
            .about("--plugin-option dynamic")
            .hint("leave `bits` out of it; it may say groups, symmetry, or that modules are left as they are"))
    }

    /// The name of the level that was chosen.
    pub(crate) fn level(&self) -> String {
        match self.target {
            Some(target) => format!("{}-{}", target.name(self.parameters), group_name(self.settings.group_size)),
            None => Level { bits: self.settings.bits, group_size: self.settings.group_size }.name(),
        }
    }

    /// A size for people.
    pub(crate) fn size(&self, bytes: u64) -> String {
        format!("{bytes} bytes ({} bits per weight)", bits_per_weight(bytes, self.parameters))
    }
}

impl Selection for Choices {
    fn quantises_head(&self) -> bool {
        self.lm_head
    }

    fn settings(&self, module: &str) -> Result<Option<Settings>> {
        self.rules.settings(module, self.settings)
    }

    fn taken(&self, module: &Module, settings: Settings) -> Option<(Settings, Taken)> {
        let asked = (!self.is_open || settings != self.settings).then_some(settings);
        let offers = self.offered.offers(module.tensor);
        let (mut own, taken) = Taken::best(offers, module.columns, asked, &self.holds())?;
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

    fn multiples(&self, settings: Settings) -> Multiples {
        multiples(settings.bits)
    }

    fn hints(&self) -> Hints {
        HINTS
    }
}

/// What to tell a user about models that do not fit.
const HINTS: Hints = Hints {
    some_experts: "a rule of `dynamic` has to be about all experts of a layer, or about none",
    nothing: "the rules of `dynamic` leave every module as it is",
    stored_otherwise: "have no rule of `dynamic` that leaves experts as they are",
    leave_one: "leave it as it is with --plugin-option dynamic='{\"-:.*PATTERN\": {}}'",
    leave_some: "leave such modules as they are with --plugin-option dynamic=…",
    own_groups: "--plugin-option dynamic=… sets one for some modules",
};

/// What `--plugin-option` takes, for lists.
pub(crate) fn descriptions() -> Vec<OptionDescription> {
    KEYS.iter().map(|(key, summary)| OptionDescription::new(*key, *summary)).collect()
}

/// Widths of codes in order, each once.
fn widths(value: &str) -> Option<Vec<u32>> {
    let mut widths = value.split(',').map(|width| width.trim().parse().ok()).collect::<Option<Vec<u32>>>()?;
    widths.sort_unstable();
    widths.dedup();
    widths.iter().all(|width| BITS.contains(width)).then_some(widths)
}

#[cfg(test)]
mod tests {
    use qhost_plugin_api::{documents::Scarce, sdk::FailureKind};

    use super::*;

    fn options(plugin: &[(&str, &str)]) -> Options {
        let plugin = plugin.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Options { plugin, ..Options::default() }
    }

    #[test]
    fn without_options_it_is_4_bits_in_groups_of_128() {
        let choices = Choices::read(&Options::default()).unwrap();
        let expected = Settings { bits: 4, group_size: Some(128), symmetric: true, act_order: false };
        assert_eq!(choices.settings, expected);
        assert_eq!(choices.level(), "4bit-g128");
        assert_eq!((choices.format, choices.lm_head), (CheckpointFormat::V1, false));
        let asymmetric = Choices::read(&Options { symmetric: Some(false), ..Options::default() }).unwrap();
        assert_eq!(asymmetric.format, CheckpointFormat::V2);
    }

    #[test]
    fn flags_and_levels_may_agree_and_must_not_contradict() {
        let asked = |level: Option<&str>, bits, group_size| {
            Choices::read(&Options { level: level.map(Into::into), bits, group_size, ..Options::default() })
        };
        let agreed = asked(Some("3bit-g32"), Some(3), Some(32)).unwrap().settings;
        assert_eq!((agreed.bits, agreed.group_size, agreed.largest_code()), (3, Some(32), 7));
        assert_eq!(asked(None, Some(8), Some(-1)).unwrap().settings.group_size_key(), -1);
        assert_eq!(asked(Some("2bit-g96"), None, None).unwrap().settings.group_size, Some(96));
        assert_eq!(asked(Some("4bit-g128"), Some(3), None).unwrap_err().kind, FailureKind::USAGE);
        assert_eq!(asked(None, Some(5), None).unwrap_err().kind, FailureKind::UNSUPPORTED);
        assert_eq!(asked(None, None, Some(0)).unwrap_err().kind, FailureKind::USAGE);
        assert_eq!(asked(None, None, Some(-2)).unwrap_err().kind, FailureKind::USAGE);
        assert_eq!(asked(Some("5bit-g128"), None, None).unwrap_err().kind, FailureKind::UNSUPPORTED);
    }

    #[test]
    fn a_size_leaves_the_bits_open_and_nothing_else() {
        let asked = |options: Options| Choices::read(&options);
        let level = |level: &str, group_size| Options { level: Some(level.into()), group_size, ..Options::default() };
        let mut choices = asked(level("3.5bpw", Some(64))).unwrap();
        choices.parameters = 1000;
        assert_eq!((choices.level().as_str(), choices.mix.as_slice()), ("3.5bpw-g64", [2, 3, 4, 8].as_slice()));
        assert_eq!(asked(level("3.5bpw-g64", Some(64))).unwrap().settings.group_size, Some(64));
        assert_eq!(asked(level("3.5bpw-g64", Some(32))).unwrap_err().kind, FailureKind::USAGE);
        let sized = |plugin: &[(&str, &str)]| asked(Options { max_size: Some(500), ..options(plugin) });
        assert_eq!(sized(&[("mix", "8, 4,4")]).unwrap().mix, [4, 8]);
        for wrong in [("mix", "5"), ("mix", ""), ("dynamic", r#"{".*": {"bits": 3}}"#)] {
            assert_eq!(sized(&[wrong]).unwrap_err().kind, FailureKind::USAGE, "{wrong:?}");
        }
        assert!(sized(&[("dynamic", r#"{"-:.*o_proj": {}, ".*": {"sym": false}}"#)]).is_ok());
        assert_eq!(asked(options(&[("mix", "4,8")])).unwrap_err().kind, FailureKind::USAGE);
    }

    #[test]
    fn plugin_options_are_read_or_refused() {
        let set = options(&[
            ("checkpoint-format", "gptq_v2"),
            ("damp", "0.1"),
            ("lm-head", "true"),
            ("scarce-experts", "as-is"),
            ("shard-size", "1MB"),
            ("fewest-tokens", "7"),
        ]);
        let choices = Choices::read(&Options { effort: Some("best".into()), ..set }).unwrap();
        assert_eq!(
            (choices.format, choices.lm_head, choices.calibration.effort),
            (CheckpointFormat::V2, true, Effort::Best)
        );
        assert_eq!(
            (choices.calibration.scarce, choices.calibration.fewest_tokens, choices.shard_bytes),
            (Scarce::AsItIs, 7, 1_000_000)
        );
        let effort = Options { effort: Some("high".into()), ..Options::default() };
        assert_eq!(Choices::read(&effort).unwrap_err().kind, FailureKind::USAGE);
        for (key, value) in [
            ("checkpoint-format", "v2"),
            ("damp", "0"),
            ("damp", "1"),
            ("damp", "nan"),
            ("lm-head", "yes"),
            ("scarce-experts", "drop"),
            ("shard-size", "big"),
            ("fewest-tokens", "-1"),
            ("dynamic", "{"),
            ("mse", "2.4"),
        ] {
            assert_eq!(Choices::read(&options(&[(key, value)])).unwrap_err().kind, FailureKind::USAGE, "{key}={value}");
        }
    }
}
