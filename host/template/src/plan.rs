//! The plan: which bytes of which file hold what, before a weight is read. It writes nothing and reads no weight.

use qhost_plugin_api::{
    documents::{
        Companion, Fidelity, InputGroup, Model, Output, Part, Plan, PlannedFile, PlannedUnit,
        RoleKind, Segment, SourceTensor, TensorSegment, UnitKind, UnitOrder,
    },
    sdk::{CHUNK_WEIGHTS, Failure, FilesHandle, Result},
    serde_json::{Map, Value, json},
};

use crate::{FORMAT, LEVEL, stored};

/// The file with the weights.
pub(crate) const WEIGHTS: &str = "model.safetensors";
/// The file by which programs know what the folder is.
pub(crate) const CONFIG: &str = "config.json";

/// What a stored tensor is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Holds {
    /// The integers of a linear's weight.
    Codes,
    /// Their scales.
    Scales,
    /// A tensor as the checkpoint has it.
    Same,
}

/// A tensor of the output.
pub(crate) struct Item {
    pub(crate) name: String,
    pub(crate) holds: Holds,
    /// The tensor of the model that it is made of.
    pub(crate) source: u32,
    dtype: String,
    shape: Vec<u64>,
    pub(crate) bytes: u64,
}

/// A plan, and what is needed to carry it out.
pub(crate) struct Planned {
    pub(crate) plan: Plan,
    /// What the file of weights begins with.
    pub(crate) header: Vec<u8>,
    /// In the order of the file: the segment of item `i` is `i + 1`, for segment 0 is the header.
    pub(crate) items: Vec<Item>,
    /// The model's tensors, by their ids.
    pub(crate) tensors: Vec<SourceTensor>,
}

impl Planned {
    /// Plans a folder.
    ///
    /// # Errors
    /// Fails with kind `UNSUPPORTED` for what the format cannot hold.
    pub(crate) fn of(model: &Model, companions: &FilesHandle) -> Result<Self> {
        // A unit of a kind that is newer than this plugin: whoever sends it wants something that is not known here.
        if let Some(unit) = model.units.iter().find(|unit| unit.kind == UnitKind::Other) {
            return Err(Failure::unsupported(format!(
                "unit {} is of a kind that {FORMAT} does not know",
                unit.id
            )));
        }
        let mut items = Vec::new();
        for (id, tensor) in (0_u32..).zip(&model.tensors) {
            items.extend(of_tensor(model, id, tensor)?);
        }
        // Wide elements first, so that every tensor begins at a multiple of its elements' size.
        items.sort_by_key(|item| std::cmp::Reverse(stored::size_of(&item.dtype)));
        let header = stored::header(
            items
                .iter()
                .map(|item| (&*item.name, &*item.dtype, &*item.shape, item.bytes)),
        )?;
        let mut plan = Plan::new(FORMAT, LEVEL, Output::folder("-int8"));
        let mut end = header.len() as u64;
        plan.segments.push(Segment::constant(0, 0, end, "header"));
        for item in &items {
            plan.segments
                .push(Segment::tensor(0, end, item.bytes, described(item, model)));
            end = end.checked_add(item.bytes).ok_or_else(too_large)?;
        }
        plan.files.push(PlannedFile::new(WEIGHTS, end));
        plan.companions
            .push(Companion::text(CONFIG, config(model, &items, companions)?));
        plan.companions.extend(small_files(companions));
        plan.units = model
            .units
            .iter()
            .map(|unit| planned(unit.id, model))
            .collect();
        // Each layer can be made without the others: an interrupted run goes on with those that are missing.
        plan.order = UnitOrder::Independent;
        plan.library = Some("transformers".into());
        Ok(Self {
            plan,
            header,
            items,
            tensors: model.tensors.clone(),
        })
    }
}

/// What becomes of a tensor: two tensors, or itself.
fn of_tensor(model: &Model, id: u32, tensor: &SourceTensor) -> Result<Vec<Item>> {
    // Speak of roles, never of names: then the format works for every family.
    if let RoleKind::Other(role) = &tensor.role.kind {
        return Err(
            Failure::unsupported(format!("the role `{role}` is not known to {FORMAT}"))
                .about(&*tensor.name),
        );
    }
    let item = |name: String, holds, dtype: &str, shape: Vec<u64>| {
        let elements = shape
            .iter()
            .try_fold(1_u64, |product, dim| product.checked_mul(*dim));
        let bytes = elements
            .zip(stored::size_of(dtype))
            .and_then(|(elements, size)| elements.checked_mul(size));
        let bytes = bytes.ok_or_else(too_large)?;
        Ok::<_, Failure>(Item {
            name,
            holds,
            source: id,
            dtype: dtype.into(),
            shape,
            bytes,
        })
    };
    if is_rounded(model, tensor) {
        let codes = item(
            tensor.name.clone(),
            Holds::Codes,
            "I8",
            tensor.shape.clone(),
        )?;
        let scales = item(
            format!("{}_scale", tensor.name),
            Holds::Scales,
            "BF16",
            vec![tensor.rows(), 1],
        )?;
        return Ok(vec![codes, scales]);
    }
    if !["BF16", "F16", "F32"].contains(&&*tensor.dtype) {
        let refused = Failure::unsupported(format!(
            "is stored as {}, which {FORMAT} does not hold",
            tensor.dtype
        ));
        return Err(refused.about(&*tensor.name));
    }
    Ok(vec![item(
        tensor.name.clone(),
        Holds::Same,
        &tensor.dtype,
        tensor.shape.clone(),
    )?])
}

/// Whether a tensor is the weight of a linear in a decoder layer that is worth rounding, with outputs as rows.
fn is_rounded(model: &Model, tensor: &SourceTensor) -> bool {
    let in_layer = model
        .units
        .iter()
        .any(|unit| unit.id == tensor.unit && unit.kind == UnitKind::Layer);
    let is_router = matches!(tensor.role.kind, RoleKind::Router | RoleKind::SharedRouter);
    let is_linear = InputGroup::of(&tensor.role.kind).is_some() && tensor.role.part == Part::Weight;
    in_layer
        && is_linear
        && !is_router
        && tensor.shape.len() == 2
        && !tensor.transposed
        && tensor.elements() > 0
}

/// What the host is told of a tensor.
fn described(item: &Item, model: &Model) -> TensorSegment {
    let source = &model.tensors[item.source as usize];
    let weights = if item.holds == Holds::Scales {
        0
    } else {
        source.elements()
    };
    let mut made = TensorSegment::new(
        &*item.name,
        source.unit,
        vec![item.source],
        &*item.dtype,
        weights,
    );
    // What users of `qhost convert` are told of what becomes of the numbers.
    made.fidelity = Some(if item.holds == Holds::Same {
        Fidelity::exact()
    } else {
        Fidelity::requantised()
    });
    made.expected_error = (item.holds == Holds::Codes).then_some(0.008);
    made
}

/// A unit with its working memory: a thread has the floats, the integers and the scales of a chunk, which is a row at least.
fn planned(unit: u32, model: &Model) -> PlannedUnit {
    let longest = model
        .tensors
        .iter()
        .map(SourceTensor::row_elements)
        .max()
        .unwrap_or(0);
    let mut planned = PlannedUnit::new(unit);
    planned.memory_per_thread = longest.max(CHUNK_WEIGHTS).saturating_mul(4 + 1 + 2);
    planned
}

/// The checkpoint's config with what programs look for.
fn config(model: &Model, items: &[Item], companions: &FilesHandle) -> Result<String> {
    let absent = || Failure::corrupt("the checkpoint has no such file").about(CONFIG);
    let mut config: Map<String, Value> = companions.read_json(CONFIG)?.ok_or_else(absent)?;
    // Linears that stay as they are have to be named.
    let stays = |item: &&Item| {
        let tensor = &model.tensors[item.source as usize];
        item.holds == Holds::Same
            && tensor.role.part == Part::Weight
            && InputGroup::of(&tensor.role.kind).is_some()
    };
    let ignored: Vec<_> = items
        .iter()
        .filter(stays)
        .map(|item| item.name.trim_end_matches(".weight"))
        .collect();
    let quantization = json!({
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "quantization_status": "compressed",
        "global_compression_ratio": null,
        "kv_cache_scheme": null,
        "ignore": ignored,
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "input_activations": null,
                "output_activations": null,
                "weights": {
                    "num_bits": 8, "type": "int", "symmetric": true, "strategy": "channel", "group_size": null,
                    "block_structure": null, "dynamic": false, "actorder": null, "observer": "minmax",
                    "observer_kwargs": {},
                },
            },
        },
    });
    config.insert("quantization_config".into(), quantization);
    Ok(format!("{:#}\n", Value::Object(config)))
}

/// The checkpoint's other small files, such as the tokenizer. The host writes README.md itself.
fn small_files(companions: &FilesHandle) -> Vec<Companion> {
    let left = |name: &str| {
        name == CONFIG
            || name == "README.md"
            || name == "qhost-report.json"
            || name.starts_with("--")
            || name.ends_with(".index.json")
    };
    let taken = companions.list().iter().filter(|file| !left(&file.name));
    taken
        .map(|file| Companion::copy(&*file.name, &*file.name))
        .collect()
}

fn too_large() -> Failure {
    Failure::unsupported("the model is larger than any file")
}
