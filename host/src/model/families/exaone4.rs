//! EXAONE 4: norms after the blocks, norms on queries and keys; the large one has windows in three of four layers.

use super::{Family, names::*};
use crate::model::family::Windows;
use crate::model::{Forward, Rotated};

pub(super) const FAMILY: Family = Family {
    id: "exaone4",
    model_types: &["exaone4"],
    architectures: &["Exaone4ForCausalLM"],
    defaults: r#"{"sliding_window": 4096}"#,
    windows: Windows::AllButEvery(4),
    forward: Some(Forward { rotated: Rotated::Windowed, ..Forward::LLAMA }),
    layer: &[
        Q_PROJ,
        K_PROJ,
        V_PROJ,
        O_PROJ,
        Q_NORM,
        K_NORM,
        AFTER_ATTENTION_NORM,
        GATE_PROJ,
        UP_PROJ,
        DOWN_PROJ,
        AFTER_FFN_NORM,
    ],
    ..DECODER
};
