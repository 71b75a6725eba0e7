//! The tensors of one linear, found by name, before anything is known of their shapes.

use qhost_folder::StoredAt;
use qhost_plugin_api::sdk::{DType, Failure, Result};

use crate::Packing;

/// The tensors of a linear.
#[derive(Debug, Clone)]
pub struct Tensors<'a> {
    /// The module's name.
    pub name: String,
    /// The codes.
    pub codes: &'a StoredAt,
    /// The zero points.
    pub zeros: Option<&'a StoredAt>,
    /// The scales.
    pub scales: &'a StoredAt,
    /// The group of every input.
    pub order: Option<&'a StoredAt>,
    /// The weights that the codes stand for, where that is told and not only implied by shapes.
    pub weights: Option<u64>,
    /// How a scale is stored.
    pub(crate) scale_dtype: DType,
}

impl<'a> Tensors<'a> {
    /// The tensors of the linear whose codes are in one, which stand for so many weights; `find` finds the others by name.
    ///
    /// # Errors
    /// Fails with kind `CORRUPT`, naming the tensor, when one is not there, and with `UNSUPPORTED` when one has a dtype
    /// that no such format has.
    pub(crate) fn of<P: Packing>(
        (codes, weights): (&'a StoredAt, Option<u64>),
        find: impl Fn(&str) -> Option<&'a StoredAt>,
        packing: &P,
    ) -> Result<Self> {
        let name = codes.name.strip_suffix(P::ENDINGS.codes).unwrap_or(&codes.name).to_owned();
        let part = |ending: &str| find(&format!("{name}{ending}"));
        let needed = |ending: &str| {
            let missing = || Failure::corrupt(format!("its tensor {name}{ending} is not there")).about(&*name);
            part(ending).ok_or_else(missing)
        };
        let endings = packing.zeros_endings();
        let zeros = match (endings.iter().find_map(|ending| part(ending)), endings) {
            (None, [first, ..]) if packing.needs_zeros() => Some(needed(first)?),
            (zeros, _) => zeros,
        };
        let (scales, order) = (needed(P::ENDINGS.scales)?, part(P::ENDINGS.order));
        let [of_codes, of_zeros] = packing.dtypes();
        let typed = [(Some(codes), of_codes), (zeros, of_zeros), (order, "I32")];
        for (tensor, dtype) in typed.into_iter().filter_map(|(tensor, dtype)| Some((tensor?, dtype))) {
            if tensor.dtype != dtype {
                return Err(Failure::unsupported(format!("it is of the dtype {}, and not {dtype}", tensor.dtype))
                    .about(&*tensor.name));
            }
        }
        let scale_dtype = match &*scales.dtype {
            "F16" => DType::F16,
            "BF16" => DType::BF16,
            "F32" => DType::F32,
            other => {
                return Err(
                    Failure::unsupported(format!("scales of the dtype {other} are not read")).about(&*scales.name)
                );
            }
        };
        Ok(Self { name, codes, zeros, scales, order, weights, scale_dtype })
    }
}

/// Rows and columns of a tensor.
///
/// # Errors
/// Fails with kind `CORRUPT` when it has not two dimensions.
pub fn matrix(tensor: &StoredAt) -> Result<(usize, usize)> {
    match tensor.shape.as_slice() {
        &[rows, columns] => Ok((in_memory(rows)?, in_memory(columns)?)),
        _ => Err(misshapen(tensor, "it is no matrix")),
    }
}

/// What is wrong with the shape of a tensor.
#[must_use]
pub fn misshapen(tensor: &StoredAt, why: &str) -> Failure {
    Failure::corrupt(format!("its shape is {:?}, which does not fit: {why}", tensor.shape)).about(&*tensor.name)
}

/// A dimension as a length in memory.
///
/// # Errors
/// Fails with kind `CORRUPT` when it is longer than memory.
pub fn in_memory(size: u64) -> Result<usize> {
    usize::try_from(size).map_err(|_| Failure::corrupt(format!("a dimension of {size} does not fit into memory")))
}
