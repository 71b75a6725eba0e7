//! The levels, which are the types of floats, and which is taken where none is asked for.

use qhost_plugin_api::{
    documents::{Conversion, FormatDescription, LevelDescription, Model, RoleKind, SourceTensor},
    sdk::{Failure, Result},
};

use crate::{FORMAT, float_type::FloatType, options};

/// Where the weights come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// A checkpoint of floats.
    Checkpoint,
    /// A checkpoint that stores some in fewer bits, which are widened; those are told to be `F32`.
    Widened,
    /// Files of another format whose weights are floats, of this type for the most part.
    Floats(FloatType),
    /// Quantised files, whose weights are computed; those are told to be `F32` where no narrower type has them.
    Quantised,
}

impl Source {
    /// What files of another format are.
    pub(crate) fn converted(conversion: &Conversion) -> Self {
        let floats = conversion.tensors.iter().all(|tensor| tensor.stored.is_float());
        // A decoder that does not tell how weights are stored gives floats of all of them.
        match conversion.level.as_deref().and_then(FloatType::named).filter(|_| floats) {
            Some(float) => Self::Floats(float),
            None => Self::Quantised,
        }
    }
}

/// The level of a name.
pub(crate) fn named(name: &str) -> Result<FloatType> {
    let found = FloatType::ALL.into_iter().find(|float| float.name().eq_ignore_ascii_case(name));
    found.ok_or_else(|| {
        let known: Vec<_> = FloatType::ALL.iter().map(|float| float.name()).collect();
        Failure::unsupported(format!("{FORMAT} has no level `{name}`"))
            .hint(format!("the levels are {}", known.join(", ")))
    })
}

/// The type in which a tensor of the source is lent.
pub(crate) fn stored(tensor: &SourceTensor) -> Result<FloatType> {
    FloatType::named(&tensor.dtype).ok_or_else(|| {
        Failure::unsupported(format!("is stored as {}, which this plugin does not know", tensor.dtype))
            .about(&*tensor.name)
            .hint("use a newer version of the plugin")
    })
}

/// Whether a tensor stays in 32 bits at every level: numbers that decide between experts lie close to each other, and
/// loaders keep them so.
pub(crate) fn stays_wide(tensor: &SourceTensor) -> bool {
    tensor.role.kind == RoleKind::RouterCorrection && tensor.dtype == FloatType::F32.name()
}

/// The level that holds a model where none is asked for.
///
/// The one type that all tensors have, or `F32` where they have several, so that nothing is lost. What was quantised has
/// been rounded far more than 16 bits round, and is not worth 32: `F16`, or `BF16` where more weights are stored in that
/// than are computed; what was widened in a checkpoint comes in the type of the rest of it, and floats of another format in
/// the type that its level is called after.
pub(crate) fn default(model: &Model, source: Source) -> Result<FloatType> {
    let mut elements = [0_u64; 3];
    for tensor in model.tensors.iter().filter(|tensor| !stays_wide(tensor)) {
        let float = stored(tensor)?;
        let counted = FloatType::ALL.into_iter().zip(&mut elements).find(|(known, _)| *known == float);
        if let Some((_, count)) = counted {
            *count += tensor.elements();
        }
    }
    let [f32, f16, bf16] = elements;
    Ok(match (source, f32, f16, bf16) {
        (_, 0, _, 0) | (Source::Widened, _, 1.., 0) => FloatType::F16,
        (_, 0, 0, _) => FloatType::BF16,
        (Source::Floats(float), ..) => float,
        (Source::Checkpoint, ..) => FloatType::F32,
        (Source::Widened, ..) if bf16 >= f16 => FloatType::BF16,
        (Source::Quantised, ..) if bf16 > f32.saturating_add(f16) => FloatType::BF16,
        (Source::Widened | Source::Quantised, ..) => FloatType::F16,
    })
}

/// What the format can do.
pub(crate) fn description() -> FormatDescription {
    let levels = FloatType::ALL.into_iter().map(|float| {
        let (bits, summary) = match float {
            FloatType::F32 => (32.0, "32 bits: every weight as it is"),
            FloatType::F16 => (16.0, "16 bits with 11 significant ones, up to 65504"),
            FloatType::BF16 => (16.0, "16 bits with 8 significant ones and the range of 32"),
        };
        LevelDescription::new(float.name(), summary, bits)
    });
    let mut format = FormatDescription::new(FORMAT, levels.collect()).common_options(["max_size"]);
    format.options = options::descriptions();
    format
}

#[cfg(test)]
mod tests {
    use qhost_plugin_api::{
        documents::{Arriving, Encoding, Role},
        sdk::FailureKind,
    };

    use super::*;

    fn model(tensors: &[(&str, u64)]) -> Model {
        let mut model = Model::new("m", "llama");
        let tensor = |(dtype, elements): &(&str, u64)| {
            SourceTensor::new("w", Role::weight(RoleKind::FfnUp), 0, *dtype, vec![*elements])
        };
        model.tensors = tensors.iter().map(tensor).collect();
        model
    }

    #[test]
    fn without_a_level_it_is_what_holds_the_source() {
        use FloatType::{BF16, F16, F32};
        use Source::{Checkpoint, Quantised, Widened};
        /// Dtypes with numbers of elements, and what is expected of each source.
        type Case<'a> = (&'a [(&'a str, u64)], [FloatType; 3]);
        let cases: &[Case<'_>] = &[
            (&[("F32", 9)], [F32, BF16, F16]),
            (&[("F16", 9)], [F16, F16, F16]),
            (&[("BF16", 9)], [BF16, BF16, BF16]),
            (&[("BF16", 9), ("F16", 1)], [F32, BF16, BF16]),
            (&[("BF16", 1), ("F16", 9)], [F32, F16, F16]),
            (&[("F32", 9), ("F16", 1)], [F32, F16, F16]),
            (&[("F32", 9), ("BF16", 1)], [F32, BF16, F16]),
            (&[("F32", 1), ("BF16", 9)], [F32, BF16, BF16]),
        ];
        for (tensors, expected) in cases {
            let got = [Checkpoint, Widened, Quantised].map(|source| default(&model(tensors), source).unwrap());
            assert_eq!(got, *expected, "{tensors:?}");
        }
    }

    #[test]
    fn floats_of_another_format_keep_their_type() {
        let float = |dtype| Arriving::new(Encoding::float(dtype), Vec::new());
        let converted = |level: Option<&str>, tensors: Vec<Arriving>| {
            let mut conversion = Conversion::new("toy", tensors);
            conversion.level = level.map(str::to_owned);
            Source::converted(&conversion)
        };
        let source = converted(Some("BF16"), vec![float("BF16"), float("F32")]);
        assert_eq!(source, Source::Floats(FloatType::BF16));
        assert_eq!(default(&model(&[("BF16", 9), ("F32", 1)]), source).unwrap(), FloatType::BF16);
        assert_eq!(default(&model(&[("F32", 9)]), Source::Floats(FloatType::F32)).unwrap(), FloatType::F32);
        assert_eq!(converted(Some("4bit"), vec![float("F32")]), Source::Quantised);
        assert_eq!(converted(None, vec![float("F32")]), Source::Quantised);
        let blocks = Arriving::new(Encoding::own("toy/blocks", 32, 18), Vec::new());
        assert_eq!(converted(Some("F16"), vec![float("F32"), blocks]), Source::Quantised);
    }

    #[test]
    fn what_decides_between_experts_has_no_say_and_stays() {
        let mut model = model(&[("BF16", 9), ("F32", 1)]);
        model.tensors[1].role = Role::bias(RoleKind::RouterCorrection);
        assert_eq!(default(&model, Source::Checkpoint).unwrap(), FloatType::BF16);
        assert!(stays_wide(&model.tensors[1]) && !stays_wide(&model.tensors[0]));
    }

    #[test]
    fn other_levels_and_types_are_refused() {
        assert_eq!(named("bf16").unwrap(), FloatType::BF16);
        for name in ["", "F8", "Q8_0", "float16"] {
            assert_eq!(named(name).unwrap_err().kind, FailureKind::UNSUPPORTED, "{name}");
        }
        let refused = default(&model(&[("F8_E4M3", 1)]), Source::Checkpoint).unwrap_err();
        assert_eq!((refused.kind, &*refused.subject), (FailureKind::UNSUPPORTED, "w"));
    }
}
