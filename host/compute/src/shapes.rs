//! What the operations are told beside their operands: shapes and kinds.

/// How a stored number is stored; all arithmetic is in `f32`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dtype {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// The upper half of binary32.
    BF16,
}

impl Dtype {
    /// Bytes of a number.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
        }
    }
}

/// A matrix as a checkpoint stores it, little-endian and row by row.
#[derive(Debug, Clone, Copy)]
pub struct Stored<'a> {
    /// Its bytes.
    pub bytes: &'a [u8],
    /// How an element is stored.
    pub dtype: Dtype,
    /// Outputs of the linear.
    pub outputs: usize,
    /// Inputs of the linear.
    pub inputs: usize,
    /// Whether it is stored as `[inputs, outputs]` instead of `[outputs, inputs]`.
    pub transposed: bool,
}

/// What a norm divides by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    /// The root of the mean square (Zhang and Sennrich 2019).
    Rms,
    /// The standard deviation, after subtracting the mean (Ba et al. 2016).
    Layer,
}

/// A norm over groups of `width` neighbouring numbers.
#[derive(Debug)]
pub struct Norm<'a, B> {
    /// What it divides by.
    pub kind: NormKind,
    /// Numbers that are normed together.
    pub width: usize,
    /// What is added to the mean square.
    pub epsilon: f32,
    /// The gain: `width` numbers, or a multiple, for the groups of a row in turn.
    pub gain: Option<&'a B>,
    /// Whether the gain is what is added to 1.
    pub plus_one: bool,
    /// What is added at the end, as long as the gain.
    pub bias: Option<&'a B>,
}

/// Rotation of a part of every head by its position.
#[derive(Debug)]
pub struct Rotation<'a, B> {
    /// Numbers in a head.
    pub head: usize,
    /// The first rotated number of a head.
    pub first: usize,
    /// Rotated numbers of a head, an even number.
    pub dimensions: usize,
    /// Whether pairs are neighbours; otherwise they are half of `dimensions` apart.
    pub interleaved: bool,
    /// Cosines, `[positions, dimensions / 2]`.
    pub cosines: &'a B,
    /// Sines, alike.
    pub sines: &'a B,
}

/// Causal attention of grouped queries.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Attention {
    /// Query heads.
    pub heads: usize,
    /// Key/value heads; each serves `heads / kv_heads` query heads in turn.
    pub kv_heads: usize,
    /// Numbers in a query or key head.
    pub key: usize,
    /// Numbers in a value head.
    pub value: usize,
    /// What scores are multiplied with.
    pub scale: f32,
    /// Scores become `cap · tanh(score / cap)`.
    pub soft_cap: Option<f32>,
    /// How many positions a query sees, itself among them; all before it if absent.
    pub window: Option<usize>,
}

/// Activation of a feed-forward block.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Activation {
    /// `x · sigmoid(x)`.
    Silu,
    /// With the error function (Hendrycks and Gimpel 2016).
    Gelu,
    /// Its approximation with a hyperbolic tangent.
    GeluTanh,
    /// Its approximation `x · sigmoid(1.702 x)`.
    GeluQuick,
    /// `max(x, 0)`.
    Relu,
    /// `max(x, 0)²`.
    SquaredRelu,
    /// gpt-oss: `gate ≤ limit`, `|up| ≤ limit`, then `(up + 1) · gate · sigmoid(alpha · gate)`.
    ClampedSwiglu {
        /// The slope of the sigmoid.
        alpha: f32,
        /// The limit.
        limit: f32,
    },
}

/// Some of the columns of a matrix: `count` pieces of `take` neighbours, `stride` apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Columns {
    /// The first column.
    pub first: usize,
    /// Neighbours in a piece.
    pub take: usize,
    /// From the start of a piece to that of the next.
    pub stride: usize,
    /// Pieces.
    pub count: usize,
}

impl Columns {
    /// Neighbouring columns.
    #[must_use]
    pub const fn range(first: usize, take: usize) -> Self {
        Self { first, take, stride: take, count: 1 }
    }

    /// How many they are.
    #[must_use]
    pub const fn width(&self) -> usize {
        self.take * self.count
    }
}
