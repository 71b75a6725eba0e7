//! The modules of a unit: taken over, rounded each group for itself, or under the Hessian of their inputs.

use qhost_linears::{Module, arrive, fetch, in_memory, refuse_infinite, round_alone, round_unit};
use qhost_plugin_api::sdk::{Result, UnitHandle};
use qhost_rounding::Groups;

use crate::{options::Choices, write::write_module};

/// How a module is left as it is.
const HINT: &str = "leave the module as it is with --plugin-option ignore=NAME";

/// Makes every module of a unit.
pub(crate) fn make(io: &UnitHandle, choices: &Choices, modules: &[&Module]) -> Result<()> {
    if choices.calibrates {
        return round_unit(io, &choices.calibration, modules, HINT, &|module, rounded, groups| {
            write_module(io, module, rounded, groups)
        });
    }
    for module in modules {
        if let Some(taken) = &module.taken {
            let arrived = arrive(io, module, taken)?;
            write_module(io, module, &arrived.rounded, arrived.groups())?;
            continue;
        }
        let mut weights = vec![0.0; in_memory(module.weights())?];
        fetch(io, module, &mut weights)?;
        let rounded = round_alone(io, module, choices.calibration.effort, &weights)?;
        refuse_infinite(module, &rounded, HINT)?;
        write_module(io, module, &rounded, Groups::Neighbours(in_memory(module.group_size())?))?;
    }
    Ok(())
}
