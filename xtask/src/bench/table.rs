//! Tables of figures: aligned Markdown for eyes, and JSON for scripts.

use std::fmt;

use serde_json::{Map, Value, json};

/// A table with a title and a note on what it shows.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) title: String,
    pub(super) note: String,
    pub(super) columns: Vec<&'static str>,
    pub(super) rows: Vec<Vec<Cell>>,
}

/// What stands in a table.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Cell {
    Text(String),
    /// A number, and how many decimals of it are shown.
    Figure(f64, usize),
    /// What was not measured.
    Missing,
}

impl Cell {
    pub(super) fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    fn json(&self) -> Value {
        match self {
            Self::Text(text) => text.as_str().into(),
            Self::Figure(value, _) => (*value).into(),
            Self::Missing => Value::Null,
        }
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.pad(text),
            Self::Figure(value, decimals) => f.pad(&format!("{value:.decimals$}")),
            Self::Missing => f.pad("-"),
        }
    }
}

impl Table {
    /// The rows as objects, by the names of columns.
    pub(super) fn json(&self) -> Value {
        let rows = self.rows.iter().map(|row| {
            let cells = self.columns.iter().zip(row).map(|(column, cell)| ((*column).to_owned(), cell.json()));
            Value::Object(cells.collect::<Map<_, _>>())
        });
        json!({"title": self.title, "note": self.note, "rows": rows.collect::<Vec<_>>()})
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "## {}\n\n{}\n", self.title, self.note)?;
        let width = |(index, column): (usize, &&str)| {
            let cells = self.rows.iter().filter_map(|row| row.get(index)).map(|cell| cell.to_string().chars().count());
            cells.chain([column.chars().count(), 3]).max().unwrap_or_default()
        };
        let widths: Vec<_> = self.columns.iter().enumerate().map(width).collect();
        let is_text = |index: usize| self.rows.iter().any(|row| matches!(row.get(index), Some(Cell::Text(_))));
        for (column, width) in self.columns.iter().zip(&widths) {
            write!(f, "| {column:<width$} ")?;
        }
        writeln!(f, "|")?;
        for (index, width) in widths.iter().enumerate() {
            let (dashes, end) = ("-".repeat(width + 1), if is_text(index) { "-" } else { ":" });
            write!(f, "|{dashes}{end}")?;
        }
        writeln!(f, "|")?;
        for row in &self.rows {
            for (index, (cell, width)) in row.iter().zip(&widths).enumerate() {
                if is_text(index) {
                    write!(f, "| {cell:<width$} ")?;
                } else {
                    write!(f, "| {cell:>width$} ")?;
                }
            }
            writeln!(f, "|")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_aligned_and_has_its_figures_in_full_in_json() {
        let table = Table {
            title: "Speed".to_owned(),
            note: "In m/s.".to_owned(),
            columns: vec!["who", "forwards", "back"],
            rows: vec![
                vec![Cell::text("a tortoise"), Cell::Figure(0.0761, 2), Cell::Missing],
                vec![Cell::text("é"), Cell::Figure(12345.678, 1), Cell::Figure(3.0, 0)],
            ],
        };
        let lines = [
            "## Speed",
            "",
            "In m/s.",
            "",
            "| who        | forwards | back |",
            "|------------|---------:|-----:|",
            "| a tortoise |     0.08 |    - |",
            "| é          |  12345.7 |    3 |",
            "",
        ];
        assert_eq!(table.to_string(), lines.join("\n"));
        let rows = json!([
            {"who": "a tortoise", "forwards": 0.0761, "back": null},
            {"who": "é", "forwards": 12345.678, "back": 3.0},
        ]);
        assert_eq!(table.json(), json!({"title": "Speed", "note": "In m/s.", "rows": rows}));
    }
}
