//! Settings for some modules: `gptqmodel`'s `dynamic`.
//!
//! A key is a pattern over a module's whole name, which has to match from its first character on: after `-:` such
//! modules are left as they are, after `+:` or nothing the value's settings hold for them. The first that matches counts.

use fancy_regex::Regex;
use qhost_folder::Object;
use qhost_linears::Settings;
use qhost_plugin_api::sdk::{Failure, Result};
use serde::Deserialize;

use crate::format::BITS;

/// Rules in their order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rules {
    rules: Vec<Rule>,
    /// As the user wrote them.
    source: Object,
}

#[derive(Debug, Clone)]
struct Rule {
    pattern: Regex,
    /// The settings; none where modules are left as they are.
    overrides: Option<Overrides>,
}

/// The settings of a rule. A key that has no meaning is refused.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Overrides {
    bits: Option<u32>,
    group_size: Option<i64>,
    sym: Option<bool>,
    desc_act: Option<bool>,
}

impl Rules {
    /// Reads the JSON of the option.
    pub(crate) fn read(text: &str) -> Result<Self> {
        let source: Object = serde_json::from_str(text).map_err(|error| {
            Failure::usage(format!("not a JSON object: {error}"))
                .hint("such as {\"-:.*o_proj\": {}, \"+:.*down_proj\": {\"bits\": 8, \"group_size\": 32}}")
        })?;
        let rules = source.entries().map(|(key, value)| Rule::read(key, value)).collect::<Result<_>>()?;
        Ok(Self { rules, source })
    }

    /// How a module is quantised that otherwise had these settings; none if it is left as it is.
    pub(crate) fn settings(&self, module: &str, base: Settings) -> Result<Option<Settings>> {
        for rule in &self.rules {
            let matches = rule.pattern.is_match(module).map_err(|error| {
                Failure::usage(format!("`{}` on {module}: {error}", rule.pattern)).about("--plugin-option dynamic")
            })?;
            if matches {
                return Ok(rule.overrides.map(|overrides| overrides.over(base)));
            }
        }
        Ok(Some(base))
    }

    /// The first rule that says bits, as the user wrote its pattern.
    pub(crate) fn saying_bits(&self) -> Option<&str> {
        let says = |rule: &Rule| rule.overrides.is_some_and(|overrides| overrides.bits.is_some());
        self.rules.iter().zip(self.source.entries()).find(|(rule, _)| says(rule)).map(|(_, (key, _))| key)
    }

    /// As the user wrote them.
    pub(crate) fn source(&self) -> &Object {
        &self.source
    }
}

impl Rule {
    fn read(key: &str, value: &str) -> Result<Self> {
        let (leaves, pattern) = match (key.strip_prefix("-:"), key.strip_prefix("+:")) {
            (Some(pattern), _) => (true, pattern),
            (None, Some(pattern)) => (false, pattern),
            (None, None) => (false, key),
        };
        let pattern = Regex::new(&format!(r"\A(?:{pattern})"))
            .map_err(|error| Failure::usage(format!("`{key}` is no pattern: {error}")))?;
        let overrides: Overrides = serde_json::from_str(value).map_err(|error| {
            Failure::usage(format!("the settings of `{key}`: {error}"))
                .hint("a rule may set bits, group_size, sym and desc_act")
        })?;
        if let Some(bits) = overrides.bits.filter(|bits| !BITS.contains(bits)) {
            return Err(Failure::usage(format!("`{key}` asks for {bits} bits")).hint("GPTQ files have 2, 3, 4 or 8"));
        }
        if let Some(size) = overrides.group_size.filter(|size| *size != -1 && *size < 1) {
            return Err(Failure::usage(format!("`{key}` asks for groups of {size}")).hint("-1 is a whole row"));
        }
        Ok(Self { pattern, overrides: (!leaves).then_some(overrides) })
    }
}

impl Overrides {
    fn over(self, base: Settings) -> Settings {
        Settings {
            bits: self.bits.unwrap_or(base.bits),
            group_size: match self.group_size {
                None => base.group_size,
                Some(size) => u64::try_from(size).ok(),
            },
            symmetric: self.sym.unwrap_or(base.symmetric),
            act_order: self.desc_act.unwrap_or(base.act_order),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: Settings = Settings { bits: 4, group_size: Some(128), symmetric: true, act_order: false };

    #[test]
    fn the_first_pattern_that_matches_from_the_start_counts() {
        let rules = r#"{"-:.*\\.o_proj$": {}, "+:.*\\.(?:1[0-5])\\..*": {"bits": 8}, "model.*v_proj": {"group_size": -1, "sym": false},
            "q_proj": {"bits": 2}, ".*(?<!gate)_proj": {"desc_act": true}}"#;
        let rules = Rules::read(rules).unwrap();
        let of = |name: &str| rules.settings(name, BASE).unwrap();
        assert_eq!(of("model.layers.12.self_attn.o_proj"), None);
        assert_eq!(of("model.layers.12.self_attn.v_proj").unwrap().bits, 8);
        let third = of("model.layers.1.self_attn.v_proj").unwrap();
        assert_eq!((third.bits, third.group_size, third.symmetric), (4, None, false));
        // `q_proj` is not at the start of the name.
        let last = of("model.layers.1.self_attn.q_proj").unwrap();
        assert!(last.bits == 4 && last.act_order);
        assert_eq!(of("model.layers.1.mlp.gate_proj"), Some(BASE));
    }

    #[test]
    fn what_is_no_rule_is_refused_by_name() {
        for (rules, word) in [
            ("[]", "object"),
            (r#"{"+:(": {}}"#, "pattern"),
            (r#"{"x": {"bits": 5}}"#, "5 bits"),
            (r#"{"x": {"group_size": 0}}"#, "groups of 0"),
            (r#"{"x": {"mse": 2.0}}"#, "mse"),
            (r#"{"x": 4}"#, "settings"),
        ] {
            let failure = Rules::read(rules).unwrap_err();
            assert!(failure.message.contains(word), "{}", failure.message);
        }
    }
}
