//! Modules that loaders run as one matrix, and that have not the same settings.

use std::collections::BTreeSet;

use crate::Item;

/// A warning about modules that loaders run as one matrix and that rules treat differently.
pub(crate) fn uneven(items: &[Item]) -> Option<String> {
    let modules: Vec<_> = items
        .iter()
        .map(|item| match item {
            Item::Module(module) => (&module.name, module.unit, Some((module.settings, &module.group))),
            Item::Kept(kept) => (&kept.name, kept.unit, None),
        })
        .collect();
    let fused: [&[&str]; 3] = [&["q_proj", "k_proj", "v_proj"], &["gate_proj", "up_proj"], &["w1", "w3"]];
    let mut found = BTreeSet::new();
    for names in fused {
        for (name, _, settings) in &modules {
            let name = name.strip_suffix(".weight").unwrap_or(name);
            let Some((parent, last)) = name.rsplit_once('.') else { continue };
            if names.first() != Some(&last) {
                continue;
            }
            let sibling = |other: &&str| {
                modules.iter().find(|(name, ..)| {
                    let name = name.strip_suffix(".weight").unwrap_or(name);
                    name.strip_prefix(parent).and_then(|rest| rest.strip_prefix('.')) == Some(other)
                })
            };
            let differs = names[1..].iter().filter_map(sibling).any(|(_, _, other)| {
                other.as_ref().map(|(settings, _)| *settings) != settings.as_ref().map(|(settings, _)| *settings)
            });
            if differs {
                found.insert(names.join(", "));
            }
        }
    }
    let found: Vec<_> = found.into_iter().collect();
    (!found.is_empty()).then(|| {
        format!(
            "vLLM and SGLang run {} as one matrix, and do not load modules of it that have different settings",
            found.join("; ")
        )
    })
}
