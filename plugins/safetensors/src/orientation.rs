//! Which linears checkpoints store with an input in each row, for sources that have an output in each.
//!
//! A folder has to be as the family's class in transformers stores it; whoever reads other files gives rows of outputs.

use qhost_plugin_api::documents::{Part, Role, RoleKind};

/// Whether the checkpoints of a family have the inputs of a tensor as rows: gpt2's linears, which are `Conv1D`, and the
/// stacked experts of gpt-oss.
pub(crate) fn rows_are_inputs(family: &str, role: &Role) -> bool {
    let kinds: &[RoleKind] = match family {
        "gpt2" => &[RoleKind::AttentionQkv, RoleKind::AttentionOutput, RoleKind::FfnUp, RoleKind::FfnDown],
        "gpt_oss" => &[RoleKind::ExpertsGateUp, RoleKind::ExpertsDown],
        _ => &[],
    };
    role.part == Part::Weight && kinds.contains(&role.kind)
}
