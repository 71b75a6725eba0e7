//! Modules whose lengths groups do not divide or codes do not fill: all are looked at before the first is refused.

use qhost_plugin_api::sdk::{Failure, Result};

use crate::{Hints, Module, Multiples};

/// What does not fit into words and groups.
#[derive(Debug, Default)]
pub(crate) struct Misfits {
    first: Option<String>,
    modules: usize,
    /// The greatest common divisor of all inputs.
    divisor: u64,
    /// Whether the first is of a kind that no other groups mend.
    unmendable: bool,
}

impl Misfits {
    /// Looks at a module whose lengths have to be such multiples.
    pub(crate) fn look_at(&mut self, module: &Module, multiples: Multiples) {
        self.divisor = greatest_common_divisor(self.divisor, module.columns);
        let size = module.group_size();
        let (name, rows, columns) = (&module.name, module.rows, module.columns);
        let wrong = if rows == 0 || columns == 0 {
            self.unmendable |= self.first.is_none();
            format!("{name} has {columns} inputs and {rows} outputs, so there is nothing to quantise")
        } else if !columns.is_multiple_of(size.max(1)) {
            format!("{name} has {columns} inputs, which groups of {size} do not divide")
        } else if !multiples.fit(rows, columns) {
            self.unmendable |= self.first.is_none();
            let (bits, packed) = (module.settings.bits, multiples.words());
            format!("{name} has {columns} inputs and {rows} outputs; {bits}-bit codes are packed {packed}")
        } else {
            return;
        };
        self.modules += 1;
        self.first.get_or_insert(wrong);
    }

    /// Refuses what does not fit, if anything.
    pub(crate) fn refuse(self, hints: &Hints) -> Result<()> {
        let Some(first) = self.first else { return Ok(()) };
        let more = match self.modules {
            1 => String::new(),
            modules => format!(" ({} more modules are like that)", modules - 1),
        };
        let sizes: Vec<_> = [128, 64, 32, 16, 8]
            .into_iter()
            .filter(|size| self.divisor.is_multiple_of(*size))
            .map(|s| s.to_string())
            .collect();
        let hint = if self.unmendable {
            hints.leave_one.to_owned()
        } else if sizes.is_empty() {
            format!("take whole rows with --group-size -1, or {}", hints.leave_some)
        } else {
            format!("--group-size {} or -1 divides all of them; {}", sizes.join(", "), hints.own_groups)
        };
        Err(Failure::unsupported(format!("{first}{more}")).hint(hint))
    }
}

fn greatest_common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}
