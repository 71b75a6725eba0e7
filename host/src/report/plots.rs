//! Plots of what was measured, as SVG, in a page or by themselves.

use plotters::{
    chart::{ChartBuilder, ChartContext},
    coord::types::RangedCoordf64,
    drawing::{DrawingAreaErrorKind, IntoDrawingArea},
    element::{Circle, PathElement, Polygon, Rectangle},
    prelude::{Cartesian2d, SVGBackend},
    series::LineSeries,
    style::{Color, IntoFont, RGBColor, TextStyle, WHITE},
};

use crate::evaluate::{LayerError, Moments};

/// Width and height.
const SIZE: (u32, u32) = (760, 320);
const FONT: &str = "system-ui, sans-serif";
const MAIN: RGBColor = RGBColor(0x25, 0x63, 0xeb);
const SECOND: RGBColor = RGBColor(0xd9, 0x77, 0x06);
const TEXT: RGBColor = RGBColor(0x37, 0x41, 0x51);
const GRID: RGBColor = RGBColor(0xe5, 0xe7, 0xeb);

/// Bars of a histogram.
const BARS: usize = 48;
/// Points of a curve over positions, at most.
const POINTS: usize = 64;
/// Divergences below are those of rounding, and all alike: nats.
const LEAST: f64 = 1e-9;

/// Why a plot could not be drawn.
pub(super) type Error = DrawingAreaErrorKind<std::io::Error>;

type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// What is on the axes, and from where to where.
struct Axes<'t> {
    x: (f64, f64),
    y: (f64, f64),
    x_title: &'t str,
    y_title: &'t str,
    x_label: &'t dyn Fn(&f64) -> String,
    /// Lines across.
    x_labels: usize,
}

fn draw(axes: &Axes<'_>, fill: impl FnOnce(&mut Chart<'_, '_>) -> Result<(), Error>) -> Result<String, Error> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&area)
            .margin(12)
            .x_label_area_size(44)
            .y_label_area_size(68)
            .build_cartesian_2d(axes.x.0..axes.x.1, axes.y.0..axes.y.1)?;
        chart
            .configure_mesh()
            .x_desc(axes.x_title)
            .y_desc(axes.y_title)
            .x_labels(axes.x_labels)
            .y_labels(6)
            .x_label_formatter(axes.x_label)
            .y_label_formatter(&|number| short(*number))
            .axis_style(TEXT.mix(0.5))
            .bold_line_style(GRID)
            .light_line_style(GRID.mix(0.0))
            .label_style(text(12))
            .axis_desc_style(text(13))
            .draw()?;
        fill(&mut chart)?;
        area.present()?;
    }
    Ok(svg)
}

fn text(size: u32) -> TextStyle<'static> {
    (FONT, size).into_font().color(&TEXT)
}

/// How divergences are distributed: bars over a logarithmic axis, with the share below as a curve, and marks for the
/// median and for what 99 of 100 do not pass.
#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a plot")]
pub(super) fn divergences(all: &[f32], marks: [(&str, f64); 2]) -> Result<String, Error> {
    let logarithm = |number: f64| number.max(LEAST).log10();
    let numbers: Vec<f64> = all.iter().map(|number| logarithm(f64::from(*number))).collect();
    let (low, high) = bounds(numbers.iter().copied());
    let (low, high) = (low.floor(), high.ceil().max(low.floor() + 1.0));
    let step = (high - low) / BARS as f64;
    let mut counts = vec![0_usize; BARS];
    for number in &numbers {
        counts[(((number - low) / step) as usize).min(BARS - 1)] += 1;
    }
    let shares: Vec<f64> = counts.iter().map(|&count| count as f64 * 100.0 / all.len().max(1) as f64).collect();
    let top = shares.iter().copied().fold(0.0, f64::max).max(1.0) * 1.12;
    let label = |power: &f64| scientific(*power);
    let axes = Axes {
        x: (low, high),
        y: (0.0, top),
        x_title: "divergence of a prediction, nats",
        y_title: "% of predictions (blue)",
        x_label: &label,
        x_labels: (high - low) as usize + 1,
    };
    draw(&axes, |chart| {
        let edge = |index: usize| low + index as f64 * step;
        chart.draw_series(shares.iter().enumerate().filter(|(_, share)| **share > 0.0).map(|(index, share)| {
            Rectangle::new([(edge(index), 0.0), (edge(index + 1), *share)], MAIN.mix(0.75).filled())
        }))?;
        // The curve has the height of the plot for its 100 %.
        let mut below = 0.0;
        let mut curve = vec![(low, 0.0)];
        for (index, share) in shares.iter().enumerate() {
            below += share;
            curve.push((edge(index + 1), below / 100.0 * top / 1.12));
        }
        chart.draw_series(LineSeries::new(curve, SECOND.stroke_width(2)))?;
        for (index, (name, value)) in marks.into_iter().enumerate() {
            let x = logarithm(value);
            chart.draw_series([PathElement::new([(x, 0.0), (x, top)], TEXT.stroke_width(1))])?;
            let place = (x + (high - low) * 0.006, top * (0.985 - index as f64 * 0.06));
            chart.draw_series([plotters::element::Text::new(name.to_owned(), place, text(12))])?;
        }
        Ok(())
    })
}

/// The error of hidden states after each layer.
#[expect(clippy::cast_precision_loss, reason = "a plot")]
pub(super) fn layers(errors: &[LayerError]) -> Result<String, Error> {
    let points: Vec<_> = errors.iter().enumerate().map(|(layer, error)| (layer as f64, error.relative_rms)).collect();
    let top = points.iter().map(|(_, error)| *error).fold(0.0, f64::max);
    let last = errors.len().saturating_sub(1) as f64;
    let label = |layer: &f64| if layer.fract() == 0.0 { format!("{layer:.0}") } else { String::new() };
    let axes = Axes {
        x: (-0.5, last + 0.5),
        y: (0.0, if top > 0.0 { top * 1.12 } else { 1.0 }),
        x_title: "after layer",
        y_title: "relative RMS error",
        x_label: &label,
        x_labels: errors.len().clamp(2, 24),
    };
    draw(&axes, |chart| {
        chart.draw_series(LineSeries::new(points.iter().copied(), MAIN.stroke_width(2)))?;
        chart.draw_series(points.iter().map(|&point| Circle::new(point, 3, MAIN.filled())))?;
        Ok(())
    })
}

/// Means of numbers by the place in the window, with twice their standard errors as a band.
pub(super) fn by_context(numbers: &[(u32, f64)], y_title: &str) -> Result<String, Error> {
    let points = binned(numbers);
    let (first, last) = bounds(points.iter().map(|(context, _)| *context));
    let spread = |moments: &Moments| 2.0 * moments.standard_error;
    let (low, high) =
        bounds(points.iter().flat_map(|(_, moments)| [moments.mean - spread(moments), moments.mean + spread(moments)]));
    let room = ((high - low) * 0.08).max(1e-6);
    let label = |context: &f64| format!("{context:.0}");
    let axes = Axes {
        x: (first, last.max(first + 1.0)),
        y: (low - room, high + room),
        x_title: "tokens before",
        y_title,
        x_label: &label,
        x_labels: 10,
    };
    draw(&axes, |chart| {
        let above = points.iter().map(|(context, moments)| (*context, moments.mean + spread(moments)));
        let below = points.iter().rev().map(|(context, moments)| (*context, moments.mean - spread(moments)));
        chart.draw_series([Polygon::new(above.chain(below).collect::<Vec<_>>(), MAIN.mix(0.18))])?;
        if low < 0.0 && high > 0.0 {
            chart.draw_series([PathElement::new([(axes.x.0, 0.0), (axes.x.1, 0.0)], TEXT.stroke_width(1))])?;
        }
        let line = points.iter().map(|(context, moments)| (*context, moments.mean));
        chart.draw_series(LineSeries::new(line, MAIN.stroke_width(2)))?;
        Ok(())
    })
}

/// Numbers of neighbouring places together.
#[expect(clippy::cast_precision_loss, reason = "a plot")]
fn binned(numbers: &[(u32, f64)]) -> Vec<(f64, Moments)> {
    let least = numbers.iter().map(|(context, _)| *context).min().unwrap_or(0);
    let most = numbers.iter().map(|(context, _)| *context).max().unwrap_or(0);
    let width = (most - least) as usize / POINTS + 1;
    let mut bins: Vec<(Vec<f64>, Vec<f64>)> = vec![Default::default(); POINTS];
    for (context, number) in numbers {
        if let Some((places, bin)) = bins.get_mut((context - least) as usize / width) {
            places.push(f64::from(*context));
            bin.push(*number);
        }
    }
    let filled = bins.into_iter().filter(|(places, _)| !places.is_empty());
    filled
        .map(|(places, bin)| (places.iter().sum::<f64>() / places.len() as f64, Moments::of(bin.iter().copied())))
        .collect()
}

fn bounds(numbers: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) =
        numbers.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), number| (low.min(number), high.max(number)));
    if low <= high { (low, high) } else { (0.0, 1.0) }
}

/// `0.001` for −3, and only whole powers of ten.
fn scientific(power: f64) -> String {
    match power {
        power if (power - power.round()).abs() > 1e-6 => String::new(),
        power if (-3.0..=3.0).contains(&power) => format!("{}", 10_f64.powf(power.round())),
        power => format!("1e{power:.0}"),
    }
}

/// A number at an axis.
fn short(number: f64) -> String {
    match number.abs() {
        0.0 => "0".into(),
        size if !(1e-3..1e5).contains(&size) => format!("{number:.1e}"),
        size if size < 0.1 => format!("{number:.4}"),
        size if size < 10.0 => format!("{number:.2}"),
        _ => format!("{number:.1}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_put_together_and_none_is_lost() {
        let numbers: Vec<_> = (1..=511).flat_map(|context| [(context, 1.0), (context, 3.0)]).collect();
        let bins = binned(&numbers);
        assert!(bins.len() <= POINTS);
        assert_eq!(bins.iter().map(|(_, moments)| moments.count).sum::<usize>(), numbers.len());
        assert!(bins.iter().all(|(_, moments)| (moments.mean - 2.0).abs() < 1e-12));
        assert!((bins[0].0 - 4.5).abs() < 1e-12, "{}", bins[0].0);
    }

    #[test]
    fn plots_of_nothing_and_of_equal_numbers_can_be_drawn() {
        let same = LayerError { relative_rms: 0.0, cosine: 1.0 };
        for svg in [
            divergences(&[], [("median", 0.0), ("99 %", 0.0)]),
            divergences(&[0.0; 9], [("median", 0.0), ("99 %", 0.0)]),
            divergences(&[0.1, 20.0], [("median", 1.0), ("99 %", 19.0)]),
            layers(&[]),
            layers(&[same, same]),
            by_context(&[], "loss"),
            by_context(&[(1, 2.0), (1, 2.0)], "loss"),
        ] {
            let svg = svg.unwrap();
            assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"), "{svg}");
            assert!(!svg.contains("NaN"), "{svg}");
        }
    }

    #[test]
    fn labels_are_short() {
        let labels = [0.0, 0.000_123, 0.0123, 1.5, 123.0, 1e6].map(short);
        assert_eq!(labels, ["0", "1.2e-4", "0.0123", "1.50", "123.0", "1.0e6"]);
        assert_eq!([-9.0, -2.0, 0.5, 1.0].map(scientific), ["1e-9", "0.01", "", "10"]);
    }
}
