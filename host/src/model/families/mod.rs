//! The family tables, one file each, in the order of their use in the field.
#![allow(clippy::wildcard_imports, reason = "a table is made of the shared names")]

mod llama;
mod mistral;
mod names;
mod qwen2;
mod qwen3;

use super::family::Family;

/// Every family that is known.
pub const FAMILIES: [&Family; 4] = [&llama::FAMILY, &mistral::FAMILY, &qwen2::FAMILY, &qwen3::FAMILY];

/// Finds the family of a `config.json` by its `model_type`, or by its class name where that is absent.
#[must_use]
pub fn find(model_type: Option<&str>, architecture: Option<&str>) -> Option<&'static Family> {
    FAMILIES.into_iter().find(|family| match model_type {
        Some(model_type) => family.model_types.contains(&model_type),
        None => architecture.is_some_and(|name| family.architectures.contains(&name)),
    })
}
