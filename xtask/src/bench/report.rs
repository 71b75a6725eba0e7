//! The results of a run: shown as they come, and kept under a date and the name of the CPU.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{machine::Machine, table::Table};

/// What was measured, and on what.
#[derive(Debug)]
pub(super) struct Report {
    machine: Machine,
    tables: Vec<Table>,
}

impl Report {
    /// Starts with the machine.
    pub(super) fn new(machine: Machine) -> Self {
        println!("{machine}");
        Self { machine, tables: Vec::new() }
    }

    /// Shows a table, and keeps it.
    pub(super) fn add(&mut self, table: Table) {
        println!("{table}");
        self.tables.push(table);
    }

    /// Writes the tables as they were shown (`.md`) and as documents (`.json`) into a folder; gives the first.
    pub(super) fn keep(&self, folder: &Path) -> Result<PathBuf> {
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is wrong")?.as_secs();
        let name = unused(folder, &format!("{}-{}", date(seconds), self.machine.short_name()));
        let mut text = format!("# Measured on {}\n\n{}", date(seconds), self.machine);
        for table in &self.tables {
            write!(text, "\n{table}")?;
        }
        let tables: Value = self.tables.iter().map(Table::json).collect();
        let document = json!({"date": date(seconds), "machine": self.machine.json(), "tables": tables});
        let path = folder.join(format!("{name}.md"));
        fs::write(folder.join(format!("{name}.json")), format!("{document:#}\n"))?;
        fs::write(&path, text).with_context(|| format!("{} cannot be written", path.display()))?;
        Ok(path)
    }
}

/// A name that no result has yet: what was measured before stays.
fn unused(folder: &Path, name: &str) -> String {
    let names = std::iter::once(name.to_owned()).chain((2..).map(|number| format!("{name}-{number}")));
    let is_free = |name: &String| !folder.join(format!("{name}.md")).exists();
    names.into_iter().find(is_free).unwrap_or_default()
}

/// The day in UTC of a number of seconds since 1970, as 2026-11-26.
fn date(seconds: u64) -> String {
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let (mut year, mut days) = (1970, seconds / 86_400);
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let mut month = 1;
    for length in [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    format!("{year}-{month:02}-{:02}", days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, expected) in [
            (0, "1970-01-01"),
            (951_782_399, "2000-02-28"),
            (951_782_400, "2000-02-29"),
            (951_868_800, "2000-03-01"),
            (1_735_689_599, "2024-12-31"),
            (1_735_689_600, "2025-01-01"),
            (1_795_726_800, "2026-11-26"),
            (4_107_542_400, "2100-03-01"),
        ] {
            assert_eq!(date(seconds), expected);
        }
    }

    #[test]
    fn results_of_the_same_day_are_kept_beside_each_other() -> Result<()> {
        let folder = std::env::temp_dir().join(format!("qhost-bench-{}", std::process::id()));
        fs::create_dir_all(&folder)?;
        assert_eq!(unused(&folder, "today"), "today");
        fs::write(folder.join("today.md"), "")?;
        fs::write(folder.join("today-2.md"), "")?;
        assert_eq!(unused(&folder, "today"), "today-3");
        fs::remove_dir_all(&folder)?;
        Ok(())
    }
}
