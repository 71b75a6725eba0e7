//! `cargo xtask bench kernels`: what `tests/interop/benches/kernels.rs` says of every kernel, as tables.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{
    programs::{Programs, figure},
    table::{Cell, Table},
};

/// What was measured of kernels.
#[derive(Debug)]
pub(super) struct Kernels {
    told: Value,
    turns: u32,
}

impl Kernels {
    /// All types, with importances and without, on all instruction sets.
    pub(super) fn measure(programs: &Programs, turns: u32) -> Result<Self> {
        Ok(Self { told: programs.kernels(&json!({"turns": turns}))?, turns })
    }

    /// Some types on the best instruction set, without importances.
    pub(super) fn briefly(programs: &Programs, types: &[String]) -> Result<Self> {
        let request = json!({"types": types, "briefly": true});
        Ok(Self { told: programs.kernels(&request)?, turns: 0 })
    }

    /// Seconds for as many weights of each type, on one thread of the best instruction set.
    pub(super) fn seconds(&self, encodings: &[(String, f64)]) -> Result<f64> {
        encodings.iter().map(|(name, weights)| Ok(weights / self.speed(name)?)).sum()
    }

    fn speed(&self, name: &str) -> Result<f64> {
        // The best instruction set comes last.
        let rows = self.rows("kernels").iter().rev();
        let row = rows.into_iter().find(|row| row["type"] == name && row["variant"] == "plain");
        figure(row.with_context(|| format!("no kernel of {name} was measured"))?, "qhost")
    }

    fn rows(&self, key: &str) -> &[Value] {
        self.told[key].as_array().map_or(&[], Vec::as_slice)
    }

    /// Whatever is not the reference's.
    pub(super) fn faults(&self) -> Vec<String> {
        let rows = ["kernels", "copies", "widened"].into_iter().flat_map(|key| self.rows(key));
        let faults = rows.filter_map(|row| {
            let differing = row["differing_bytes"].as_u64().or_else(|| row["differing_weights"].as_u64());
            let words = [&row["type"], &row["variant"], &row["set"]].map(|word| word.as_str().unwrap_or("").to_owned());
            (differing != Some(0)).then(|| format!("{}: {differing:?} differ", words.join(" ").trim_end()))
        });
        faults.collect()
    }

    pub(super) fn tables(&self) -> [Table; 3] {
        [self.speeds(), self.copies(), self.widened()]
    }

    fn speeds(&self) -> Table {
        let row = |row: &Value| {
            let is_same = if row["differing_bytes"] == 0 { "same" } else { "DIFFERENT" };
            vec![
                text(row, "type"),
                text(row, "variant"),
                text(row, "set"),
                scaled(row, "ggml", 1e-6, 1),
                scaled(row, "qhost", 1e-6, 1),
                quotient(row, "qhost", "ggml", 1.0, 2),
                Cell::text(is_same),
                text(row, "checksum"),
            ]
        };
        Table {
            title: "Kernels".to_owned(),
            note: format!(
                "Millions of weights a second on one thread, the best of {} turns of 5 ms that ggml and all instruction \
                 sets take one after the other: 4 rows of 4096 weights, about normal with a deviation of 0.02, 64 KiB. \
                 ggml is `ggml_quantize_chunk`, built for plain x86-64 as the crate does by default. The checksum \
                 (FNV-1a) is that of the bytes of 64 such rows, by both.",
                self.turns
            ),
            columns: vec!["type", "variant", "set", "ggml", "qhost", "ratio", "bytes", "checksum"],
            rows: self.rows("kernels").iter().map(row).collect(),
        }
    }

    fn copies(&self) -> Table {
        let row = |row: &Value| {
            vec![
                text(row, "type"),
                text(row, "set"),
                scaled(row, "weight_bytes", 1.0 / f64::from(1 << 20), 2),
                scaled(row, "copy", 4e-9, 2),
                scaled(row, "qhost", 4e-9, 2),
                quotient(row, "qhost", "copy", 100.0, 0),
                scaled(row, "ggml", 4e-9, 2),
                quotient(row, "qhost", "ggml", 1.0, 2),
            ]
        };
        Table {
            title: "Beside a copy".to_owned(),
            note: "Kernels that memory ought to bound, against a copy of the same f32 weights to other memory, in turns on \
                   one thread: GB of weights a second, within the second-level cache (0.06 MiB) and beyond it (64 MiB)."
                .to_owned(),
            columns: vec!["type", "set", "MiB", "copy", "qhost", "% of copy", "ggml", "ratio"],
            rows: self.rows("copies").iter().map(row).collect(),
        }
    }

    fn widened(&self) -> Table {
        let row = |row: &Value| {
            vec![
                text(row, "type"),
                scaled(row, "ggml", 1e-6, 1),
                scaled(row, "qhost", 1e-6, 1),
                quotient(row, "qhost", "ggml", 1.0, 2),
                Cell::text(if row["differing_weights"] == 0 { "same" } else { "DIFFERENT" }),
            ]
        };
        Table {
            title: "Dequantising".to_owned(),
            note: "Millions of weights a second from blocks to f32, on one thread, in turns with ggml's `to_float`."
                .to_owned(),
            columns: vec!["type", "ggml", "qhost", "ratio", "weights"],
            rows: self.rows("widened").iter().map(row).collect(),
        }
    }
}

fn text(row: &Value, key: &str) -> Cell {
    row[key].as_str().map_or(Cell::Missing, Cell::text)
}

fn scaled(row: &Value, key: &str, factor: f64, decimals: usize) -> Cell {
    row[key].as_f64().map_or(Cell::Missing, |value| Cell::Figure(value * factor, decimals))
}

fn quotient(row: &Value, above: &str, below: &str, factor: f64, decimals: usize) -> Cell {
    let both = row[above].as_f64().zip(row[below].as_f64());
    both.map_or(Cell::Missing, |(above, below)| Cell::Figure(factor * above / below, decimals))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernels() -> Kernels {
        let row = |name: &str, variant: &str, set: &str, qhost: f64, differing: u64| {
            json!({"type": name, "variant": variant, "set": set, "ggml": 10.0, "qhost": qhost,
                   "differing_bytes": differing})
        };
        let rows = [
            row("Q4_K", "plain", "baseline", 20.0, 0),
            row("Q4_K", "plain", "AVX2", 80.0, 0),
            row("Q4_K", "imatrix", "AVX2", 70.0, 3),
            row("F32", "plain", "AVX2", 400.0, 0),
        ];
        let widened = [json!({"type": "F16", "ggml": 1.0, "qhost": 2.0, "differing_weights": 1})];
        Kernels { told: json!({"kernels": rows, "widened": widened}), turns: 1 }
    }

    #[test]
    fn time_is_that_of_the_best_instruction_set_without_importances() -> Result<()> {
        let kernels = kernels();
        let mixture = [("Q4_K".to_owned(), 160.0), ("F32".to_owned(), 100.0)];
        assert_eq!(kernels.seconds(&mixture)?.to_bits(), 2.25_f64.to_bits());
        assert!(kernels.seconds(&[("Q6_K".to_owned(), 1.0)]).is_err());
        Ok(())
    }

    #[test]
    fn every_difference_is_a_fault() {
        assert_eq!(kernels().faults(), ["Q4_K imatrix AVX2: Some(3) differ", "F16: Some(1) differ"]);
    }

    #[test]
    fn ratios_are_ours_by_theirs() {
        let [speeds, _, widened] = kernels().tables();
        let ratios: Vec<_> = speeds.rows.iter().map(|row| row[5].clone()).collect();
        assert_eq!(ratios, [2.0, 8.0, 7.0, 40.0].map(|ratio| Cell::Figure(ratio, 2)));
        assert_eq!(widened.rows[0][3], Cell::Figure(2.0, 2));
    }
}
