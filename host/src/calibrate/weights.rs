//! Where a model's weights come from while it is run, and those of a unit made ready for a device.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    ops::Deref,
    sync::Arc,
};

use half::{bf16, f16};
use qhost_compute::{Device, Dtype, Stored};
use qhost_plugin_api::{
    abi::Failure,
    documents::{Model, Part, Role, RoleKind, SourceTensor},
};

use super::Error;

/// Gives the weights of a model.
pub trait Weights: Send + Sync {
    /// Rows of a tensor, as the model's list has it.
    ///
    /// # Errors
    /// Fails when they cannot be read.
    fn rows(&self, tensor: u32, first_row: u64, rows: u64) -> Result<Lent<'_>, Failure>;

    /// Says that a tensor will be asked for soon.
    fn expect(&self, _tensor: u32) {}
}

/// Rows that are given back when they are dropped.
pub struct Lent<'a> {
    /// How an element is stored.
    pub dtype: Dtype,
    bytes: Box<dyn Deref<Target = [u8]> + Send + Sync + 'a>,
}

impl<'a> Lent<'a> {
    /// Rows of this dtype.
    #[must_use]
    pub fn new(dtype: Dtype, bytes: impl Deref<Target = [u8]> + Send + Sync + 'a) -> Self {
        Self { dtype, bytes: Box::new(bytes) }
    }

    /// The rows' bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The rows' numbers.
    #[must_use]
    pub fn numbers(&self) -> Vec<f32> {
        let bytes = self.bytes();
        match self.dtype {
            Dtype::F32 => bytes.as_chunks::<4>().0.iter().map(|raw| f32::from_le_bytes(*raw)).collect(),
            Dtype::F16 => bytes.as_chunks::<2>().0.iter().map(|raw| f16::from_le_bytes(*raw).to_f32()).collect(),
            Dtype::BF16 => bytes.as_chunks::<2>().0.iter().map(|raw| bf16::from_le_bytes(*raw).to_f32()).collect(),
        }
    }
}

impl fmt::Debug for Lent<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes of {:?}", self.bytes.len(), self.dtype)
    }
}

/// Numbers that stand in for tensors of the model, whole.
pub type Substitutes = HashMap<u32, Arc<Vec<f32>>>;

/// Substituted numbers as they lie in memory.
struct Floats(Arc<Vec<f32>>);

impl Deref for Floats {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

/// The tensors of a unit, on loan.
#[derive(Debug)]
pub struct UnitTensors<'a> {
    tensors: Vec<(u32, &'a SourceTensor, Lent<'a>)>,
    /// The kinds of all weights of the unit, wanted or not.
    kinds: BTreeSet<RoleKind>,
}

impl<'a> UnitTensors<'a> {
    /// Borrows all tensors of a unit that are wanted.
    ///
    /// # Errors
    /// Fails when they cannot be read.
    pub fn borrow(
        model: &'a Model,
        weights: &'a dyn Weights,
        substitutes: &Substitutes,
        unit: u32,
        wanted: impl Fn(&Role) -> bool,
    ) -> Result<Self, Error> {
        let of_unit = (0..).zip(&model.tensors).filter(|(_, tensor)| tensor.unit == unit && wanted(&tensor.role));
        let tensors = of_unit.map(|(id, tensor)| {
            if let Some(numbers) = substitutes.get(&id) {
                return Ok((id, tensor, Lent::new(Dtype::F32, Floats(Arc::clone(numbers)))));
            }
            let lent = weights.rows(id, 0, tensor.rows());
            let lent =
                lent.map_err(|failure| Error::Weights { tensor: tensor.name.clone(), failure: Box::new(failure) })?;
            Ok((id, tensor, lent))
        });
        let weights_of_unit =
            model.tensors.iter().filter(|tensor| tensor.unit == unit && tensor.role.part == Part::Weight);
        let kinds = weights_of_unit.map(|tensor| tensor.role.kind.clone()).collect();
        Ok(Self { tensors: tensors.collect::<Result<_, Error>>()?, kinds })
    }

    /// Adds those of another unit.
    pub(super) fn extend(&mut self, other: Self) {
        self.tensors.extend(other.tensors);
        self.kinds.extend(other.kinds);
    }
}

/// A linear on a device.
pub struct Linear<'t, D: Device> {
    /// Its matrix.
    pub matrix: D::Matrix<'t>,
    /// What is added.
    pub bias: Option<D::Buffer>,
    /// Its outputs.
    pub outputs: usize,
    /// Its inputs.
    pub inputs: usize,
}

/// A norm on a device.
pub struct Gain<D: Device> {
    /// The gain.
    pub gain: D::Buffer,
    /// What is added.
    pub bias: Option<D::Buffer>,
    /// Numbers that are normed together.
    pub width: usize,
}

/// The modules of a unit on a device.
pub struct Modules<'t, D: Device> {
    linears: BTreeMap<(RoleKind, Option<u32>), Linear<'t, D>>,
    norms: BTreeMap<RoleKind, Gain<D>>,
    vectors: BTreeMap<RoleKind, Vec<f32>>,
    /// The kinds of all weights of the unit, whether they are here or not.
    kinds: BTreeSet<RoleKind>,
}

impl<'t, D: Device> Modules<'t, D> {
    /// Brings the tensors of a unit to a device.
    ///
    /// # Errors
    /// Fails when the device refuses.
    pub fn load(device: &D, tensors: &'t UnitTensors<'_>) -> Result<Self, Error> {
        let (linears, norms, vectors) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let mut modules = Self { linears, norms, vectors, kinds: tensors.kinds.clone() };
        let is_weight = |role: &Role| role.part == Part::Weight;
        for (_, tensor, lent) in tensors.tensors.iter().filter(|(_, tensor, _)| is_weight(&tensor.role)) {
            modules.weight(device, tensor, lent)?;
        }
        for (_, tensor, lent) in tensors.tensors.iter().filter(|(_, tensor, _)| !is_weight(&tensor.role)) {
            modules.bias(device, tensor, lent)?;
        }
        Ok(modules)
    }

    fn weight(&mut self, device: &D, tensor: &SourceTensor, lent: &'t Lent<'_>) -> Result<(), Error> {
        let role = &tensor.role;
        let dims: Vec<usize> = tensor.shape.iter().map(|&dim| usize::try_from(dim).unwrap_or(usize::MAX)).collect();
        match (&role.kind, dims.as_slice()) {
            (RoleKind::AttentionSinks, _) => drop(self.vectors.insert(role.kind.clone(), lent.numbers())),
            (kind, [.., width]) if is_norm(kind) => {
                let gain = Gain { gain: device.upload(&lent.numbers())?, bias: None, width: *width };
                self.norms.insert(kind.clone(), gain);
            }
            (kind, [experts, one, other]) => {
                let bytes = one * other * lent.dtype.bytes();
                for (expert, bytes) in (0..).zip(lent.bytes().chunks_exact(bytes).take(*experts)) {
                    self.linear(device, (kind.clone(), Some(expert)), (*one, *other), tensor, lent.dtype, bytes)?;
                }
            }
            (kind, [one, other]) => {
                self.linear(device, (kind.clone(), role.expert), (*one, *other), tensor, lent.dtype, lent.bytes())?;
            }
            (kind, _) => drop(self.vectors.insert(kind.clone(), lent.numbers())),
        }
        Ok(())
    }

    fn linear(
        &mut self,
        device: &D,
        key: (RoleKind, Option<u32>),
        (one, other): (usize, usize),
        tensor: &SourceTensor,
        dtype: Dtype,
        bytes: &'t [u8],
    ) -> Result<(), Error> {
        let (outputs, inputs) = if tensor.transposed { (other, one) } else { (one, other) };
        let stored = Stored { bytes, dtype, outputs, inputs, transposed: tensor.transposed };
        self.linears.insert(key, Linear { matrix: device.matrix(stored)?, bias: None, outputs, inputs });
        Ok(())
    }

    fn bias(&mut self, device: &D, tensor: &SourceTensor, lent: &Lent<'_>) -> Result<(), Error> {
        let role = &tensor.role;
        let numbers = lent.numbers();
        if let Some(norm) = self.norms.get_mut(&role.kind) {
            norm.bias = Some(device.upload(&numbers)?);
            return Ok(());
        }
        if let Some(linear) = self.linears.get_mut(&(role.kind.clone(), role.expert)) {
            linear.bias = Some(device.upload(&numbers)?);
            return Ok(());
        }
        // Of experts in one tensor the biases are too.
        let width = usize::try_from(tensor.row_elements()).unwrap_or(usize::MAX);
        let mut placed = false;
        for (expert, numbers) in (0..).zip(numbers.chunks_exact(width.max(1))) {
            if let Some(linear) = self.linears.get_mut(&(role.kind.clone(), Some(expert))) {
                linear.bias = Some(device.upload(numbers)?);
                placed = true;
            }
        }
        if !placed {
            self.vectors.insert(role.kind.clone(), numbers);
        }
        Ok(())
    }

    /// Whether the unit has weights of a kind, even if they were not wanted here.
    #[must_use]
    pub fn has(&self, kind: &RoleKind) -> bool {
        self.kinds.contains(kind)
    }

    /// A linear, if it is here.
    #[must_use]
    pub fn linear_of(&self, kind: &RoleKind, expert: Option<u32>) -> Option<&Linear<'t, D>> {
        self.linears.get(&(kind.clone(), expert))
    }

    /// A norm, if the unit has it.
    #[must_use]
    pub fn norm_of(&self, kind: &RoleKind) -> Option<&Gain<D>> {
        self.norms.get(kind)
    }

    /// Numbers that are neither, if the unit has them.
    #[must_use]
    pub fn vector_of(&self, kind: &RoleKind) -> Option<&[f32]> {
        self.vectors.get(kind).map(Vec::as_slice)
    }
}

fn is_norm(kind: &RoleKind) -> bool {
    matches!(
        kind,
        RoleKind::OutputNorm
            | RoleKind::AttentionNorm
            | RoleKind::AttentionQNorm
            | RoleKind::AttentionKNorm
            | RoleKind::AttentionQANorm
            | RoleKind::AttentionKvANorm
            | RoleKind::AttentionPostNorm
            | RoleKind::FfnNorm
            | RoleKind::FfnPostNorm
    )
}
