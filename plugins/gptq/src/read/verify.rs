//! Holding folders that anybody made against what the format and its loaders demand.
//!
//! Codes are not looked at: any of them is sound. Zero points and orders are small, and are looked at whole; whether
//! scales are finite is looked at row by row, see [`Reader`](super::Reader).

use qhost_folder::json;
use qhost_plugin_api::{
    documents::{Check, CheckStatus},
    sdk::{FileView, Result},
};
use serde_json::Value;

use super::{
    linear::{Linear, SCALES, ZEROS, packed_len},
    reader::Content,
    settings::{CONFIG, KEY, Settings, Version},
    unpack,
};

/// The programs that load the format.
pub(crate) const LOADERS: [&str; 4] = ["transformers", "gptqmodel", "vllm", "sglang"];

/// The names of files that a tokenizer may be in.
const TOKENIZERS: [&str; 4] = ["tokenizer.json", "tokenizer.model", "vocab.json", "tiktoken.model"];

/// What was seen, or what is wrong.
type Seen = std::result::Result<String, String>;

/// The checks of a folder, in order; those that make no sense after a failed one are left out.
pub(crate) fn check(files: &[FileView<'_>], loader: Option<&str>) -> Vec<Check> {
    let content = match Content::read(files) {
        Ok(content) => content,
        Err(failure) => return vec![Check::failed("structure", failure.to_string())],
    };
    let (tensors, linears) = (content.folder.tensors().len(), content.linears.len());
    let structure = format!("{tensors} tensors, {linears} packed linears");
    let mut checks = vec![Check::passed("structure", structure), finding("order", order(&content))];
    if checks.iter().all(|check| check.status == CheckStatus::Passed) {
        checks.push(finding("zeros", zeros(&content)));
    }
    if let Some(loader) = loader {
        checks.push(finding("loader", loadable(&content, files, loader)));
    }
    checks
}

fn finding(name: &str, seen: Seen) -> Check {
    match seen {
        Ok(detail) => Check::passed(name, detail),
        Err(detail) => Check::failed(name, detail),
    }
}

/// Every input is in a group that there is.
fn order(content: &Content<'_>) -> Seen {
    let mut ordered = 0;
    for linear in &content.linears {
        let groups = order_of(content, linear).map_err(|failure| failure.to_string())?;
        let plain = |(input, group): (usize, &u32)| *group as usize == input / linear.group_size;
        ordered += usize::from(!groups.iter().enumerate().all(plain));
    }
    Ok(match ordered {
        0 => "groups are in the order of the inputs".into(),
        _ => format!("{ordered} linears have an order of their own (act-order)"),
    })
}

fn order_of(content: &Content<'_>, linear: &Linear) -> Result<Vec<u32>> {
    let name = format!("{}{}", linear.name, super::linear::ORDER);
    linear.groups_of_inputs(content.folder.tensor(&name).map(|tensor| content.folder.data(tensor)))
}

/// Zero points that programs read differently: by the symmetry that the config states instead of by the numbers, or
/// by what becomes of a stored −1.
fn zeros(content: &Content<'_>) -> Seen {
    let symmetric = is_symmetric(&content.settings);
    let (mut all, mut wrapped) = (0_u64, 0_u64);
    for linear in &content.linears {
        let name = format!("{}{ZEROS}", linear.name);
        let Some(tensor) = content.folder.tensor(&name) else { continue };
        let data = content.folder.data(tensor);
        let words = packed_len(linear.outputs, linear.bits);
        let middle = f32::from(1_u16 << (linear.bits - 1));
        let (mut true_zeros, mut fields) = (vec![0.0; linear.outputs], vec![0.0; linear.outputs]);
        for group in 0..linear.groups {
            let word = |at: usize| unpack::word(data, group * words + at);
            unpack::zeros(word, linear.bits, linear.version, 0, &mut true_zeros);
            if let Some(output) = true_zeros.iter().position(|zero| symmetric && zero.to_bits() != middle.to_bits()) {
                return Err(format!(
                    "{name} has the zero point {} for output {output}, and {} says that it is symmetric: programs that \
                     rely on that read {middle}",
                    true_zeros[output], content.settings.file
                ));
            }
            if linear.version == Version::V1 {
                unpack::zeros(word, linear.bits, Version::V2, 0, &mut fields);
                let last = f32::from(unpack::mask(linear.bits as usize));
                wrapped += fields.iter().filter(|field| field.to_bits() == last.to_bits()).count() as u64;
            }
            all += linear.outputs as u64;
        }
    }
    Ok(match wrapped {
        0 if symmetric => "all are in the middle".into(),
        0 => "every program reads them alike".into(),
        _ => format!("{wrapped} of {all} stand for 0 or for a number past the last code, depending on the program"),
    })
}

/// Whether the config says that all linears are symmetric.
fn is_symmetric(settings: &Settings) -> bool {
    let some_say = ["dynamic", "extra_config"].iter().filter_map(|key| settings.written.get(*key)?.as_object());
    let some_say = some_say.flat_map(|rules| rules.values()).any(|rule| rule.get("sym").is_some());
    settings.written.get("sym") == Some(&Value::Bool(true)) && !some_say
}

/// Whether a folder has what a program asks for that loads it by its path.
fn loadable(content: &Content<'_>, files: &[FileView<'_>], loader: &str) -> Seen {
    let config = content.config.as_ref().ok_or("there is no config.json")?;
    let architecture = config["architectures"][0].as_str().ok_or("config.json has no `architectures`")?;
    if config.get(KEY).is_none_or(Value::is_null) && loader == "transformers" {
        return Err(format!("{CONFIG} has no `{KEY}`"));
    }
    if !files.iter().any(|file| TOKENIZERS.contains(&file.name)) {
        return Err("there is no tokenizer".into());
    }
    let is_indexed = json(files, "model.safetensors.index.json").is_ok_and(|index| index.is_some());
    if !is_indexed && !files.iter().any(|file| file.name == "model.safetensors") {
        return Err("there is neither model.safetensors nor model.safetensors.index.json".into());
    }
    let settings = &content.settings;
    let flag = |key: &str| settings.written.get(key) == Some(&Value::Bool(true));
    let refused = match loader {
        "vllm" if !flag("sym") => Some("it takes symmetric groups only, with `sym` true".to_owned()),
        "vllm" if flag("desc_act") => Some("since 0.32 it takes no act-order (`desc_act`)".to_owned()),
        "vllm" => content
            .linears
            .iter()
            .find(|linear| ![4, 8].contains(&linear.bits))
            .map(|linear| format!("it takes 4 and 8 bits, and {} has {}", linear.name, linear.bits)),
        "sglang" if settings.version == Version::V2 => Some("it does not take `gptq_v2`".to_owned()),
        _ => None,
    };
    let half = content.folder.tensors().iter().find(|tensor| tensor.name.ends_with(SCALES) && tensor.dtype != "F16");
    match (refused, half) {
        (Some(reason), _) => Err(format!("{loader} refuses it: {reason}")),
        (None, Some(scales)) if loader != "gptqmodel" => {
            Ok(format!("{architecture}; {} is {}, and is read as F16", scales.name, scales.dtype))
        }
        (None, _) => Ok(format!("{architecture}; {loader} finds what it needs")),
    }
}
