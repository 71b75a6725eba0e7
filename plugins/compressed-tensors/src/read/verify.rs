//! Holding folders that anybody made against what the format and its loaders demand.
//!
//! The loaders' rules are those of vLLM 0.33 (`compressed_tensors_wNa16.py`), and of transformers 5 with the package
//! `compressed-tensors`. Whether scales are finite is looked at row by row, see [`Reader`](qhost_packed::Reader).

use std::collections::BTreeMap;

use qhost_packed::{Content, Linear, Seen, finding};
use qhost_plugin_api::documents::Check;

use super::{
    linear::{Layout, layout},
    packing::ORDER,
    settings::Settings,
};

/// The programs that load the format.
pub(crate) const LOADERS: [&str; 2] = ["transformers", "vllm"];

/// Modules that vLLM runs as one.
const FUSED: [&[&str]; 3] = [&["q_proj", "k_proj", "v_proj"], &["gate_proj", "up_proj"], &["w1", "w3"]];

/// The checks of the format's own.
pub(super) fn checks(content: &Content<'_, Settings>) -> Vec<Check> {
    vec![finding("targets", targets(content)), finding("order", order(content))]
}

/// Programs unpack what the config says is packed, and nothing else.
fn targets(content: &Content<'_, Settings>) -> Seen {
    let settings = &content.packing;
    match content.linears.iter().find(|linear| settings.ignores(&linear.name)) {
        Some(linear) => Err(format!("{} is packed, and `ignore` says that it is not", linear.name)),
        None => Ok(match settings.schemes.as_slice() {
            [one] => format!("all are of `{}`", one.name),
            several => format!("of {} groups", several.len()),
        }),
    }
}

/// Every input is in a group that there is, and the config tells of orders.
fn order(content: &Content<'_, Settings>) -> Seen {
    let mut ordered = 0;
    for linear in &content.linears {
        let order = content.data(linear, ORDER);
        linear.groups_of_inputs(order).map_err(|failure| failure.to_string())?;
        let said = content.packing.scheme(&linear.name).is_some_and(|scheme| scheme.ordered);
        match (order.is_some(), said) {
            (true, false) => return Err(format!("{}{ORDER} is there, and the config says nothing of it", linear.name)),
            (false, true) => {
                return Err(format!("{}{ORDER} is not there, and the config says `actorder`", linear.name));
            }
            (has, _) => ordered += usize::from(has),
        }
    }
    Ok(match ordered {
        0 => "groups are in the order of the inputs".into(),
        _ => format!("{ordered} linears have an order of their own (actorder `group`)"),
    })
}

/// Why a program does not take what the settings say.
pub(super) fn loads(content: &Content<'_, Settings>, loader: &str) -> Result<(), String> {
    let any = |test: &dyn Fn(&Linear) -> bool| content.linears.iter().find(|linear| test(linear));
    if let Some(linear) = any(&|linear| linear.order.is_some()) {
        let since = if loader == "vllm" { "0.32" } else { "compressed-tensors 0.19" };
        return Err(format!("since {since} it takes no groups in an order of their own, as {} has", linear.name));
    }
    if let Some(linear) = any(&|linear| layout(linear) == Layout::Padded) {
        let since = if loader == "vllm" { "0.33" } else { "compressed-tensors 0.18" };
        return Err(format!("since {since} codes go on in the next word, and those of {} do not", linear.name));
    }
    if loader == "vllm" {
        return fused(content);
    }
    match any(&|linear| linear.zeros.is_some()) {
        Some(linear) => Err(format!(
            "with compressed-tensors 0.18 to 0.20 it takes asymmetric codes, as {} has, only if it is told \
             CompressedTensorsConfig(dequantize=True)",
            linear.name
        )),
        None => Ok(()),
    }
}

/// Modules that are run as one are packed alike, and their zero points are cut between words.
fn fused(content: &Content<'_, Settings>) -> Result<(), String> {
    let linears: BTreeMap<&str, &Linear> =
        content.linears.iter().map(|linear| (linear.name.as_str(), linear)).collect();
    let settings = |linear: &Linear| (linear.encoding(), linear.zeros.is_some());
    for (name, linear) in &linears {
        let Some((parent, last)) = name.rsplit_once('.') else { continue };
        let Some(names) = FUSED.into_iter().find(|names| names.contains(&last)) else { continue };
        for other in names.iter().filter(|other| **other != last) {
            let other = format!("{parent}.{other}");
            match linears.get(other.as_str()) {
                Some(found) if settings(found) != settings(linear) => {
                    return Err(format!("it runs {name} and {other} as one, and they are packed differently"));
                }
                None if content.folder.tensor(&format!("{other}.weight")).is_some() => {
                    return Err(format!("it runs {name} and {other} as one, and only the first is packed"));
                }
                _ => {}
            }
        }
        let (outputs, bits) = (linear.shape.outputs, linear.shape.bits as usize);
        if linear.zeros.is_some() && !(outputs * bits).is_multiple_of(32) {
            return Err(format!("it runs {name} and others as one, and its {outputs} zero points end within a word"));
        }
    }
    Ok(())
}
