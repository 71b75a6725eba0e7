//! What the user asks for: the level, and the size of files.

use qhost_budget::Size;
use qhost_folder::{DEFAULT_SHARD_BYTES, shard_bytes};
use qhost_plugin_api::{
    documents::{OptionDescription, Options},
    sdk::{Failure, Result},
};

use crate::{FORMAT, float_type::FloatType, level};

/// The option for the size of files.
const SHARD_SIZE: &str = "shard-size";

/// All that was asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Choices {
    /// The type of the weights, if one was asked for.
    pub(crate) level: Option<FloatType>,
    /// The size that the files are to have at most.
    pub(crate) size: Option<Size>,
    /// The largest file, in bytes of weights.
    pub(crate) shard_bytes: u64,
}

impl Choices {
    /// Reads the options, and refuses what has no meaning.
    pub(crate) fn read(options: &Options) -> Result<Self> {
        if let Some(flag) = options.flags_besides_level().into_iter().find(|flag| *flag != "--max-size") {
            return Err(Failure::usage(format!("{flag} has no meaning for {FORMAT}"))
                .hint("choose the type of the weights with --level"));
        }
        let size = Size::of(options, |_| None::<()>)?.map(|(size, _)| size);
        let named = options.level.as_deref().filter(|_| size.is_none());
        let level = named.map(level::named).transpose()?;
        let mut choices = Self { level, size, shard_bytes: DEFAULT_SHARD_BYTES };
        for (key, value) in &options.plugin {
            if key != SHARD_SIZE {
                return Err(Failure::usage(format!("{FORMAT} has no plugin option `{key}`"))
                    .hint(format!("it has {SHARD_SIZE}")));
            }
            choices.shard_bytes =
                shard_bytes(value).map_err(|failure| failure.about(format!("--plugin-option {SHARD_SIZE}")))?;
        }
        Ok(choices)
    }
}

/// What `--plugin-option` takes, for lists.
pub(crate) fn descriptions() -> Vec<OptionDescription> {
    vec![OptionDescription::new(SHARD_SIZE, "weights in a file, such as 5GB (default) or 500MB")]
}

#[cfg(test)]
mod tests {
    use qhost_plugin_api::sdk::FailureKind;

    use super::*;

    #[test]
    fn a_level_and_a_size_are_read() {
        let none = Choices::read(&Options::default()).unwrap();
        assert_eq!(none, Choices { level: None, size: None, shard_bytes: DEFAULT_SHARD_BYTES });
        let plugin = [(SHARD_SIZE.to_owned(), "1MB".to_owned())].into();
        let both = Choices::read(&Options { level: Some("F16".into()), plugin, ..Options::default() }).unwrap();
        assert_eq!(both, Choices { level: Some(FloatType::F16), size: None, shard_bytes: 1_000_000 });
    }

    #[test]
    fn everything_else_is_refused() {
        let plugin = |key: &str, value: &str| {
            let plugin = [(key.to_owned(), value.to_owned())].into();
            Choices::read(&Options { plugin, ..Options::default() }).unwrap_err().kind
        };
        assert_eq!(plugin("shard-size", "big"), FailureKind::USAGE);
        assert_eq!(plugin("damp", "0.1"), FailureKind::USAGE);
        for options in [
            Options { bits: Some(16), ..Options::default() },
            Options { group_size: Some(32), ..Options::default() },
            Options { symmetric: Some(true), ..Options::default() },
            Options { act_order: Some(false), ..Options::default() },
            Options { imatrix: Some("auto".into()), ..Options::default() },
            Options { effort: Some("best".into()), ..Options::default() },
            Options { max_size: Some(1), level: Some("F16".into()), ..Options::default() },
            Options { tensor_types: vec!["a=F16".into()], ..Options::default() },
        ] {
            assert_eq!(Choices::read(&options).unwrap_err().kind, FailureKind::USAGE, "{options:?}");
        }
    }
}
