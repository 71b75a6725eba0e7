//! A format that packs nothing: codes and zeros are bytes. Its options say whether inputs are divided, and by what.

use std::borrow::Cow;

use qhost_folder::Object;
use qhost_linears::{
    Calibration, Contents, Difference, Effort, Hints, Inputs, Level, Module, Multiples, Part, Placement, Selection,
    Settings, Substitutes, bad, bad_scale, by_conditioning, by_inputs, check, check_head, check_host, check_source,
    copy, curvature, fetch, in_memory, memory, one_of, refuse_infinite, round, scale_columns, tell, units,
};
use qhost_plugin_api::{
    documents::{Description, Findings, FormatDescription, OpenRequest, Output, Plan, Statistic, UnitOrder},
    sdk::{FilesHandle, Format, FormatJob, HostHandle, Result, UnitHandle},
};

/// The format.
pub(crate) struct Toy(HostHandle);

/// What inputs are divided by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Divided {
    By(i32),
    ByTurns,
}

/// The options.
struct Choices {
    settings: Settings,
    calibration: Calibration,
    head: bool,
    left_out: Vec<String>,
    divided: Option<Divided>,
}

impl Selection for Choices {
    fn quantises_head(&self) -> bool {
        self.head
    }

    fn settings(&self, module: &str) -> Result<Option<Settings>> {
        let left_out = self.left_out.iter().any(|end| module.ends_with(end.as_str()));
        Ok((!left_out).then_some(self.settings))
    }

    fn multiples(&self, _: Settings) -> Multiples {
        Multiples { rows: 16, columns: 1 }
    }

    fn hints(&self) -> Hints {
        Hints {
            some_experts: "all or none",
            nothing: "leave fewer out",
            stored_otherwise: "not those",
            leave_one: "leave it out",
            leave_some: "leave them out",
            own_groups: "the same for all",
        }
    }
}

fn parts(module: &Module) -> Vec<Part> {
    let (rows, columns, groups) = (module.rows, module.columns, module.groups());
    vec![
        Part::codes("codes", "U8", vec![rows, columns], module),
        Part::beside("scales", "F16", vec![rows, groups]),
        Part::beside("zeros", "U8", vec![rows, groups]),
    ]
}

/// A planned folder.
pub(crate) struct ToyJob {
    host: HostHandle,
    plan: Plan,
    choices: Choices,
    placement: Placement,
    contents: Contents,
}

impl Format for Toy {
    type Job = ToyJob;

    fn connect(host: HostHandle) -> Result<Self> {
        Ok(Self(host))
    }

    fn describe(&self) -> Description {
        Description::new(vec![FormatDescription::new("toy", Vec::new())])
    }

    fn open(&self, request: OpenRequest, files: FilesHandle) -> Result<ToyJob> {
        let level = Level { bits: 4, group_size: Some(32) }.with_flags(&request.options, false)?;
        let (bits, group_size) = (level.bits, level.group_size);
        let effort = Effort::read(request.options.effort.as_deref())?;
        let mut choices = Choices {
            settings: Settings { bits, group_size, symmetric: false, act_order: false },
            calibration: Calibration { effort, corrects: effort == Effort::Best, ..Calibration::default() },
            head: false,
            left_out: Vec::new(),
            divided: None,
        };
        for (key, value) in &request.options.plugin {
            match key.as_str() {
                "head" => choices.head = one_of(key, value, &[("true", true), ("false", false)])?,
                "leave" => choices.left_out = value.split(',').map(str::to_owned).collect(),
                "divided" => {
                    let names =
                        [("by-half", Divided::By(-1)), ("by-two", Divided::By(1)), ("by-turns", Divided::ByTurns)];
                    choices.divided = Some(one_of(key, value, &names)?);
                }
                _ if choices.calibration.set(key, value)? => {}
                _ => return Err(bad(key, value)),
            }
        }
        let model = &request.model;
        check_host(self.0.facts(), "the toy", &choices.calibration)?;
        if choices.head {
            check_head(model, "--plugin-option head")?;
        }
        check_source(model)?;
        let mut contents = Contents::of(model, &choices)?;
        let placement = Placement::of(&mut contents.items, parts, 40_000)?;
        let mut plan = Plan::new("toy", level.name(), Output::folder("-toy"));
        plan.files = placement.files();
        plan.segments = placement.segments(&contents.items, Effort::Default, 1.0, false);
        plan.units = units(model, &contents, &choices.calibration, |_| 0);
        plan.order = UnitOrder::Sequential;
        plan.companions =
            placement.small_files(Some(&Object::default()), Some(("toy.json", &Object::default())), &files)?;
        Ok(ToyJob { host: self.0.clone(), plan, choices, placement, contents })
    }
}

impl ToyJob {
    /// By how much the weights of each input are multiplied, and what its values are multiplied with.
    fn factors(&self, module: &Module) -> Option<[Vec<f32>; 2]> {
        let divided = self.choices.divided?;
        let power = |column: u64| match divided {
            Divided::By(power) => power,
            Divided::ByTurns => i32::try_from(column % 5).unwrap_or(0) - 2,
        };
        Some([1, -1].map(|sign| (0..module.columns).map(|column| 2_f32.powi(sign * power(column))).collect()))
    }

    fn make(&self, io: &UnitHandle, module: &Module, inputs: &Inputs<'_>) -> Result<Vec<f32>> {
        let mut weights = vec![0.0; in_memory(module.weights())?];
        fetch(io, module, &mut weights)?;
        let factors = self.factors(module);
        let columns = factors.as_ref().map(|[_, columns]| columns.as_slice());
        if let Some([scales, _]) = &factors {
            scale_columns(&mut weights, scales);
        }
        let originals = weights.clone();
        if let Some((difference, factor)) = inputs.difference {
            difference.correct(io, (inputs.curvature, factor), columns, &mut weights)?;
            let mut target = weights.clone();
            if let Some(columns) = columns {
                scale_columns(&mut target, columns);
            }
            io.save(&module.name, &target.iter().flat_map(|weight| weight.to_le_bytes()).collect::<Vec<_>>())?;
        }
        let search = self.choices.calibration.effort.search();
        let originals = inputs.difference.map(|_| originals.as_slice());
        let made = round(io, module, inputs.curvature, search, (originals, columns), &mut weights)?;
        refuse_infinite(module, &made.rounded, "leave it out")?;
        let scales: Vec<_> = made.rounded.scales.iter().flat_map(|scale| scale.to_le_bytes()).collect();
        for (part, bytes) in (0..).zip([&made.rounded.codes, &scales, &made.rounded.zeros]) {
            io.write(module.first_segment + part, 0, bytes)?;
        }
        tell(io, self.choices.calibration.damp, (module.first_segment, &module.name), inputs, made.sums);
        if let Some(columns) = columns {
            scale_columns(&mut weights, columns);
        }
        Ok(weights)
    }
}

impl FormatJob for ToyJob {
    fn plan(&self) -> &Plan {
        &self.plan
    }

    fn constant(&self, segment: u32) -> Result<Cow<'_, [u8]>> {
        self.placement.constant(segment)
    }

    fn run_unit(&self, unit: u32, io: &UnitHandle) -> Result<()> {
        let Self { choices, contents, .. } = self;
        let kept: Vec<_> = contents.kept().filter(|kept| kept.unit == unit).collect();
        copy(io, &kept)?;
        let modules: Vec<_> = contents.modules().filter(|module| module.unit == unit).collect();
        let (own, _) = memory(&modules, choices.calibration.corrects, |_| 0);
        let _grant = io.host().grant(own, "quantising")?;
        let mut substitutes = Substitutes::default();
        for (group, of_group) in by_inputs(&modules) {
            for (expert, modules) in of_group {
                let answer = io.statistic(group.clone(), Statistic::Gram, expert)?;
                let corrects = choices.calibration.corrects;
                let difference = corrects.then(|| Difference::of(io, &group, expert)).transpose()?;
                for (how, modules) in by_conditioning(&modules, choices.calibration.damp)? {
                    let factors = modules.first().and_then(|module| self.factors(module));
                    let columns = factors.as_ref().map(|[_, columns]| columns.as_slice());
                    let (curvature, factor) = curvature(io, &answer, &how, (columns, None), corrects)?;
                    let difference = difference.as_ref().zip(factor.as_ref());
                    let inputs = Inputs { answer: &answer, curvature: &curvature, difference };
                    for module in modules {
                        let weights = self.make(io, module, &inputs)?;
                        substitutes.put(io, module, &weights)?;
                    }
                }
            }
            substitutes.hand_over(io)?;
        }
        Ok(())
    }

    fn check(&self, files: &FilesHandle) -> Result<Findings> {
        let modules: Vec<_> = self.contents.modules().collect();
        check(files, &self.placement, &modules, &self.host, |module, read| Ok(bad_scale(&read(1)?, module)))
    }
}
