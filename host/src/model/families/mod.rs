//! The family tables, one file each, in the order of their use in the field.
#![allow(clippy::wildcard_imports, reason = "a table is made of the shared names")]

mod cohere;
mod deepseek;
mod exaone4;
mod gemma;
mod gemma2;
mod gemma3;
mod glm4;
mod gpt2;
mod gpt_neox;
mod gpt_oss;
mod granite;
mod internlm3;
mod llama;
mod mistral;
mod mixtral;
mod names;
mod olmo2;
mod opt;
mod phi;
mod phi3;
mod qwen2;
mod qwen2_moe;
mod qwen3;
mod qwen3_moe;
mod seed_oss;
mod smollm3;
mod stablelm;
mod starcoder2;

use super::family::Family;

/// Every family that is known.
pub const FAMILIES: &[&Family] = &[
    &llama::FAMILY,
    &mistral::FAMILY,
    &mixtral::FAMILY,
    &qwen2::FAMILY,
    &qwen2_moe::FAMILY,
    &qwen3::FAMILY,
    &qwen3_moe::FAMILY,
    &gemma::FAMILY,
    &gemma2::FAMILY,
    &gemma3::FAMILY,
    &phi3::FAMILY,
    &phi::FAMILY,
    &gpt_oss::FAMILY,
    &deepseek::V2,
    &deepseek::V3,
    &glm4::FAMILY,
    &granite::FAMILY,
    &olmo2::FAMILY,
    &smollm3::FAMILY,
    &stablelm::FAMILY,
    &starcoder2::FAMILY,
    &cohere::FAMILY,
    &exaone4::FAMILY,
    &seed_oss::FAMILY,
    &internlm3::FAMILY,
    &gpt_neox::FAMILY,
    &gpt2::FAMILY,
    &opt::FAMILY,
];

/// Finds the family of a `config.json` by its `model_type`, or by its class name where that is absent.
#[must_use]
pub fn find(model_type: Option<&str>, architecture: Option<&str>) -> Option<&'static Family> {
    FAMILIES.iter().copied().find(|family| match model_type {
        Some(model_type) => family.model_types.contains(&model_type),
        None => architecture.is_some_and(|name| family.architectures.contains(&name)),
    })
}
