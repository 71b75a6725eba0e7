//! A folder that is understood: its linears, the tensors that are not packed, and the settings.

use std::collections::BTreeMap;

use qhost_folder::{Folder, StoredAt, json};
use qhost_plugin_api::{
    documents::{NamedParameter, Reading, StoredTensor},
    sdk::{Failure, FileView, Result},
};
use serde_json::{Map, Value};

use crate::{CONFIG, KEY, Linear, Packed, Packing, reader::is_packed};

/// A folder that is understood.
#[derive(Debug)]
pub struct Content<'a, P> {
    /// The headers of its files.
    pub folder: Folder<'a>,
    /// What the settings mean.
    pub packing: P,
    /// The settings, as they are written.
    pub written: Map<String, Value>,
    /// The file that they are in.
    pub file: &'static str,
    /// The config of the model.
    pub config: Option<Value>,
    /// In the order of the files.
    pub linears: Vec<Linear>,
}

impl<'a, P: Packing> Content<'a, P> {
    /// Reads settings and headers, and understands every linear.
    ///
    /// # Errors
    /// Fails, naming file or tensor, when anything does not fit.
    pub fn read(files: &[FileView<'a>]) -> Result<Self> {
        let foreign = || Failure::corrupt(format!("has no `{KEY}` of this format")).about(CONFIG);
        let (written, file) = P::written(files)?.ok_or_else(foreign)?;
        let packing = P::parse(&written, file)?;
        let folder = Folder::read(files)?;
        let within = |tensor: &StoredAt, failure: Failure| {
            let subject = format!("{}: {}", folder.file_name(tensor.file), failure.subject);
            failure.about(subject)
        };
        let linear = |tensor: &StoredAt| {
            let name = tensor.name.strip_suffix(P::ENDINGS.codes).unwrap_or(&tensor.name);
            let weights = P::told_weights(&folder, name, tensor);
            let linear =
                weights.and_then(|weights| Linear::of((tensor, weights), |name| folder.tensor(name), &packing));
            linear.map_err(|failure| within(tensor, failure))
        };
        let packed = folder.tensors().iter().filter(|tensor| tensor.name.ends_with(P::ENDINGS.codes));
        let linears = packed.map(linear).collect::<Result<Vec<_>>>()?;
        for tensor in folder.tensors() {
            let of = P::ENDINGS.beside.iter().find_map(|ending| tensor.name.strip_suffix(ending));
            if let Some(name) = of.filter(|name| folder.tensor(&codes_of::<P>(name)).is_none()) {
                return Err(within(tensor, P::orphan(tensor, name)));
            }
        }
        if linears.is_empty() {
            return Err(Failure::corrupt("no tensor is packed, and the settings say that some are").about(file));
        }
        Ok(Self { config: json(files, CONFIG)?, folder, packing, written, file, linears })
    }

    /// The data of one of a linear's tensors, by its ending.
    #[must_use]
    pub fn data(&self, linear: &Linear, ending: &str) -> Option<&'a [u8]> {
        let tensor = self.folder.tensor(&format!("{}{ending}", linear.name))?;
        Some(self.folder.data(tensor))
    }

    /// The bytes of a linear's tensors.
    ///
    /// # Errors
    /// Fails with kind `CORRUPT` when they are not there.
    pub fn packed(&self, linear: &Linear) -> Result<Packed<'a>> {
        linear.packed(&self.folder.files())
    }

    /// The model's architecture, in the config's own word.
    pub(crate) fn architecture(&self) -> Option<String> {
        let config = self.config.as_ref()?;
        let found = config.get("text_config").and_then(|text| text.get("model_type")).or(config.get("model_type"));
        found.and_then(Value::as_str).map(str::to_owned)
    }

    /// The level that all linears have, if it is one.
    pub(crate) fn level(&self) -> Option<String> {
        let first = self.linears.first()?.encoding();
        self.linears.iter().all(|linear| linear.encoding() == first).then_some(first)
    }

    /// All tensors, and what of them are weights.
    pub(crate) fn stored(&self) -> Vec<StoredTensor> {
        let mut linears = self.linears.iter().peekable();
        let stored = self.folder.tensors().iter().map(|tensor| {
            let packed =
                linears.next_if(|linear| tensor.name.strip_suffix(P::ENDINGS.codes) == Some(linear.name.as_str()));
            let encoding = packed.map_or_else(|| tensor.dtype.clone(), Linear::encoding);
            let mut stored = StoredTensor::new(&*tensor.name, encoding, tensor.shape.clone());
            let around = P::ENDINGS.is_beside(&tensor.name);
            stored.weights = packed.map(Linear::weights).or_else(|| around.then_some(0));
            stored.at(u32::try_from(tensor.file).unwrap_or(u32::MAX), tensor.offset, tensor.bytes)
        });
        stored.collect()
    }

    /// The parameters of the model, by the checkpoint's names.
    pub(crate) fn parameters(&self) -> Vec<NamedParameter> {
        let linear = |linear: &Linear| {
            let name = format!("{}.weight", linear.name);
            NamedParameter::linear(name, linear.shape.outputs as u64, linear.shape.inputs as u64)
                .stored_in(codes_of::<P>(&linear.name))
        };
        let plain = self.plain().map(|tensor| {
            let mut parameter = NamedParameter::new(&*tensor.name, tensor.shape.clone());
            // Some writers give a bias to every linear.
            let of = tensor.name.strip_suffix(".bias").map(codes_of::<P>);
            let of_linear = of.is_some_and(|name| self.folder.tensor(&name).is_some());
            parameter.does_nothing = of_linear && self.folder.data(tensor).iter().all(|byte| byte << 1 == 0);
            parameter
        });
        self.linears.iter().map(linear).chain(plain).collect()
    }

    /// The tensors that are not of a packed linear.
    pub fn plain(&self) -> impl Iterator<Item = &StoredAt> {
        self.folder.tensors().iter().filter(|tensor| !P::ENDINGS.has(&tensor.name))
    }
}

/// The name of the tensor of a linear's codes.
pub(crate) fn codes_of<P: Packing>(module: &str) -> String {
    format!("{module}{}", P::ENDINGS.codes)
}

/// What a reading tells: the settings, the linears, and the other tensors.
pub(crate) struct Told<P> {
    pub(crate) packing: P,
    pub(crate) linears: Vec<Linear>,
    pub(crate) plain: Vec<StoredAt>,
}

impl<P: Packing> Told<P> {
    /// Understands what a reading tells.
    ///
    /// # Errors
    /// Fails as reading the folder does.
    pub(crate) fn of(reading: &Reading) -> Result<Self> {
        let settings = reading.metadata.iter().filter_map(|entry| {
            let key = entry.key.strip_prefix(KEY)?.strip_prefix('.')?;
            Some((key.to_owned(), entry.value.clone()))
        });
        let packing = P::parse(&settings.collect(), CONFIG)?;
        let stored = |tensor: &StoredTensor| StoredAt {
            name: tensor.name.clone(),
            dtype: if is_packed(&tensor.encoding) { packing.dtypes()[0].into() } else { tensor.encoding.clone() },
            shape: tensor.shape.clone(),
            file: tensor.file as usize,
            offset: tensor.offset,
            bytes: tensor.bytes,
        };
        let tensors: BTreeMap<String, (StoredAt, Option<u64>)> =
            reading.tensors.iter().map(|tensor| (tensor.name.clone(), (stored(tensor), tensor.weights))).collect();
        let find = |name: &str| tensors.get(name).map(|(tensor, _)| tensor);
        let packed = tensors.values().filter(|(tensor, _)| tensor.name.ends_with(P::ENDINGS.codes));
        let linears = packed.map(|(tensor, weights)| Linear::of((tensor, *weights), find, &packing));
        let linears = linears.collect::<Result<_>>()?;
        let all = tensors.into_values().map(|(tensor, _)| tensor);
        let plain = all.filter(|tensor| !P::ENDINGS.has(&tensor.name)).collect();
        Ok(Self { packing, linears, plain })
    }
}
