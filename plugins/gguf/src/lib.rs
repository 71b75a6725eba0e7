//! The GGUF format plugin: llama.cpp's files, with the bytes of its reference quantiser.
//!
//! It knows the format's types, mixture rules, tensor names and metadata; it knows no files, no
//! threads and no checkpoint names.

mod arrange;
mod calibrated;
mod compare;
mod conversion;
mod cursor;
mod decided;
mod decode;
mod draft;
mod fallbacks;
mod families;
pub mod format;
mod general;
mod header;
mod importance;
mod items;
mod job;
mod keys_given;
pub mod metadata;
mod mixture;
mod name_trap;
mod options;
mod read;
mod reader;
mod recipe;
mod rows;
mod source;
mod split;
mod survey;
pub mod tokenizer;
mod types;
mod usage;
mod verify;
mod write;

pub use qhost_ggml::GgmlType;
use std::{borrow::Cow, sync::Arc};

use qhost_plugin_api::{
    documents::{Description, Findings, FormatDescription, LevelDescription, OpenRequest, Plan},
    sdk::{
        FilesHandle, Format, FormatJob, FormatService, HostHandle, READER, Result, UnitHandle, VERIFY, reader_service,
        verify_service,
    },
};

use crate::{compare::Comparison, decode::Decoding, job::GgufJob, reader::GgufReader};

/// The plugin.
pub struct Gguf {
    host: HostHandle,
}

impl Format for Gguf {
    type Job = Job;

    fn connect(host: HostHandle) -> Result<Self> {
        Ok(Self { host })
    }

    fn describe(&self) -> Description {
        #[expect(clippy::cast_precision_loss, reason = "sizes of blocks are small")]
        let levels = format::LEVELS.iter().map(|level| {
            let bits_per_weight = level.base.block_bytes() as f64 * 8.0 / level.base.block_elements() as f64;
            LevelDescription::new(level.name, level.summary, bits_per_weight)
        });
        let mut format = FormatDescription::new("gguf", levels.collect()).common_options([
            "imatrix",
            "effort",
            "max_size",
            "tensor_types",
        ]);
        format.default_level = Some(options::DEFAULT_LEVEL.into());
        format.options = options::descriptions();
        (format.takes, format.gives) = (conversion::takes(), conversion::gives());
        Description::new(vec![format])
    }

    fn open(&self, request: OpenRequest, companions: FilesHandle) -> Result<Job> {
        match &request.existing {
            Some(existing) if request.decode => Ok(Job::Decode(Box::new(Decoding::open(&request.model, existing)?))),
            Some(existing) => Ok(Job::Compare(Box::new(Comparison::open(&request.model, existing)?))),
            None => Ok(Job::Make(Box::new(GgufJob::open(&request, &companions, self.host.clone())?))),
        }
    }

    fn service(&self, name: &str) -> Option<Arc<dyn FormatService>> {
        match name {
            READER => Some(reader_service(Arc::new(GgufReader))),
            VERIFY => Some(verify_service(Arc::new(GgufReader))),
            _ => None,
        }
    }
}

/// What the plugin was asked for.
pub enum Job {
    /// A file is made.
    Make(Box<GgufJob>),
    /// A file that exists is held against the source.
    Compare(Box<Comparison>),
    /// A file that exists is the source of weights.
    Decode(Box<Decoding>),
}

impl Job {
    fn inner(&self) -> &dyn FormatJob {
        match self {
            Self::Make(job) => job.as_ref(),
            Self::Compare(job) => job.as_ref(),
            Self::Decode(job) => job.as_ref(),
        }
    }
}

impl FormatJob for Job {
    fn plan(&self) -> &Plan {
        self.inner().plan()
    }

    fn constant(&self, segment: u32) -> Result<Cow<'_, [u8]>> {
        self.inner().constant(segment)
    }

    fn run_unit(&self, unit: u32, io: &UnitHandle) -> Result<()> {
        self.inner().run_unit(unit, io)
    }

    fn check(&self, files: &FilesHandle) -> Result<Findings> {
        self.inner().check(files)
    }

    fn service(&self, name: &str) -> Option<Arc<dyn FormatService>> {
        self.inner().service(name)
    }
}

qhost_plugin_api::export_plugin! {
    id: "gguf",
    summary: "GGUF, the format of llama.cpp",
    api: "^1.0",
    formats: [
        {
            id: "gguf",
            summary: "One file for llama.cpp, Ollama and LM Studio",
            levels: [
                "Q2_K", "Q3_K_S", "Q3_K_M", "Q3_K_L", "IQ4_XS", "Q4_0", "IQ4_NL", "Q4_1", "Q4_K_S", "Q4_K_M", "Q5_0",
                "Q5_1", "Q5_K_S", "Q5_K_M", "Q6_K", "Q8_0", "F16", "BF16", "F32",
            ],
            reads: { ending: "gguf", magic: "47475546" },
            loaders: ["llama.cpp", "ollama", "lm-studio"],
        },
    ],
    plugin: Gguf,
}

#[cfg(test)]
mod tests {
    use qhost_plugin_api::documents::{Document, Manifest};

    #[test]
    fn the_manifest_names_the_levels_that_there_are() {
        let manifest = Manifest::from_json(super::MANIFEST_JSON).unwrap();
        let levels: Vec<_> = super::format::LEVELS.iter().map(|level| level.name).collect();
        assert_eq!(manifest.formats[0].levels, levels);
        assert_eq!(manifest.formats[0].loaders, super::verify::LOADERS);
        assert!(manifest.formats[0].reads[0].fits_bytes(&super::write::MAGIC));
    }
}
