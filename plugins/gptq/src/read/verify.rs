//! Holding folders that anybody made against what the format and its loaders demand.
//!
//! Codes are not looked at: any of them is sound. Zero points and orders are small, and are looked at whole; whether
//! scales are finite is looked at row by row, see [`Reader`](qhost_packed::Reader).

use qhost_packed::{Content, Linear, ORDER, Seen, ZEROS, finding, flag, mask};
use qhost_plugin_api::{
    documents::{Check, CheckStatus},
    sdk::Result,
};

use super::{
    linear,
    settings::{Settings, Version},
    unpack,
};

/// The programs that load the format.
pub(crate) const LOADERS: [&str; 4] = ["transformers", "gptqmodel", "vllm", "sglang"];

/// The checks of the format's own.
pub(super) fn checks(content: &Content<'_, Settings>) -> Vec<Check> {
    let mut checks = vec![finding("order", order(content))];
    if checks.iter().all(|check| check.status == CheckStatus::Passed) {
        checks.push(finding("zeros", zeros(content)));
    }
    checks
}

/// Every input is in a group that there is.
fn order(content: &Content<'_, Settings>) -> Seen {
    let mut ordered = 0;
    for linear in &content.linears {
        let groups = order_of(content, linear).map_err(|failure| failure.to_string())?;
        let plain = |(input, group): (usize, &u32)| *group as usize == input / linear.shape.group_size;
        ordered += usize::from(!groups.iter().enumerate().all(plain));
    }
    Ok(match ordered {
        0 => "groups are in the order of the inputs".into(),
        _ => format!("{ordered} linears have an order of their own (act-order)"),
    })
}

fn order_of(content: &Content<'_, Settings>, linear: &Linear) -> Result<Vec<u32>> {
    linear.groups_of_inputs(content.data(linear, ORDER))
}

/// Zero points that programs read differently: by the symmetry that the config states instead of by the numbers, or
/// by what becomes of a stored −1.
fn zeros(content: &Content<'_, Settings>) -> Seen {
    let (symmetric, version) = (content.packing.symmetric, content.packing.version);
    let (mut all, mut wrapped) = (0_u64, 0_u64);
    for linear in &content.linears {
        let (bits, outputs) = (linear.shape.bits, linear.shape.outputs);
        let Some(data) = content.data(linear, ZEROS) else { continue };
        let middle = f32::from(1_u16 << (bits - 1));
        let (mut true_zeros, mut fields) = (vec![0.0; outputs], vec![0.0; outputs]);
        for group in 0..linear.shape.groups {
            let word = linear::zero_words(linear, data, group);
            unpack::zeros(&word, bits, version, 0, &mut true_zeros);
            if let Some(output) = true_zeros.iter().position(|zero| symmetric && zero.to_bits() != middle.to_bits()) {
                return Err(format!(
                    "{}{ZEROS} has the zero point {} for output {output}, and {} says that it is symmetric: programs \
                     that rely on that read {middle}",
                    linear.name, true_zeros[output], content.file
                ));
            }
            if version == Version::V1 {
                unpack::zeros(&word, bits, Version::V2, 0, &mut fields);
                let last = f32::from(mask(bits as usize));
                wrapped += fields.iter().filter(|field| field.to_bits() == last.to_bits()).count() as u64;
            }
            all += outputs as u64;
        }
    }
    Ok(match wrapped {
        0 if symmetric => "all are in the middle".into(),
        0 => "every program reads them alike".into(),
        _ => format!("{wrapped} of {all} stand for 0 or for a number past the last code, depending on the program"),
    })
}

/// Why a program does not take what the settings say.
pub(super) fn loads(content: &Content<'_, Settings>, loader: &str) -> std::result::Result<(), String> {
    let is = |key: &str| flag(&content.written, key) == Some(true);
    let refused = match loader {
        "vllm" if !is("sym") => Some("it takes symmetric groups only, with `sym` true".to_owned()),
        "vllm" if is("desc_act") => Some("since 0.32 it takes no act-order (`desc_act`)".to_owned()),
        "vllm" => content
            .linears
            .iter()
            .find(|linear| ![4, 8].contains(&linear.shape.bits))
            .map(|linear| format!("it takes 4 and 8 bits, and {} has {}", linear.name, linear.shape.bits)),
        _ if loader != "gptqmodel" && content.packing.version == Version::Planar => {
            Some("only GPTQModel takes `gptq_p`".to_owned())
        }
        "sglang" if content.packing.version == Version::V2 => Some("it does not take `gptq_v2`".to_owned()),
        _ => None,
    };
    refused.map_or(Ok(()), Err)
}
