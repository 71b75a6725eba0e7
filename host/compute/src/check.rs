//! Whether operands fit each other: the same for every device. Operands are given by their lengths.

use crate::{Attention, Columns, Error, Stored};

pub(crate) fn fits(operation: &'static str, fits: bool, detail: impl FnOnce() -> String) -> Result<(), Error> {
    if fits { Ok(()) } else { Err(Error::Shape { operation, detail: detail() }) }
}

pub(crate) fn rows(operation: &'static str, x: usize, width: usize) -> Result<(), Error> {
    fits(operation, x.is_multiple_of(width), || format!("{x} by {width}"))
}

pub(crate) fn columns(operation: &'static str, width: usize, columns: Columns) -> Result<(), Error> {
    let end = columns.count.checked_sub(1).map_or(0, |last| columns.first + last * columns.stride + columns.take);
    fits(operation, end <= width, || format!("column {end} of {width}"))
}

pub(crate) fn named(operation: &'static str, x: usize, width: usize, rows: &[u32]) -> Result<(), Error> {
    let end = rows.iter().max().map_or(0, |&last| last as usize + 1);
    fits(operation, end * width <= x, || format!("{end} rows of {}", x / width.max(1)))
}

pub(crate) fn download(buffer: usize, out: usize) -> Result<(), Error> {
    fits("download", buffer == out, || format!("{buffer} to {out}"))
}

pub(crate) fn matrix(stored: &Stored<'_>) -> Result<(), Error> {
    let bytes = stored.outputs * stored.inputs * stored.dtype.bytes();
    fits("matrix", stored.bytes.len() == bytes, || format!("{} bytes instead of {bytes}", stored.bytes.len()))
}

pub(crate) fn linear(
    x: usize,
    rows: usize,
    (inputs, outputs): (usize, usize),
    bias: Option<usize>,
) -> Result<(), Error> {
    fits("linear", x == rows * inputs, || format!("{x} for {rows}×{inputs}"))?;
    fits("linear", bias.is_none_or(|bias| bias == outputs), || "bias".into())
}

/// The numbers of a row, which gain and bias are for.
pub(crate) fn norm(x: usize, width: usize, (gain, bias): (Option<usize>, Option<usize>)) -> Result<usize, Error> {
    let row = gain.or(bias).unwrap_or(width);
    fits("norm", width > 0 && row > 0 && row.is_multiple_of(width), || format!("{row} by {width}"))?;
    fits("norm", x.is_multiple_of(row), || format!("{x} by {row}"))?;
    fits("norm", bias.is_none_or(|bias| bias == row), || "gain and bias".into())?;
    Ok(row)
}

/// The numbers of a row; the tables have `half` angles for each position.
pub(crate) fn rotate(
    x: usize,
    positions: &[u32],
    head: usize,
    end: usize,
    (half, tables): (usize, usize),
) -> Result<usize, Error> {
    let rows = positions.len();
    let width = x / rows.max(1);
    let whole = x == rows * width && head > 0 && width.is_multiple_of(head);
    fits("rotate", whole && end <= head, || format!("{x} by {rows} by {head}"))?;
    let angles = positions.iter().max().map_or(0, |&last| (last as usize + 1) * half);
    fits("rotate", angles <= tables, || format!("{tables} angles instead of {angles}"))?;
    Ok(width)
}

/// The rows of all sequences.
pub(crate) fn attention(
    (q, k, v): (usize, usize, usize),
    lengths: &[usize],
    shape: &Attention,
    sinks: Option<usize>,
) -> Result<usize, Error> {
    let &Attention { heads, kv_heads, key, value, .. } = shape;
    fits("attention", kv_heads > 0 && heads.is_multiple_of(kv_heads), || format!("{heads} and {kv_heads} heads"))?;
    let rows: usize = lengths.iter().sum();
    fits("attention", q == rows * heads * key, || "queries".into())?;
    fits("attention", k == rows * kv_heads * key, || "keys".into())?;
    fits("attention", v == rows * kv_heads * value, || "values".into())?;
    fits("attention", sinks.is_none_or(|sinks| sinks == heads), || "sinks".into())?;
    Ok(rows)
}

pub(crate) fn activate(gate: usize, up: Option<usize>) -> Result<(), Error> {
    fits("activate", up.is_none_or(|up| up == gate), || "gate and up".into())
}

pub(crate) fn add(y: usize, x: usize) -> Result<(), Error> {
    fits("add", y == x, || format!("{y} and {x}"))
}

pub(crate) fn place(out: usize, width: usize, taken: Columns, x: usize) -> Result<(), Error> {
    rows("place", out, width)?;
    columns("place", width, taken)?;
    fits("place", out / width.max(1) * taken.width() == x, || format!("{x}"))
}

pub(crate) fn scatter(out: usize, width: usize, (to, factors): (&[u32], usize), x: usize) -> Result<(), Error> {
    rows("scatter", out, width)?;
    named("scatter", out, width, to)?;
    fits("scatter", to.len() == factors && to.len() * width == x, || format!("{x} for {} rows by {width}", to.len()))
}

pub(crate) fn gram(x: usize, width: usize, gram: usize) -> Result<(), Error> {
    fits("gram", gram == width * width, || format!("{gram} for {width}"))?;
    fits("gram", x.is_multiple_of(width.max(1)), || format!("{x} by {width}"))
}

pub(crate) fn cross((a, b): (usize, usize), (height, width): (usize, usize), sum: usize) -> Result<(), Error> {
    fits("cross", sum == height * width, || format!("{sum} for {height}×{width}"))?;
    rows("cross", a, height)?;
    rows("cross", b, width)?;
    let (of_a, of_b) = (a / height.max(1), b / width.max(1));
    fits("cross", of_a == of_b, || format!("{of_a} and {of_b} rows"))
}

pub(crate) fn moments(x: usize, width: usize, (absolute, squares): (usize, usize)) -> Result<(), Error> {
    rows("moments", x, width)?;
    fits("moments", absolute == width && squares == width, || format!("{absolute}"))
}
