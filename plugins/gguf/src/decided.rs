//! What is decided about every tensor of the file, before there is a plan.
//!
//! It knows tensors one by one; types are the recipe's to choose, and places the layout's.

use qhost_plugin_api::{
    documents::{Fidelity, OpenRequest},
    sdk::Result,
};

use crate::{
    calibrated::{self, Readers, Reading},
    conversion::{self, Taken},
    importance::{Input, file::Matrix},
    items::{Content, Item},
    options::{Choices, Imatrix},
    recipe::Choice,
};

/// A tensor of the file with all that was decided about it.
pub(crate) struct Decided {
    pub(crate) item: Item,
    pub(crate) choice: Choice,
    /// What is gathered of its columns.
    pub(crate) input: Option<Input>,
    /// How many of its matrices the importance matrix that is read has values for, if it has.
    pub(crate) given: Option<u64>,
    pub(crate) weighed: bool,
    pub(crate) compensated: bool,
    pub(crate) embeds: bool,
    /// What it is to the embedding.
    pub(crate) reading: Option<Reading>,
    pub(crate) taken: Option<Taken>,
    /// What a conversion does to its numbers.
    pub(crate) fidelity: Option<Fidelity>,
}

impl Decided {
    /// Decides about all tensors.
    ///
    /// # Errors
    /// Fails when the importance matrix is of another model.
    pub(crate) fn all(
        items: Vec<Item>,
        made: &[Choice],
        request: &OpenRequest,
        choices: &Choices,
        matrix: Option<&Matrix>,
    ) -> Result<Vec<Self>> {
        let model = &request.model;
        let head = calibrated::head(&items);
        let decided = items.into_iter().zip(made).map(|(mut item, choice)| {
            let conversion = request.conversion.as_ref();
            let block_type = choice.block_type;
            let taken = conversion.and_then(|conversion| conversion::taken(&item, block_type, conversion));
            let fidelity = conversion.map(|_| match &taken {
                Some(taken) => taken.fidelity.clone(),
                None => conversion::of_floats(&item, block_type, model),
            });
            // Before types are chosen, importances do.
            let calibrates = choices.calibration.is_some() && !choices.surveys;
            let embeds = calibrated::is_embedding(&item);
            let reading = if calibrates { Readers::reads(&item, model) } else { None };
            let (mut weighed, mut compensated, mut given) = (false, false, None);
            let input;
            if calibrates && taken.is_none() {
                input = calibrated::input(&item, block_type, head, model);
                compensated = calibrated::is_rounded(block_type) && (embeds || input.is_some());
                if let Content::Weights { unit, .. } = &mut item.content {
                    *unit = calibrated::unit(*unit, input.as_ref(), model);
                }
            } else {
                let uses = block_type.uses_importance() && taken.is_none();
                // Whatever type it gets.
                let measures = choices.surveys && taken.is_none();
                let computed = choices.imatrix == Imatrix::Computed || choices.calibration.is_some();
                input = Input::of(&item, model).filter(|_| computed && (uses || choices.saves || measures));
                if let Some(matrix) = matrix.filter(|_| uses || measures) {
                    let (matrices, columns) = item.matrices();
                    given = matrix.has(&item.name, matrices, columns)?.then_some(matrices);
                }
                weighed = uses && (input.is_some() || given.is_some());
            }
            Ok(Self {
                item,
                choice: choice.clone(),
                input,
                given,
                weighed,
                compensated,
                embeds,
                reading,
                taken,
                fidelity,
            })
        });
        decided.collect()
    }
}
