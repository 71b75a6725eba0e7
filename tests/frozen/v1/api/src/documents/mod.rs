//! The versioned JSON documents that cross the border as text.
//!
//! Unlike the layouts of [`crate::abi`] they may grow: a reader ignores keys that it does not know,
//! and a key that an older writer leaves out takes its documented default. A `schema` key names the
//! document and its major version; only a change that an old reader would misunderstand raises it.

mod compute;
mod description;
mod encoding;
mod findings;
mod fold;
mod manifest;
mod model;
mod origin;
mod plan;
mod reading;
mod request;
mod role;
mod statistics;

use serde::{Serialize, de::DeserializeOwned};

pub use compute::{BatchRequest, KernelRequest, MatrixHandle, MatrixRequest, Operation};
pub use description::{Description, FormatDescription, LevelDescription, OptionDescription};
pub use encoding::{
    Arriving, Bound, BoundOf, Conversion, Encoding, EncodingPattern, Encodings, Fidelity, FidelityClass, Offer,
    PlanesRequest, TranscodeRequest, Transcoding,
};
pub use findings::{Check, CheckStatus, Findings};
pub use fold::{Fold, FoldSource, FoldedNorm, FoldedRows, RowMap};
pub use manifest::{FileSignature, FolderSignature, Manifest, ManifestFormat, ManifestTranscoding};
pub use model::{Experts, Hyperparameters, LatentAttention, Model, Rope, SourceFile, SourceTensor, UnitInfo, UnitKind};
pub use origin::{NamedParameter, Origin, PlacedRole, RowsRequest, TextFile};
pub use plan::{
    Companion, CompanionContent, Output, OutputKind, Plan, PlannedFile, PlannedUnit, Segment, SegmentContent, Survey,
    TensorSegment, UnitOrder, UnusedTensor,
};
pub use reading::{
    ExistingRequest, FilesRequest, MetadataEntry, Numbers, NumbersRequest, Reading, Recognition, StoredTensor,
};
pub use request::{BesideRequest, CalibrationData, HostFacts, OpenRequest, Options};
pub use role::{Part, Role, RoleKind};
pub use statistics::{
    InputGroup, LossAnswer, LossRequest, Precision, Scarce, Statistic, StatisticsAnswer, StatisticsNeed,
    StatisticsRequest, SubstituteRequest,
};

use crate::abi::{Failure, FailureKind};

/// A document with a schema name.
pub trait Document: Serialize + DeserializeOwned {
    /// The `schema` that this crate writes and reads, such as `qhost.plan/1`.
    const SCHEMA: &'static str;

    /// The document's JSON text: the same text for equal documents.
    ///
    /// # Errors
    /// Fails when a value cannot be written as JSON (a float that is not finite, say).
    fn to_json(&self) -> Result<String, Failure> {
        serde_json::to_string(self)
            .map_err(|error| Failure::new(FailureKind::INTERNAL, format!("cannot write {}: {error}", Self::SCHEMA)))
    }

    /// Reads a document, refusing another schema or major version.
    ///
    /// # Errors
    /// Fails with kind `PLUGIN` when the text is not the document: the two sides disagree.
    fn from_json(text: &str) -> Result<Self, Failure> {
        #[derive(serde::Deserialize)]
        struct Head {
            schema: String,
        }
        let disagree =
            |detail: String| Failure::new(FailureKind::PLUGIN, format!("not a {} document: {detail}", Self::SCHEMA));
        let head: Head = serde_json::from_str(text).map_err(|error| disagree(error.to_string()))?;
        if head.schema != Self::SCHEMA {
            return Err(disagree(format!("its schema is `{}`", head.schema)));
        }
        serde_json::from_str(text).map_err(|error| disagree(error.to_string()))
    }
}
