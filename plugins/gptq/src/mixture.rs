//! Bits for each module, so that least is lost under a limit of bytes.
//!
//! Modules that loaders run as one matrix have the same bits, so they are one choice: those with the same input, and
//! all experts of a layer. It knows which choices there are, what they take and which rules say so to loaders; what is
//! lost with each is measured in [`crate::survey`].

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use qhost_budget::{Candidate, Size, choose};
use qhost_folder::{Object, lay_out};
use qhost_linears::{Contents, Item, Module, tensors};
use qhost_plugin_api::sdk::{Failure, Result};
use serde_json::json;

use crate::{
    options::Choices,
    pack::{multiples, parts},
    survey::Losses,
};

/// A choice for some modules of a unit.
#[derive(Debug, Clone)]
pub(crate) struct Choice {
    /// Widths of codes that all of its modules can have, in order.
    pub(crate) bits: Vec<u32>,
    /// What is lost with each.
    pub(crate) losses: Vec<f64>,
    /// Indices of the items.
    items: Vec<usize>,
}

/// All choices of a model, by their keys.
#[derive(Debug, Clone, Default)]
pub(crate) struct Mixture {
    /// By unit and input.
    pub(crate) choices: BTreeMap<String, Choice>,
    /// The rules of `dynamic` that say what was chosen.
    pub(crate) rules: Object,
}

/// The key of the choice that a module belongs to.
pub(crate) fn key(module: &Module) -> String {
    let of = if module.expert_of_statistics.is_some() { "experts" } else { module.group.name() };
    format!("{:05}/{of}", module.unit)
}

impl Mixture {
    /// Gives every module its bits, so that all files together take at most `limit` bytes, and the choices the bits of
    /// most modules. Without measured losses it guesses.
    pub(crate) fn settle(
        contents: &mut Contents,
        choices: &mut Choices,
        limit: u64,
        measured: Option<&Losses>,
    ) -> Result<Self> {
        let mut mixture = Self::of(contents, choices)?;
        mixture.value(contents, measured)?;
        let all: Vec<_> = mixture.choices.values().cloned().collect();
        let ends = [|_: &Choice| 0, |choice: &Choice| choice.bits.len() - 1];
        let [least, most] = ends.map(|end| all.iter().map(end).collect::<Vec<_>>());
        let size = |contents: &mut Contents, picks: &[usize]| -> Result<u64> {
            assign(contents, &all, picks);
            let layout = lay_out(&tensors(&contents.items, parts), choices.shard_bytes)?;
            Ok(layout.shards.iter().map(|shard| shard.bytes).sum())
        };
        let (smallest, largest) = (size(contents, &least)?, size(contents, &most)?);
        if !(smallest..=largest).contains(&limit) {
            return Err(Failure::unsupported(format!("files of at most {limit} bytes are not to be had"))
                .about(choices.target.map_or("--max-size", Size::flag))
                .hint(format!(
                    "with {} bits this model takes between {} and {}",
                    list(&choices.mix),
                    choices.size(smallest),
                    choices.size(largest)
                )));
        }
        let candidates = candidates(contents, &all)?;
        // Headers have a length too, which depends a little on what is chosen.
        let least_of_modules: u64 = candidates.iter().filter_map(|of| of.first()).map(|first| first.bytes).sum();
        let mut room = limit - (smallest - least_of_modules);
        let picks = loop {
            let picks = choose(&candidates, room).unwrap_or_else(|| least.clone());
            let bytes = size(contents, &picks)?;
            if bytes <= limit {
                break picks;
            }
            room = room.saturating_sub(bytes - limit).max(least_of_modules);
        };
        assign(contents, &all, &picks);
        choices.settings.bits = most_frequent(contents);
        mixture.rules = rules(contents, choices, |module| module.settings.bits != choices.settings.bits)?;
        Ok(mixture)
    }

    /// The choice of a module.
    pub(crate) fn choice_of(&self, module: &Module) -> Option<&Choice> {
        self.choices.get(&key(module))
    }

    fn of(contents: &Contents, choices: &Choices) -> Result<Self> {
        let mut mixture = Self::default();
        for (index, item) in contents.items.iter().enumerate() {
            let Item::Module(module) = item else { continue };
            let choice = mixture.choices.entry(key(module)).or_insert_with(|| Choice {
                bits: choices.mix.clone(),
                losses: Vec::new(),
                items: Vec::new(),
            });
            choice.bits.retain(|bits| fits(module, *bits));
            choice.items.push(index);
            if choice.bits.is_empty() {
                return Err(Failure::unsupported(format!(
                    "{} has {} inputs and {} outputs, which codes of {} bits do not fill",
                    module.name,
                    module.columns,
                    module.rows,
                    list(&choices.mix)
                ))
                .hint(
                    "leave it as it is with --plugin-option dynamic=…, or allow more with --plugin-option mix=2,3,4,8",
                ));
            }
        }
        Ok(mixture)
    }

    /// What is lost with each of the bits: as it was measured, or so that a bit more is a quarter of the loss.
    fn value(&mut self, contents: &Contents, measured: Option<&Losses>) -> Result<()> {
        for (key, choice) in &mut self.choices {
            let weights: u64 =
                choice.items.iter().filter_map(|index| module(contents, *index)).map(Module::weights).sum();
            let losses = choice.bits.iter().map(|bits| {
                let Some(measured) = measured else { return Ok(guess(weights, *bits)) };
                let loss = measured.get(key).and_then(|of_choice| of_choice.get(bits));
                loss.copied()
                    .ok_or_else(|| Failure::corrupt(format!("the survey tells nothing of {key} with {bits} bits")))
            });
            choice.losses = losses.collect::<Result<_>>()?;
        }
        Ok(())
    }
}

/// What might be lost: a bit more is a quarter of it.
#[expect(clippy::cast_precision_loss, reason = "a guess")]
fn guess(weights: u64, bits: u32) -> f64 {
    weights as f64 * 0.25_f64.powi(i32::try_from(bits).unwrap_or(0))
}

fn module(contents: &Contents, index: usize) -> Option<&Module> {
    match contents.items.get(index) {
        Some(Item::Module(module)) => Some(module),
        _ => None,
    }
}

/// Whether codes of a width fill whole words along both sides.
fn fits(module: &Module, bits: u32) -> bool {
    multiples(bits).fit(module.rows, module.columns)
}

/// Gives the modules of every choice the bits that were picked.
fn assign(contents: &mut Contents, all: &[Choice], picks: &[usize]) {
    for (choice, pick) in all.iter().zip(picks) {
        for index in &choice.items {
            if let Some(Item::Module(module)) = contents.items.get_mut(*index) {
                module.settings.bits = choice.bits[*pick];
            }
        }
    }
}

/// What every choice takes with each of its bits, without headers, and what is lost.
fn candidates(contents: &Contents, all: &[Choice]) -> Result<Vec<Vec<Candidate>>> {
    let of_choice = |choice: &Choice| {
        let with = |(bits, loss): (&u32, &f64)| {
            let modules = choice.items.iter().filter_map(|index| module(contents, *index)).cloned();
            let items: Vec<_> = modules
                .map(|mut module| {
                    module.settings.bits = *bits;
                    Item::Module(module)
                })
                .collect();
            let bytes = tensors(&items, parts).iter().map(qhost_folder::Tensor::bytes).sum::<Result<u64>>()?;
            Ok(Candidate { bytes, loss: *loss })
        };
        choice.bits.iter().zip(&choice.losses).map(with).collect()
    };
    all.iter().map(of_choice).collect()
}

/// The bits that most modules have; of as many, the fewest.
fn most_frequent(contents: &Contents) -> u32 {
    let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
    contents.modules().for_each(|module| *counts.entry(module.settings.bits).or_default() += 1);
    counts.into_iter().max_by_key(|(bits, count)| (*count, Reverse(*bits))).map_or(4, |(bits, _)| bits)
}

/// Names under which loaders run several modules as one matrix.
const FUSED: [(&[&str], &str); 3] = [
    (&["q_proj", "k_proj", "v_proj"], "qkv_proj"),
    (&["gate_proj", "up_proj"], "gate_up_proj"),
    (&["q_a_proj", "kv_a_proj_with_mqa"], "fused_qkv_a_proj"),
];

/// The rules of `dynamic` for modules that are taken over with other settings than those of most.
pub(crate) fn rules_of_taken(contents: &Contents, choices: &Choices) -> Result<Object> {
    rules(contents, choices, |module| module.taken.is_some() && module.settings != choices.settings)
}

/// The rules of `dynamic` for the modules that differ from most; layers that are alike share one.
fn rules(contents: &Contents, choices: &Choices, differs: impl Fn(&Module) -> bool) -> Result<Object> {
    let base = choices.settings;
    let mut of_choice: BTreeMap<String, Vec<&Module>> = BTreeMap::new();
    for module in contents.modules().filter(|module| differs(module)) {
        of_choice.entry(key(module)).or_default().push(module);
    }
    // By what is in the layer and what holds for it: the layers.
    let mut shared: BTreeMap<(String, String, String), BTreeSet<u64>> = BTreeMap::new();
    let mut rules = Object::default();
    for modules in of_choice.values() {
        // A rule of the user's may have set the rest for some of them.
        let mut by_settings: BTreeMap<String, Vec<&Module>> = BTreeMap::new();
        for module in modules {
            let mut value = json!({"bits": module.settings.bits});
            if module.settings.group_size != base.group_size {
                value["group_size"] = json!(module.settings.group_size_key());
            }
            if module.settings.symmetric != base.symmetric {
                value["sym"] = json!(module.settings.symmetric);
            }
            if module.settings.act_order != base.act_order {
                value["desc_act"] = json!(module.settings.act_order);
            }
            by_settings.entry(value.to_string()).or_default().push(module);
        }
        let alike = by_settings.len() == 1;
        for (value, modules) in by_settings {
            let experts = alike && modules.iter().all(|module| module.expert_of_statistics.is_some());
            match in_layers(&modules, experts) {
                Some((stem, layer, pattern)) => {
                    shared.entry((stem, pattern, value)).or_default().insert(layer);
                }
                None => {
                    for module in modules {
                        rules.set(&format!("+:.*{}$", escaped(&module.name)), &parsed(&value)?)?;
                    }
                }
            }
        }
    }
    for ((stem, pattern, value), layers) in shared {
        let layers: Vec<_> = layers.iter().map(u64::to_string).collect();
        let layers = if let [one] = layers.as_slice() { one.clone() } else { format!("(?:{})", layers.join("|")) };
        rules.set(&format!(r"+:.*{}\.{layers}\.{pattern}$", escaped(&stem)), &parsed(&value)?)?;
    }
    Ok(rules)
}

fn parsed(value: &str) -> Result<serde_json::Value> {
    serde_json::from_str(value).map_err(|error| Failure::internal(error.to_string()))
}

/// What stands before the layer's number in the names of modules of one layer, the number, and a pattern of what
/// comes after it in all of them; none if their names are not like that.
fn in_layers(modules: &[&Module], experts: bool) -> Option<(String, u64, String)> {
    let mut names = BTreeSet::new();
    let mut place = None;
    for module in modules {
        let parts: Vec<_> = module.name.split('.').collect();
        let number = parts.iter().position(|part| part.parse::<u64>().is_ok()).filter(|number| *number > 0)?;
        let here = (parts[number - 1], parts[number].parse::<u64>().ok()?);
        if *place.get_or_insert(here) != here {
            return None;
        }
        names.insert(parts.get(number + 1..)?.to_vec());
    }
    let (stem, layer) = place?;
    if experts {
        // All of them, and the name that stands for all: what is before the expert's number.
        let parent = |name: &Vec<&str>| {
            let number = name.iter().position(|part| part.parse::<u64>().is_ok())?;
            Some(name[..number].join("."))
        };
        let parents: Option<BTreeSet<_>> = names.iter().map(parent).collect();
        let parents = parents?;
        let [parent] = Vec::from_iter(&parents)[..] else { return None };
        return Some((stem.to_owned(), layer, format!(r"{}(?:\..*)?", escaped(parent))));
    }
    let mut by_parent: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for name in &names {
        let (last, parent) = name.split_last()?;
        by_parent.entry(parent.join(".")).or_default().push(last);
    }
    let patterns = by_parent.into_iter().map(|(parent, mut lasts)| {
        let fused = FUSED.iter().filter(|(parts, _)| parts.iter().all(|part| lasts.contains(part)));
        let fused: Vec<_> = fused.map(|(_, whole)| *whole).collect();
        lasts.extend(fused);
        let lasts: Vec<_> = lasts.into_iter().map(escaped).collect();
        let lasts = if let [one] = lasts.as_slice() { one.clone() } else { format!("(?:{})", lasts.join("|")) };
        if parent.is_empty() { lasts } else { format!(r"{}\.{lasts}", escaped(&parent)) }
    });
    let patterns: Vec<_> = patterns.collect();
    let pattern = if let [one] = patterns.as_slice() { one.clone() } else { format!("(?:{})", patterns.join("|")) };
    Some((stem.to_owned(), layer, pattern))
}

/// A name as a pattern of itself.
fn escaped(name: &str) -> String {
    name.replace('.', r"\.")
}

/// Numbers for people: `2, 3, 4 or 8`.
pub(crate) fn list(bits: &[u32]) -> String {
    let words: Vec<_> = bits.iter().map(u32::to_string).collect();
    match words.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => words.concat(),
    }
}

#[cfg(test)]
mod tests {
    use qhost_linears::{Outputs, Settings};
    use qhost_plugin_api::documents::{InputGroup, Options};

    use super::*;
    use crate::rules::Rules;

    const SETTINGS: Settings = Settings { bits: 4, group_size: Some(32), symmetric: true, act_order: false };

    fn module(name: &str, unit: u32, group: InputGroup, expert: Option<u32>) -> Item {
        Item::Module(Module {
            name: name.into(),
            tensor: 0,
            expert: None,
            outputs: Outputs { first: 0, step: 1, of: 64 },
            rows: 64,
            columns: 64,
            transposed: false,
            unit,
            group,
            expert_of_statistics: expert,
            settings: SETTINGS,
            taken: None,
            first_segment: 0,
        })
    }

    /// Three layers: attention, a dense block beside experts.
    fn contents() -> Contents {
        let mut contents = Contents::default();
        for layer in 0..3 {
            let mut push = |name: &str, group, expert| {
                contents.items.push(module(&format!("model.layers.{layer}.{name}"), layer + 1, group, expert));
            };
            for name in ["q_proj", "k_proj", "v_proj"] {
                push(&format!("self_attn.{name}"), InputGroup::AttentionIn, None);
            }
            push("self_attn.o_proj", InputGroup::AttentionOut, None);
            for expert in 0..2 {
                push(&format!("mlp.experts.{expert}.gate_proj"), InputGroup::FfnIn, Some(expert));
                push(&format!("mlp.experts.{expert}.down_proj"), InputGroup::FfnMid, Some(expert));
            }
            push("mlp.shared_expert.gate_proj", InputGroup::FfnIn, None);
            push("mlp.shared_expert.up_proj", InputGroup::FfnIn, None);
            push("mlp.shared_expert.down_proj", InputGroup::SharedMid, None);
        }
        contents.items.push(module("lm_head", 9, InputGroup::OutputIn, None));
        contents
    }

    fn choices() -> Choices {
        Choices::read(&Options { max_size: Some(1), group_size: Some(32), ..Options::default() }).unwrap()
    }

    /// Losses of which some choices have much more than others.
    fn losses(mixture: &Mixture) -> Losses {
        let worth = |key: &str| match key {
            "00001/attn_in" | "00003/experts" => 1000.0,
            "00002/ffn_in" | "00009/output_in" => 100.0,
            _ => 1.0,
        };
        let of = |(key, choice): (&String, &Choice)| {
            let losses = choice.bits.iter().map(|bits| (*bits, worth(key) * guess(1, *bits)));
            (key.clone(), losses.collect())
        };
        mixture.choices.iter().map(of).collect()
    }

    fn size(contents: &Contents, choices: &Choices) -> u64 {
        lay_out(&tensors(&contents.items, parts), choices.shard_bytes)
            .unwrap()
            .shards
            .iter()
            .map(|shard| shard.bytes)
            .sum()
    }

    #[test]
    fn limits_are_kept_and_what_matters_has_more_bits() {
        let (mut contents, mut choices) = (contents(), choices());
        let all = size(&contents, &choices);
        let measured = losses(&Mixture::of(&contents, &choices).unwrap());
        let limit = all * 9 / 10;
        let mixture = Mixture::settle(&mut contents, &mut choices, limit, Some(&measured)).unwrap();
        let bytes = size(&contents, &choices);
        assert!(bytes <= limit && bytes > limit * 95 / 100, "{bytes} of {limit}");
        let mut by_choice: BTreeMap<String, BTreeSet<u32>> = BTreeMap::new();
        for module in contents.modules() {
            by_choice.entry(key(module)).or_default().insert(module.settings.bits);
        }
        assert_eq!(by_choice.len(), mixture.choices.len());
        assert!(by_choice.values().all(|bits| bits.len() == 1), "{by_choice:?}");
        let least = by_choice["00002/attn_in"].first();
        assert!(by_choice["00001/attn_in"].first() > least && by_choice["00003/experts"].first() > least);
        for (limit, word) in [(1, "not to be had"), (u64::MAX, "not to be had")] {
            let failure = Mixture::settle(&mut contents, &mut choices, limit, None).unwrap_err();
            assert!(failure.message.contains(word), "{}", failure.message);
        }
        let failure = Mixture::settle(&mut contents, &mut choices, limit, Some(&Losses::new())).unwrap_err();
        assert!(failure.message.contains("tells nothing"), "{}", failure.message);
    }

    #[test]
    fn rules_say_what_was_chosen_under_the_names_of_modules_and_of_what_loaders_make_of_them() {
        let (mut contents, mut choices) = (contents(), choices());
        let measured = losses(&Mixture::of(&contents, &choices).unwrap());
        let limit = size(&contents, &choices) * 9 / 10;
        let mixture = Mixture::settle(&mut contents, &mut choices, limit, Some(&measured)).unwrap();
        let rules = Rules::read(&mixture.rules.text()).unwrap();
        let of = |name: &str| rules.settings(name, choices.settings).unwrap().unwrap().bits;
        for module in contents.modules() {
            assert_eq!(of(&module.name), module.settings.bits, "{} in {}", module.name, mixture.rules.text());
        }
        for layer in 0..3 {
            let of = |name: &str| of(&format!("model.layers.{layer}.{name}"));
            assert_eq!(of("self_attn.qkv_proj"), of("self_attn.q_proj"));
            assert_eq!(of("mlp.shared_expert.gate_up_proj"), of("mlp.shared_expert.up_proj"));
            assert_eq!(of("mlp.experts"), of("mlp.experts.1.down_proj"));
        }
        // Loaders of multimodal models have other names around.
        assert_eq!(of("language_model.model.layers.2.mlp.experts"), of("model.layers.2.mlp.experts.0.gate_proj"));
    }

    #[test]
    fn widths_that_do_not_fill_words_are_no_choice() {
        let (mut contents, choices) = (contents(), choices());
        if let Some(Item::Module(module)) = contents.items.first_mut() {
            module.rows = 48;
        }
        let mixture = Mixture::of(&contents, &choices).unwrap();
        assert_eq!(mixture.choices["00001/attn_in"].bits, [2, 4, 8]);
        assert_eq!(mixture.choices["00002/attn_in"].bits, [2, 3, 4, 8]);
        if let Some(Item::Module(module)) = contents.items.first_mut() {
            module.rows = 47;
        }
        assert!(Mixture::of(&contents, &choices).unwrap_err().message.contains("q_proj"));
    }
}
