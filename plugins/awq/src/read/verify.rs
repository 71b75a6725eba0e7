//! Holding folders that anybody made against what the format's settings and loaders demand.

use std::collections::BTreeSet;

use qhost_packed::{Content, Packing, Seen, ZEROS, autoround, finding};
use qhost_plugin_api::documents::Check;

use super::{layout::Layout, linear::MIDDLE, settings::Settings};

/// The programs that load the format.
pub(crate) const LOADERS: [&str; 4] = ["transformers", "gptqmodel", "vllm", "sglang"];

/// The checks of the format's own.
pub(super) fn checks(content: &Content<'_, Settings>) -> Vec<Check> {
    vec![finding("zeros", zeros(content))]
}

/// Zero points that are not in the middle, though the settings say that they are: some programs do not look further.
fn zeros(content: &Content<'_, Settings>) -> Seen {
    if content.packing.zero_point {
        return Ok("every program reads them alike".into());
    }
    let mut stored = 0;
    for linear in content.linears.iter().filter(|linear| linear.zeros.is_some()) {
        let packed = content.packed(linear).map_err(|failure| failure.to_string())?;
        let outputs = linear.shape.outputs;
        let (mut found, mut scales) = (vec![0.0; outputs], vec![0.0; outputs]);
        for group in 0..linear.shape.groups {
            content.packing.zeros(linear, &packed, group, 0, &mut found);
            if content.packing.has_minima() {
                let scaled = linear.scales(&packed, group, &(0..outputs), &mut scales);
                scaled.map_err(|failure| failure.to_string())?;
                // Less the scale times the zero point is what is stored.
                for (found, scale) in found.iter_mut().zip(&scales) {
                    *found = if *scale * MIDDLE + *found == 0.0 { MIDDLE } else { -*found / scale };
                }
            }
            if let Some(output) = found.iter().position(|zero| zero.to_bits() != MIDDLE.to_bits()) {
                return Err(format!(
                    "{}{ZEROS} has the zero point {} for output {output}, and {} says that there are none: programs that \
                     rely on that read {MIDDLE}",
                    linear.name, found[output], content.file
                ));
            }
        }
        stored += 1;
    }
    Ok(match stored {
        0 => "none are stored: all are in the middle".into(),
        _ => "all are in the middle".into(),
    })
}

/// Why a program does not take the folder.
///
/// # Errors
/// Fails with the reason.
pub(super) fn loads(content: &Content<'_, Settings>, loader: &str) -> Result<(), String> {
    // All of them make room for zero points, whatever the settings say, and read what happens to be there.
    if let Some(linear) = content.linears.iter().find(|linear| linear.zeros.is_none()) {
        return Err(format!("{}{ZEROS} is not there", linear.name));
    }
    let asks = ["vllm", "sglang"].contains(&loader);
    let layout = content.packing.layout;
    if asks && layout != Layout::Gemm {
        return Err(format!("it takes the layout {} and not {}", Layout::Gemm.name(), layout.name()));
    }
    if autoround(&content.written).is_some() {
        // What is left out is told in words of its own.
        return Ok(());
    }
    if asks && !content.written.contains_key("zero_point") {
        return Err(format!("{} has no `zero_point`", content.file));
    }
    // It looks at the tensors.
    if loader == "gptqmodel" {
        return Ok(());
    }
    let named = content.packing.not_packed.as_deref().unwrap_or_default();
    let is_named = |module: &str| named.iter().any(|part| names(loader, part, module));
    if let Some(linear) = content.linears.iter().find(|linear| is_named(&linear.name)) {
        return Err(format!("{} is packed, and `modules_to_not_convert` names it", linear.name));
    }
    // Without the list it looks at the tensors instead.
    let derives = loader == "vllm" && named.is_empty();
    match left_out(content).into_iter().find(|module| !derives && !is_named(module)) {
        Some(module) => Err(format!("{module} is not packed, and `modules_to_not_convert` does not name it")),
        None => Ok(()),
    }
}

/// Whether a program takes an entry of `modules_to_not_convert` for a module: transformers by whole parts from the front
/// and by the end of the name (it knows patterns too), the others by what the name contains.
fn names(loader: &str, part: &str, module: &str) -> bool {
    match loader {
        "transformers" => {
            let rest = module.strip_prefix(part);
            module.ends_with(part) || rest.is_some_and(|rest| rest.starts_with('.') || part.ends_with('.'))
        }
        _ => module.contains(part),
    }
}

/// Linears of the layers that are not packed: matrices in the numbered modules.
fn left_out<'a>(content: &'a Content<'_, Settings>) -> BTreeSet<&'a str> {
    let is_numbered = |module: &str| module.split('.').any(|part| part.parse::<u32>().is_ok());
    let matrices = content.plain().filter(|tensor| tensor.shape.len() == 2);
    matrices.filter_map(|tensor| tensor.name.strip_suffix(".weight")).filter(|module| is_numbered(module)).collect()
}
